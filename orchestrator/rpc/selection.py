"""Which nodes a request is about, and pages of long lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from orchestrator.core.fleet import Fleet
from orchestrator.core.selectors import parse
from orchestrator.errors import InvalidSpec, NotFound, Violation
from orchestrator.wire.check import Checker
from orchestrator.wire.spec_in import MAX_SELECTOR


def matching_nodes(fleet: Fleet, selector: str, rollout: str) -> Set[str]:
    """Ids of the nodes that the selector matches, of a rollout's members or of the whole fleet.

    Raises: InvalidSpec for a selector that cannot be read, NotFound for an unknown rollout.
    """
    check = Checker()
    text = check.name(selector.strip(), "selector", required=False, most=MAX_SELECTOR)
    name = check.name(rollout, "rollout", required=False)
    check.done()
    wanted = parse(text)
    found: Iterable[str] = fleet.nodes
    if name:
        row = fleet.rollout_named(name)
        if row is None:
            raise NotFound(f"there is no rollout {name!r}", remedy="`liveroll list` names those there are")
        found = fleet.members(row.rollout_id)
    return {n for n in found if n in fleet.nodes and wanted.matches(fleet.nodes[n].labels)}


def page_of(names: Sequence[str], size: int, token: str, usual: int, most: int) -> tuple[Sequence[str], str]:
    """One page, and the token of the next ("" at the end). A token is the last name shown.

    Raises: InvalidSpec for a size over `most`, or a token that is not of this list.
    """
    if size > most:
        raise InvalidSpec([Violation("page_size", f"it is {size}", f"Use at most {most}.")])
    start = 0
    if token:
        try:
            start = names.index(token) + 1
        except ValueError as error:
            raise InvalidSpec(
                [Violation("page_token", "it is not of this list any more", "Begin again without a token.")]
            ) from error
    page = names[start : start + (size or usual)]
    return page, page[-1] if page and start + len(page) < len(names) else ""
