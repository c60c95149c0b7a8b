"""An example workload: "guest memory" in a memfd that ticks and measures its own pause.

    python -m node_agent.workloads.example --socket /run/luod/liveupdate.sock --id vm-1 --mib 16

It asks the broker for its session first. If one crossed a kexec it takes its memory out of it and
waits for RESUME; otherwise it starts afresh. After each RESUME it ticks at once, then compares
every byte with what must be there, and reports the pause from the last tick before to the first
tick after. It outlives restarts of the agent. One line on stdout for whatever happens.

LIVEROLL_NODE_ROOT says that this is an emulated node's userspace.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
import zlib
from collections.abc import Sequence

from node_agent.errors import BrokerError
from node_agent.workloads.client import Client, Lost
from node_agent.workloads.memory import MEMORY_TOKEN, GuestMemory
from node_agent.workloads.node_clock import NodeClock, instant, open_clock
from node_agent.workloads.pause import measure
from node_agent.workloads.protocol import Event, Release, Resume, Resumed, StartPreservation, Suspend


class Example:
    """One workload's life. Owns its memory."""

    def __init__(self, client: Client, clock: NodeClock, size_bytes: int, tick_s: float) -> None:
        self._client = client
        self._clock = clock
        self._tick_s = tick_s
        if client.claim() is None:
            seed = zlib.crc32(client.workload.encode())
            self.memory = GuestMemory.create(size_bytes, seed, clock.stamp(instant()))
            client.subscribe()
            self._say(f"fresh start with {self.memory.size_bytes} bytes")
        else:
            self.memory = GuestMemory.attach(client.retrieve(MEMORY_TOKEN))
            client.drop_session()
            self._say(f"claimed {self.memory.size_bytes} bytes at tick {self.memory.ticks}")
        self._next_tick = time.monotonic()

    def run(self) -> None:
        """For ever. Raises BrokerError when the broker refuses us."""
        while True:
            if self._client.is_suspended:
                event = self._client.next_event()
            else:
                event = self._client.next_event(max(0.0, self._next_tick - time.monotonic()))
            if event is not None:
                self._on(event)
            elif time.monotonic() >= self._next_tick:
                self._tick()

    def _tick(self) -> None:
        self._next_tick = time.monotonic() + self._tick_s
        self.memory.advance(1, self._clock.stamp(instant(), self.memory.stamp.tsc_hz))

    def _on(self, event: Event | Lost) -> None:
        match event:
            case StartPreservation():
                self._preserve()
            case Suspend():
                self.memory.suspend()
                self._client.suspended()
                self._say(f"suspended at tick {self.memory.ticks}")
            case Resume():
                self._resume()
            case Release():
                self._client.released()
                self._say("released")
            case Lost():
                self._say("the broker is gone, waiting for it")
            case _:
                return

    def _preserve(self) -> None:
        try:
            self._client.preserve(self.memory.fd, MEMORY_TOKEN)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            self._say(f"cannot be preserved: {name}")
            self._client.refuse("PRESERVE_FAILED", f"{error.strerror} failed with {name}")
            return
        self._client.ready()
        self._say("preserved")

    def _resume(self) -> None:
        at, before = instant(), self.memory.stamp
        after = self._clock.stamp(at, before.tsc_hz)
        self.memory.resume(after)
        self._tick()
        verified = self.memory.verify()
        measured = measure(before, after, emulated=self._clock.emulated)
        self._client.resumed(
            Resumed(
                duration_s=measured.duration_s,
                uncertainty_s=measured.uncertainty_s,
                clock=measured.clock,
                memory_intact=verified.intact,
                bytes_checked=verified.bytes_checked,
                rejected=measured.rejected,
            )
        )
        state = "intact" if verified.intact else f"DAMAGED: {verified.difference}"
        self._say(
            f"resumed at tick {self.memory.ticks} after {measured.duration_s:.6f} s "
            f"(± {measured.uncertainty_s:.6f} s by {measured.clock}), "
            f"{verified.bytes_checked} bytes {state}"
        )

    def _say(self, what: str) -> None:
        print(f"{self._client.workload}: {what}\n", end="", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 with one line on stderr if the broker or the memory fails."""
    parser = argparse.ArgumentParser(prog="python -m node_agent.workloads.example", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--socket", required=True, help="the broker's socket")
    parser.add_argument("--id", required=True, help="this workload's name, unique on the node")
    parser.add_argument("--mib", type=float, default=16.0, help="size of the memory (default %(default)s)")
    parser.add_argument(
        "--tick-ms", type=float, default=10.0, help="time between ticks (default %(default)s)"
    )
    parser.add_argument("--answer-s", type=float, default=60.0, help="how long to wait for the broker")
    args = parser.parse_args(argv)
    if args.mib <= 0 or args.tick_ms <= 0:
        parser.error("--mib and --tick-ms must be above 0")
    try:
        with Client(args.socket, args.id, answer_s=args.answer_s) as client:
            clock = open_clock(os.environ.get("LIVEROLL_NODE_ROOT", ""))
            Example(client, clock, int(args.mib * 2**20), args.tick_ms / 1000).run()
    except KeyboardInterrupt:
        return 0
    except (BrokerError, OSError) as error:
        print(f"{args.id}: {error}", file=sys.stderr)
        remedy = error.remedy if isinstance(error, BrokerError) else ""
        if remedy:
            print(remedy, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
