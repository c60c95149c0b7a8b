"""The words that a workload and the node's broker exchange, as bytes and as values.

Newline-delimited JSON on a SOCK_STREAM Unix socket; session fds travel by SCM_RIGHTS with
the event that speaks of them. Commands go from the workload to the broker, events back.

luo-agent's own words (a client that knows only these works unchanged):

    → {"cmd":"SUBSCRIBE","id":"vm-1"}
    ← {"event":"START_PRESERVATION"}                  + session fd
    → {"cmd":"READY"}
    … kexec, the client connects again …
    → {"cmd":"CLAIM","id":"vm-1"}
    ← {"event":"CLAIMED","id":"vm-1"}                 + session fd

Additions, sent only to a client whose SUBSCRIBE or CLAIM has "extensions":["suspend"]:

    ← {"event":"SUBSCRIBED","id":"vm-1"}
    ← {"event":"SUSPEND"}    → {"cmd":"SUSPENDED"}    stop; the blackout begins
    ← {"event":"RESUME"}     → {"cmd":"RUNNING"}      it runs; may be left out
                             → {"cmd":"RESUMED", …}   with the pause as the workload saw it
    ← {"event":"RELEASE"}    → {"cmd":"RELEASED"}     unwound: close your copy of the session fd

A workload that cannot be preserved says so instead of READY; it may always, extension or not:

    → {"cmd":"FAILED","id":"vm-1","error":"PRESERVE_FD: ENOENT"}

Either side may say ERROR with a reason and a message: the broker's answer to a command it
refuses (a breach of protocol is cut off after it), the workload's refusal of what was asked.

Rules: a line has at most MAX_LINE_BYTES; keys that a later version may add are ignored, the
keys named here are checked strictly; a line that breaks a rule raises BrokerError with the
reason MALFORMED, LINE_TOO_LONG, UNKNOWN_COMMAND, UNKNOWN_EVENT or INVALID_FIELD.

Source: soleen/luo-agent's documented protocol, for the names of luo-agent's own words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from node_agent.errors import BrokerError, Retry

if TYPE_CHECKING:
    from node_agent.ports import WorkloadPause

MAX_LINE_BYTES = 4096
"""Longest line with its newline: the longest legal one is under 1 KiB, so beyond is an attack."""

MAX_ID_CHARS = 32
"""With `lr.` and an attempt of up to 27 characters this fits LUO's 63-byte session names."""

MAX_SESSION_NAME_BYTES = 63
"""Source: LIVEUPDATE_SESSION_NAME_LENGTH is 64 with the NUL."""

MAX_SECONDS = 1e7
"""Longest pause that is believed, four months: beyond it a clock was set."""

MAX_TEXT_CHARS = 512
"""Bound of a free text (message, rejected) that is logged or reported."""

RESERVED_IDS = frozenset({"agent"})
"""`lr.<attempt>.agent` is the agent's own session (core.model.AttemptRef.agent_session)."""

SUSPEND_EXTENSION = "suspend"

_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ID_CHARS}}}")
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Take part in live updates as `id`.

    suspended: the workload stands still on the word of an earlier broker and awaits RESUME.
    """

    id: str
    extensions: frozenset[str] = frozenset()
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """After a kexec: hand back the session of `id`."""

    id: str
    extensions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything to be preserved is in the session."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be preserved. error: why, with the errno's name where there is one."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The workload stands still."""


@dataclass(frozen=True, slots=True)
class Running:
    """The workload runs again; its RESUMED will take a while."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The workload runs again; what it measured. Units: seconds, bytes.

    clock: empty if the workload does not measure.
    """

    duration_s: float = 0.0
    uncertainty_s: float = 0.0
    clock: str = ""
    memory_intact: bool | None = None
    bytes_checked: int = 0
    rejected: str = ""

    def pause(self, workload: str) -> WorkloadPause:
        """The sample as ports.Workloads reports it; unmeasured ones are rejected, never zero."""
        # A workload never calls this, and must not wait for the import after a kexec.
        from node_agent.ports import WorkloadPause

        return WorkloadPause(
            workload=workload,
            duration_s=self.duration_s,
            uncertainty_s=self.uncertainty_s,
            clock=self.clock,
            memory_intact=self.memory_intact,
            bytes_checked=self.bytes_checked,
            rejected=self.rejected or ("" if self.clock else "the workload did not measure its pause"),
        )


@dataclass(frozen=True, slots=True)
class Released:
    """The workload has closed its copy of the session."""


@dataclass(frozen=True, slots=True)
class Error:
    """A refusal, in either direction."""

    reason: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription stands."""

    id: str


@dataclass(frozen=True, slots=True)
class StartPreservation:
    """Preserve your fds in the session that comes with this, then say READY."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The session of `id` comes with this."""

    id: str


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stand still."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Run."""


@dataclass(frozen=True, slots=True)
class Release:
    """The session is given up: close your copy."""


Command = Subscribe | Claim | Ready | Failed | Suspended | Running | Resumed | Released | Error
Event = Subscribed | StartPreservation | Claimed | Suspend | Resume | Release | Error


def session_name(attempt: str, workload: str) -> str:
    """The LUO session of one workload in one attempt, the only place where it is composed.

    Raises BrokerError (SESSION_NAME_TOO_LONG).
    """
    name = f"lr.{attempt}.{workload}"
    if len(name.encode()) > MAX_SESSION_NAME_BYTES:
        raise BrokerError(
            f"session name {name!r} is longer than {MAX_SESSION_NAME_BYTES} bytes",
            reason="SESSION_NAME_TOO_LONG",
            retry=Retry.NEVER,
            workload=workload,
        )
    return name


def valid_id(text: str) -> bool:
    """May this name a workload?"""
    return _ID.fullmatch(text) is not None and text not in RESERVED_IDS


def parse_command(line: bytes) -> Command:
    """What a workload said. Raises BrokerError, see the module."""
    words = _load(line)
    name = words.get("cmd")
    if not isinstance(name, str):
        _invalid("cmd", "a command's name")
    reader = _COMMANDS.get(name)
    if reader is None:
        raise BrokerError(
            f"unknown command {name[:40]!r}", reason="UNKNOWN_COMMAND", retry=Retry.NEVER, command=name[:40]
        )
    return reader(words)


def parse_event(line: bytes) -> Event:
    """What the broker said. Raises BrokerError, see the module."""
    words = _load(line)
    name = words.get("event")
    if not isinstance(name, str):
        _invalid("event", "an event's name")
    reader = _EVENTS.get(name)
    if reader is None:
        raise BrokerError(
            f"unknown event {name[:40]!r}", reason="UNKNOWN_EVENT", retry=Retry.NEVER, event=name[:40]
        )
    return reader(words)


def encode_command(command: Command) -> bytes:
    """One line, newline included."""
    match command:
        case Subscribe(id=workload, extensions=extensions, suspended=suspended):
            words: dict[str, object] = {"cmd": "SUBSCRIBE", "id": workload}
            if extensions:
                words["extensions"] = sorted(extensions)
            if suspended:
                words["suspended"] = True
        case Claim(id=workload, extensions=extensions):
            words = {"cmd": "CLAIM", "id": workload}
            if extensions:
                words["extensions"] = sorted(extensions)
        case Resumed():
            words = {
                "cmd": "RESUMED",
                "duration_s": command.duration_s,
                "uncertainty_s": command.uncertainty_s,
                "clock": command.clock,
                "memory_intact": command.memory_intact,
                "bytes_checked": command.bytes_checked,
                "rejected": command.rejected[:MAX_TEXT_CHARS],
            }
        case Error():
            words = {"cmd": "ERROR", **_error_words(command)}
        case Ready():
            words = {"cmd": "READY"}
        case Running():
            words = {"cmd": "RUNNING"}
        case Failed(error=error):
            words = {"cmd": "FAILED", "error": error[:MAX_TEXT_CHARS]}
        case Suspended():
            words = {"cmd": "SUSPENDED"}
        case Released():
            words = {"cmd": "RELEASED"}
    return _dump(words)


def encode_event(event: Event) -> bytes:
    """One line, newline included."""
    match event:
        case Subscribed(id=workload):
            words: dict[str, object] = {"event": "SUBSCRIBED", "id": workload}
        case Claimed(id=workload):
            words = {"event": "CLAIMED", "id": workload}
        case StartPreservation():
            words = {"event": "START_PRESERVATION"}
        case Suspend():
            words = {"event": "SUSPEND"}
        case Resume():
            words = {"event": "RESUME"}
        case Release():
            words = {"event": "RELEASE"}
        case Error():
            words = {"event": "ERROR", **_error_words(event)}
    return _dump(words)


class LineBuffer:
    """Cuts a byte stream into lines and never holds more than one line's bound."""

    def __init__(self, pending: bytes = b"") -> None:
        self._pending = pending

    @property
    def pending(self) -> bytes:
        """What has come of a line that is not complete."""
        return self._pending

    def feed(self, data: bytes) -> list[bytes]:
        """Complete lines without their newline. Raises BrokerError (LINE_TOO_LONG)."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) >= MAX_LINE_BYTES or any(len(line) >= MAX_LINE_BYTES for line in lines):
            raise BrokerError(
                f"a line is longer than {MAX_LINE_BYTES} bytes", reason="LINE_TOO_LONG", retry=Retry.NEVER
            )
        return lines


def _load(line: bytes) -> Mapping[str, Any]:
    try:
        words = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError):
        raise BrokerError("a line is no JSON object", reason="MALFORMED", retry=Retry.NEVER) from None
    if not isinstance(words, dict):
        raise BrokerError("a line is no JSON object", reason="MALFORMED", retry=Retry.NEVER)
    return words


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    words = dict(pairs)
    if len(words) != len(pairs):
        raise ValueError("a key twice")
    return words


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number too large")
    return int(digits)


def _dump(words: Mapping[str, object]) -> bytes:
    return json.dumps(words, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _error_words(error: Error) -> dict[str, object]:
    words: dict[str, object] = {"reason": error.reason, "message": error.message[:MAX_TEXT_CHARS]}
    if error.remedy:
        words["remedy"] = error.remedy[:MAX_TEXT_CHARS]
    return words


def _invalid(field: str, wanted: str) -> NoReturn:
    raise BrokerError(
        f"field {field!r} must be {wanted}", reason="INVALID_FIELD", retry=Retry.NEVER, field=field
    )


def _id(words: Mapping[str, Any]) -> str:
    value = words.get("id")
    if not isinstance(value, str) or not valid_id(value):
        _invalid("id", f"1 to {MAX_ID_CHARS} characters of A-Z a-z 0-9 . _ - and not reserved")
    return value


def _extensions(words: Mapping[str, Any]) -> frozenset[str]:
    value = words.get("extensions", [])
    if (
        not isinstance(value, list)
        or len(value) > 16
        or not all(isinstance(e, str) and 0 < len(e) <= 32 for e in value)
    ):
        _invalid("extensions", "a list of at most 16 short names")
    return frozenset(value)


def _flag(words: Mapping[str, Any], field: str) -> bool:
    value = words.get(field, False)
    if not isinstance(value, bool):
        _invalid(field, "true or false")
    return value


def _seconds(words: Mapping[str, Any], field: str) -> float:
    value = words.get(field, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _invalid(field, "seconds")
    if not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
        _invalid(field, f"seconds from 0 to {MAX_SECONDS:.0e}")
    return float(value)


def _text(words: Mapping[str, Any], field: str, limit: int = MAX_TEXT_CHARS) -> str:
    value = words.get(field, "")
    if not isinstance(value, str) or len(value) > limit:
        _invalid(field, f"text of at most {limit} characters")
    if any("\ud800" <= c <= "\udfff" for c in value):
        # It could neither be journalled nor sent on.
        _invalid(field, "text without halves of surrogate pairs")
    return value


def _resumed(words: Mapping[str, Any]) -> Resumed:
    intact = words.get("memory_intact")
    if intact is not None and not isinstance(intact, bool):
        _invalid("memory_intact", "true, false or null")
    checked = words.get("bytes_checked", 0)
    if isinstance(checked, bool) or not isinstance(checked, int) or not 0 <= checked < 2**63:
        _invalid("bytes_checked", "a count of bytes")
    return Resumed(
        duration_s=_seconds(words, "duration_s"),
        uncertainty_s=_seconds(words, "uncertainty_s"),
        clock=_text(words, "clock", 32),
        memory_intact=intact,
        bytes_checked=checked,
        rejected=_text(words, "rejected"),
    )


def _error(words: Mapping[str, Any]) -> Error:
    reason = words.get("reason")
    if not isinstance(reason, str) or _REASON.fullmatch(reason) is None:
        _invalid("reason", "a stable UPPER_SNAKE word")
    return Error(reason, _text(words, "message"), _text(words, "remedy"))


_COMMANDS: Mapping[str, Callable[[Mapping[str, Any]], Command]] = {
    "SUBSCRIBE": lambda w: Subscribe(_id(w), _extensions(w), _flag(w, "suspended")),
    "CLAIM": lambda w: Claim(_id(w), _extensions(w)),
    "READY": lambda _w: Ready(),
    "FAILED": lambda w: Failed(_text(w, "error")),
    "SUSPENDED": lambda _w: Suspended(),
    "RUNNING": lambda _w: Running(),
    "RESUMED": _resumed,
    "RELEASED": lambda _w: Released(),
    "ERROR": _error,
}

_EVENTS: Mapping[str, Callable[[Mapping[str, Any]], Event]] = {
    "SUBSCRIBED": lambda w: Subscribed(_id(w)),
    "START_PRESERVATION": lambda _w: StartPreservation(),
    # luo-agent's documentation has this second name for the same event in one place.
    "PRESERVATION_REQUEST": lambda _w: StartPreservation(),
    "CLAIMED": lambda w: Claimed(_id(w)),
    "SUSPEND": lambda _w: Suspend(),
    "RESUME": lambda _w: Resume(),
    "RELEASE": lambda _w: Release(),
    "ERROR": _error,
}
