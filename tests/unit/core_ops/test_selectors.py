from __future__ import annotations

import pytest

from orchestrator.core.selectors import parse, unknown
from orchestrator.errors import InvalidSpec

LABELS = {"pool": "prod", "zone": "a"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("pool=prod", True),
        ("pool==prod", True),
        ("pool=test", False),
        ("pool!=test", True),
        ("pool!=prod", False),
        ("tier!=db", True),
        ("zone in (a,b)", True),
        ("zone in ( b )", False),
        ("zone notin (a)", False),
        ("tier notin (db)", True),
        ("pool", True),
        ("gpu", False),
        ("!gpu", True),
        ("! pool", False),
        (" pool = prod , zone in (a, b), !gpu ", True),
        ("pool=prod,zone=b", False),
    ],
)
def test_matching(text: str, matches: bool) -> None:
    assert parse(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("=a", "column 1: expected a label's name, found '='"),
        ("a=", "column 3: expected a value at the end"),
        ("a in b", "column 6: expected '('"),
        ("a in (", "column 7: expected a value at the end"),
        ("a in (b", "column 8: expected ')'"),
        ("a in ()", "column 7: expected a value, found ')'"),
        ("a b", "column 3: expected a comma before 'b'"),
        ("a,", "column 3: expected a label's name at the end"),
        ("a, ,b", "column 4: expected a label's name, found ','"),
        ("a$b", "column 2: unexpected '$'"),
        ("!", "column 2: expected a label's name at the end"),
    ],
)
def test_errors_name_the_column(text: str, problem: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text, "waves[1].selector")
    (violation,) = caught.value.violations
    assert (violation.path, violation.problem) == ("waves[1].selector", problem)
    assert "pool=prod" in violation.remedy


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("zone=zone-a", []),
        ("zone=zone-x", ["no node has zone=zone-x"]),
        ("zome=zone-a", ["no node has a label zome"]),
        ("nothing", ["no node has a label nothing"]),
        ("!nothing", []),
        ("!zome", ["no node has a label zome"]),
        ("zone!=q", []),
        ("zone!=zone-c", ["no node has zone=zone-c"]),
        ("zone in (zone-a,zone-q)", ["no node has zone=zone-q"]),
        ("", []),
    ],
)
def test_what_no_node_has(text: str, problems: list[str]) -> None:
    labels = [{"zone": "zone-a"}, {"zone": "zone-b"}]
    assert [v.problem for v in unknown(parse(text), labels, "selector")] == problems


def test_near_misses_are_suggested() -> None:
    (one,) = unknown(parse("zone=zone-x"), [{"zone": "zone-a"}], "s")
    assert one.remedy == "Did you mean zone-a?"
    (two,) = unknown(parse("rack=1"), [{"zone": "a"}], "s")
    assert two.remedy == "Labels that nodes have: zone."
    (three,) = unknown(parse("rack"), [], "s")
    assert three.remedy == "Labels that nodes have: none yet."
    (four,) = unknown(parse("z=q"), [{"z": f"{i:02}"} for i in range(12)], "s")
    assert four.remedy.endswith("09 and 2 more.")
