"""The last JumpIntent of a journal, without the journal.

Rules:
- the format is runtime/journal_format.py's: magic, then records of u32 length, u32 crc32 (both
  little-endian) and a JSON payload `{"seq":…,"kind":…,"body":{…}}`;
- what is torn ends the reading; what is damaged from the JumpIntent on gives none at all: nothing
  is guessed here. Damage before it is the full agent's to find: that must not keep memory away
  from its workloads;
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
_BEGIN = b'{"seq":'
_MARK = b'"kind":"' + KIND.encode() + b'"'
_BEGIN_BYTES_MAX = 32
"""From the payload's begin to the mark: a seq of up to 20 digits."""


class JumpIntent:
    """What the old kernel's agent meant to do. `body` is the whole record's.

    sessions: workload → session name.
    tokens: session name → its token → the kernel's; empty where the kernel knows sessions, and in a
        record of an agent that did not.
    """

    __slots__ = ("agent_session", "attempt", "bindings", "body", "boot_id", "sessions", "tokens")

    def __init__(self, body: Mapping[str, object]) -> None:
        """Raises ValueError if a key is missing or of the wrong type."""
        self.body = body
        self.attempt = _text(body, "attempt")
        self.agent_session = _text(body, "agent_session")
        self.boot_id = _text(body, "boot_id")
        self.sessions = {id: _text(_table(body, "sessions"), id) for id in _table(body, "sessions")}
        self.bindings = {id: _table(_table(body, "bindings"), id) for id in _table(body, "bindings")}
        told = _table(body, "tokens") if "tokens" in body else {}
        self.tokens = {
            name: {int(mine): _token(_table(told, name), mine) for mine in _table(told, name)}
            for name in told
        }


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


def holds_jump(journal: bytes) -> bool:
    """Is there a whole JumpIntent? If not in a journal's tail, which may begin in the midst of one, its
    beginning matters."""
    return _last_intent(journal) >= 0


def _payloads(journal: bytes) -> list[bytes]:
    """The payloads from the last JumpIntent on; none if any of them is damaged."""
    if journal[: len(MAGIC)] != MAGIC:
        return []
    found: list[bytes] = []
    offset, end = _last_intent(journal), len(journal)
    while offset >= 0 and offset + HEADER_BYTES <= end:
        length, checksum = _header(journal, offset)
        start = offset + HEADER_BYTES
        if length == 0 or start + length > end:
            break
        payload = journal[start : start + length]
        if length > MAX_PAYLOAD_BYTES or zlib.crc32(payload) != checksum:
            torn = payload.endswith(b"\0") and not journal[start + length :].strip(b"\0")
            return found if torn and length <= MAX_PAYLOAD_BYTES else []
        found.append(payload)
        offset = start + length
    return found


def _last_intent(journal: bytes) -> int:
    """Where the last whole JumpIntent begins, looked for from the end: reading every record of a
    long journal takes a slow machine a tenth of a second. -1 if there is none."""
    at = len(journal)
    while (at := journal.rfind(_MARK, 0, at)) >= 0:
        start = journal.rfind(_BEGIN, max(0, at - _BEGIN_BYTES_MAX), at)
        offset = start - HEADER_BYTES
        if offset >= len(MAGIC):
            length, checksum = _header(journal, offset)
            payload = journal[start : start + length]
            if length == len(payload) and zlib.crc32(payload) == checksum:
                return offset
    return -1


def _header(journal: bytes, offset: int) -> tuple[int, int]:
    """(length, checksum)."""
    return (
        int.from_bytes(journal[offset : offset + 4], "little"),
        int.from_bytes(journal[offset + 4 : offset + 8], "little"),
    )


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


def _token(body: Mapping[str, object], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(key)
    return value


def _table(body: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = body.get(key)
    if not isinstance(value, dict):
        raise ValueError(key)  # noqa: TRY004 - a damaged record, no caller's mistake
    return value
