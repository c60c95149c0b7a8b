"""Which kernel sources the lab takes from what the mirrors offer."""

from __future__ import annotations

import pytest

from deploy.lab.errors import LabError
from deploy.lab.offers import Choice, Offer, choose, parse_madison

LISTING = """\
linux-source-7.3 | 7.3.4-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-source-7.3 | 7.3~rc7-1~exp1 | http://mirror.example/debian experimental/main amd64 Packages
linux-source-7.2 |   7.2.13-1 | http://mirror.example/debian sid/main amd64 Packages
linux-source-7.2 |   7.2.9-1~bpo13+1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-source-6.12 | 6.12.48-1 | http://mirror.example/debian sid/main amd64 Packages
linux-source |   7.2.13-1 | http://mirror.example/debian sid/main amd64 Packages
N: a note of apt's
"""


def offers(*versions: str) -> list[Offer]:
    """Each version in the package of its series."""
    return [Offer(f"linux-source-{'.'.join(v.split('~')[0].split('.')[:2])}", v) for v in versions]


def test_the_newest_and_the_newest_of_the_next_lower_series_are_chosen() -> None:
    choice = choose(parse_madison(LISTING))
    assert choice.newer == Offer("linux-source-7.3", "7.3.4-1~bpo13+1")
    assert choice.base == Offer("linux-source-7.2", "7.2.13-1")


def test_numbers_are_compared_as_numbers() -> None:
    choice = choose(offers("7.9.1-1", "7.10.2-1", "7.10.11-1"))
    assert choice == Choice(*offers("7.9.1-1", "7.10.11-1"))


def test_one_series_gives_no_newer_kernel() -> None:
    assert choose(offers("7.2.13-1", "7.2.12-1")) == Choice(*offers("7.2.13-1"), None)


def test_a_candidate_counts_only_without_a_release() -> None:
    assert choose(offers("7.3~rc7-1~exp1", "7.2.13-1")) == Choice(*offers("7.2.13-1"))
    assert choose(offers("7.3~rc7-1~exp1", "7.3~rc6-1~exp1")).base.version == "7.3~rc7-1~exp1"


def test_the_packages_without_a_number_of_a_series_are_skipped() -> None:
    assert all(offer.package != "linux-source" for offer in parse_madison(LISTING))


@pytest.mark.parametrize("versions", [(), ("6.12.48-1",), ("6.18.9-1", "6.1.2-1")])
def test_sources_without_sessions_are_refused(versions: tuple[str, ...]) -> None:
    with pytest.raises(LabError) as caught:
        choose(offers(*versions))
    assert caught.value.reason == "NO_SOURCE"
    assert caught.value.remedy


def test_a_key_is_a_plain_name_for_a_folder() -> None:
    assert Offer("linux-source-7.3", "7.3.4-1~bpo13+1").key == "linux-source-7.3_7.3.4-1_bpo13_1"
