"""The example workload's life, once it has imported what it is made of: see example.py."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
import zlib
from collections.abc import Sequence

from node_agent.errors import BrokerError
from node_agent.workloads import example
from node_agent.workloads.client import Client, Lost
from node_agent.workloads.early import Back
from node_agent.workloads.memory import MEMORY_TOKEN, GuestMemory
from node_agent.workloads.node_clock import NodeClock, instant, open_clock
from node_agent.workloads.pause import Measured, measure
from node_agent.workloads.protocol import (
    MAX_SECONDS,
    Event,
    Release,
    Resume,
    Resumed,
    StartPreservation,
    Suspend,
)


class Example:
    """One workload's life. Owns its memory."""

    def __init__(
        self, client: Client, clock: NodeClock, size_bytes: int, tick_s: float, back: Back | None = None
    ) -> None:
        """back: what early.py brought along already; its connection is the client's."""
        self._client = client
        self._clock = clock
        self._tick_s = tick_s
        self._resumed_at = 0
        self._last: Resumed | None = None
        """What was said of the last pause, while no other has begun."""
        if back is not None and back.memory_fd >= 0:
            self._take(GuestMemory.attach(back.memory_fd))
            self._resumed_at = back.resumed_at
        elif client.claim() is None:
            seed = zlib.crc32(client.workload.encode())
            self.memory = GuestMemory.create(size_bytes, seed, clock.stamp(instant()))
            client.subscribe()
            self._say(
                f"fresh start with {self.memory.size_bytes} bytes: no session of it crossed into this boot"
            )
        else:
            self._take(GuestMemory.attach(client.retrieve(MEMORY_TOKEN)))
        self._next_tick = time.monotonic()
        if self._resumed_at:
            self._resume(self._resumed_at)

    def _take(self, memory: GuestMemory) -> None:
        self.memory = memory
        self._client.drop_session()
        self._say(f"claimed {memory.size_bytes} bytes at tick {memory.ticks}")

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
                self._last = None
                self.memory.suspend()
                self._client.suspended()
                self._say(f"suspended at tick {self.memory.ticks}")
            case Resume():
                self._resume(instant())
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
            self._client.failed(f"{error.strerror}: {name}")
            return
        self._client.ready()
        self._say("preserved")

    def _resume(self, at: int) -> None:
        if self._last is not None:
            # An agent that did not live to hear it asks again: we have not stood still since.
            self._client.resumed(self._last)
            return
        before = self.memory.stamp
        after = self._clock.stamp(at, before.tsc_hz)
        self.memory.resume(after)
        self._tick()
        verified = self.memory.verify()
        measured = measure(before, after, emulated=self._clock.emulated)
        if measured.duration_s > MAX_SECONDS:
            why = f"a pause of {measured.duration_s:.0f} s cannot be: {measured.clock} was set"
            measured = Measured(0.0, 0.0, measured.clock, why)
        self._last = Resumed(
            duration_s=measured.duration_s,
            uncertainty_s=measured.uncertainty_s,
            clock=measured.clock,
            memory_intact=verified.intact,
            bytes_checked=verified.bytes_checked,
            rejected=measured.rejected,
        )
        state = "intact" if verified.intact else f"DAMAGED: {verified.difference}"
        # Before the agent hears of it: what it does next stands below this in the node's log.
        self._say(
            f"resumed at tick {self.memory.ticks} after {measured.duration_s:.6f} s "
            f"(± {measured.uncertainty_s:.6f} s by {measured.clock}), "
            f"{verified.bytes_checked} bytes {state}"
        )
        self._client.resumed(self._last)

    def _say(self, what: str) -> None:
        print(f"{self._client.workload}: {what}\n", end="", flush=True)


def main(argv: Sequence[str], back: Back | None = None) -> int:
    """Exit status 1 with one line on stderr if the broker or the memory fails."""
    parser = argparse.ArgumentParser(
        prog="python -m node_agent.workloads.example", description=example.__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--socket", required=True, help="the broker's socket")
    parser.add_argument("--id", required=True, help="this workload's name, unique on the node")
    parser.add_argument("--mib", type=float, default=16.0, help="size of the memory (default %(default)s)")
    parser.add_argument(
        "--tick-ms", type=float, default=10.0, help="time between ticks (default %(default)s)"
    )
    parser.add_argument(
        "--answer-s",
        type=float,
        default=example.ANSWER_S,
        help="how long to wait for the broker (default %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.mib <= 0 or args.tick_ms <= 0:
        parser.error("--mib and --tick-ms must be above 0")
    try:
        with _client(args, back) as client:
            clock = open_clock(os.environ.get("LIVEROLL_NODE_ROOT", ""))
            Example(client, clock, int(args.mib * 2**20), args.tick_ms / 1000, back).run()
    except KeyboardInterrupt:
        return 0
    except (BrokerError, OSError) as error:
        print(f"{args.id}: {error}", file=sys.stderr)
        remedy = error.remedy if isinstance(error, BrokerError) else ""
        if remedy:
            print(remedy, file=sys.stderr)
        return 1
    return 0


def _client(args: argparse.Namespace, back: Back | None) -> Client:
    if back is not None:
        return Client.adopt(args.socket, args.id, back, answer_s=args.answer_s)
    return Client(args.socket, args.id, answer_s=args.answer_s)
