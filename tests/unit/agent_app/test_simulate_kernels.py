"""Which kernels the nodes of `liveroll-agent simulate` have."""

from __future__ import annotations

import pytest

from node_agent.cli import build_parser
from node_agent.kernel.emulated.image import RFC2, SESSIONS, EmulatedImage
from node_agent.settings import InvalidSettings
from node_agent.simulate_options import SimulateOptions, read_options


def read(*arguments: str) -> SimulateOptions:
    words = ("simulate", "--orchestrator", "127.0.0.1:1", "--nodes", "8", *arguments)
    return read_options(build_parser().parse_args(words))


def images(options: SimulateOptions, release: str) -> list[EmulatedImage]:
    """That release's, on each node."""
    return [options.kernels.of(node.luo_model).named(release) for node in options.nodes]


def test_a_fleet_is_of_the_merged_model_unless_it_is_told() -> None:
    options = read()
    assert {image.model for image in images(options, "9.9")} == {SESSIONS}
    assert {node.labels["luo_model"] for node in options.nodes} == {SESSIONS}


def test_models_are_given_out_in_turn_after_releases_and_hardware() -> None:
    options = read("--luo-model", "sessions,rfc-v2/notifier", "--releases", "7.1,7.2", "--models", "x,y")
    kinds = [(node.labels["luo_model"], node.model, node.release) for node in options.nodes]
    assert kinds[:5] == [
        ("sessions", "x", "7.1"),
        ("sessions", "x", "7.2"),
        ("sessions", "y", "7.1"),
        ("sessions", "y", "7.2"),
        ("rfc-v2", "x", "7.1"),
    ]
    assert len(set(kinds)) == 8
    target = images(options, "9.9")
    assert [image.model for image in target] == [SESSIONS] * 4 + [RFC2] * 4
    assert {image.coupling for image in target[4:]} == {"notifier"}


def test_a_release_of_one_model_is_that_on_every_node() -> None:
    options = read("--luo-model", "sessions,rfc-v2", "--image", "9.9=rfc-v2/notifier+panics")
    for image in images(options, "9.9"):
        assert image == EmulatedImage.rfc2("9.9", coupling="notifier", panics=True)
    assert read("--releases", "9.9", "--image", "9.9=rfc-v2").nodes[0].labels["luo_model"] == RFC2


def test_a_release_without_a_model_is_of_its_nodes() -> None:
    options = read("--luo-model", "sessions,rfc-v2", "--image", "9.9=panics", "--image", "9.9=unhealthy")
    assert [image.model for image in images(options, "9.9")] == [SESSIONS, RFC2] * 4
    assert all(image.panics for image in images(options, "9.9"))
    assert options.kernels.unhealthy == {"9.9"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--luo-model", "rfc-v3"), "'rfc-v3' is no model of LUO: models are sessions, rfc-v2"),
        (("--luo-model", ","), "names nothing"),
        (("--image", "9.9=rfc-v2+ugly"), "'9.9=rfc-v2+ugly' is not RELEASE=TRAIT"),
        (("--image", "=rfc-v2"), "'=rfc-v2' is not RELEASE=TRAIT"),
        (("--image", "9.9=rfc-v2", "--image", "9.9=sessions"), "9.9 is given two models of LUO"),
        (("--image", "9.9=rfc-v2/notifier+rfc-v2/luo-driven"), "9.9 is given two models of LUO"),
    ],
)
def test_what_is_no_kernel_is_named(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        read(*arguments)
    said = " ".join(f"{v.problem}: {v.remedy}" for v in raised.value.violations)
    assert words in said
