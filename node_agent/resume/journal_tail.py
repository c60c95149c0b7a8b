"""The last JumpIntent of a journal, without the journal.

Rules:
- the format is runtime/journal_format.py's: magic, then records of u32 length, u32 crc32 (both
  little-endian) and a JSON payload `{"seq":…,"kind":…,"body":{…}}`;
- what is torn ends the reading; what is damaged gives no JumpIntent at all: the full agent finds
  the damage again and quarantines, nothing is guessed here;
- a JumpIntent counts only while no later record has moved its attempt out of JUMPING.
"""

from __future__ import annotations

import zlib

from node_agent.resume.words import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"LRJRNL01"
HEADER_BYTES = 8
MAX_PAYLOAD_BYTES = 1 << 20
KIND = "jump_intent"


class JumpIntent:
    """What the old kernel's agent meant to do. `body` is the whole record's."""

    __slots__ = ("agent_session", "attempt", "bindings", "body", "boot_id", "sessions")

    def __init__(self, body: Mapping[str, object]) -> None:
        """Raises ValueError if a key is missing or of the wrong type."""
        self.body = body
        self.attempt = _text(body, "attempt")
        self.agent_session = _text(body, "agent_session")
        self.boot_id = _text(body, "boot_id")
        self.sessions = session_names(body)
        self.bindings = {id: _table(_table(body, "bindings"), id) for id in _table(body, "bindings")}


def session_names(body: Mapping[str, object]) -> dict[str, str]:
    """Workload → session name. Raises ValueError like JumpIntent."""
    return {id: _text(_table(body, "sessions"), id) for id in _table(body, "sessions")}


def read_last_jump(journal: bytes) -> JumpIntent | None:
    """The JumpIntent under way, or None."""
    found: JumpIntent | None = None
    for payload in _payloads(journal):
        record = scan(payload)
        body = record.get("body")
        if not isinstance(body, dict):
            return None
        if record.get("kind") == KIND:
            try:
                found = JumpIntent(body)
            except ValueError:
                return None
        elif _settles(body):
            found = None
    return found


def _payloads(journal: bytes) -> list[bytes]:
    """The payloads from the last JumpIntent on; none if anything is damaged."""
    if journal[: len(MAGIC)] != MAGIC:
        return []
    mark = b'"kind":"' + KIND.encode() + b'"'
    found: list[bytes] = []
    offset, end = len(MAGIC), len(journal)
    while offset + HEADER_BYTES <= end:
        length = int.from_bytes(journal[offset : offset + 4], "little")
        checksum = int.from_bytes(journal[offset + 4 : offset + 8], "little")
        start = offset + HEADER_BYTES
        if length == 0 or start + length > end:
            break
        payload = journal[start : start + length]
        if length > MAX_PAYLOAD_BYTES or zlib.crc32(payload) != checksum:
            torn = payload.endswith(b"\0") and not journal[start + length :].strip(b"\0")
            return found if torn and length <= MAX_PAYLOAD_BYTES else []
        # A cheap look first: only what follows the last JumpIntent is worth parsing.
        if mark in payload[:64]:
            found = [payload]
        elif found:
            found.append(payload)
        offset = start + length
    return found


def _settles(body: Mapping[str, object]) -> bool:
    """Does this record show the node elsewhere than in the jump?"""
    node = body.get("node")
    if not isinstance(node, dict):
        return False
    attempt = node.get("attempt")
    return not isinstance(attempt, dict) or attempt.get("phase") != "JUMPING"


def _text(body: Mapping[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise ValueError(key)  # noqa: TRY004 - a damaged record, no caller's mistake
    return value


def _table(body: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = body.get(key)
    if not isinstance(value, dict):
        raise ValueError(key)  # noqa: TRY004 - a damaged record, no caller's mistake
    return value
