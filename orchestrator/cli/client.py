"""A thin client of the operators' service, for the CLI and for canary pipelines.

    from orchestrator.cli.client import Client, Connection

    with Client(Connection("127.0.0.1:7443")) as client:
        rollout = client.create(spec)                 # liveroll.v1.RolloutSpec
        for update in client.watch(rollout.rollout_id):
            ...                                       # .rollout, .events, .cursor
        client.approve(rollout.rollout_id, remark="error rate is flat")

Every call has a timeout and raises Failed (failure.py), which carries the stable reason, the
remedy, the violations and an exit code. Mutating calls take an idempotency key, or make one.

Of several orchestrators (`Connection("a:7443,b:7443")`) any does. A call that one of them does not
answer is made again at the next, under the same idempotency key, so that it is done once; the
client stays where it was answered.
"""

from __future__ import annotations

import getpass
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the C core would write its own lines to stderr

import grpc
from google.protobuf.message import Message
from liveroll.v1 import rollout_pb2 as pb
from liveroll.v1 import rollout_pb2_grpc

from orchestrator.cli.failure import Exit, Failed, failed_call, invalid

A = TypeVar("A", bound=Message)

DEFAULT_SERVER = "127.0.0.1:7443"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A rollout over 20,000 nodes names each of them."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    # Also how long one address is tried: a machine that is gone must not use up the call's time.
    ("grpc.min_reconnect_backoff_ms", 3_000),
)
ROUNDS = 2
"""How often all of several orchestrators are asked: a lease may be changing hands."""
PAUSE_S = 1.0
"""At most so long between the rounds; each client draws its own, that they do not come back together."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the orchestrator is. ca alone is TLS; cert and key make it mutual.

    Args:
        server: host:port, or several with commas between them; each must bear its own name in TLS.
        timeout_s: of each unary call; streams have none.
    """

    server: str = DEFAULT_SERVER
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout_s: float = 20.0

    @property
    def servers(self) -> tuple[str, ...]:
        """Each address once, in the order given."""
        return tuple(dict.fromkeys(part.strip() for part in self.server.split(",") if part.strip()))

    def channel(self, server: str) -> grpc.Channel:
        """To one of them. Raises Failed (INVALID) for certificate files that cannot be read."""
        if self.ca is None and self.cert is None and self.key is None:
            return grpc.insecure_channel(server, options=_OPTIONS)
        if (self.cert is None) != (self.key is None):
            raise invalid("--cert and --key belong together", "give both, or neither")
        credentials = grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))
        return grpc.secure_channel(server, credentials, options=_OPTIONS)


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(f"cannot read {path}: {error.strerror}", "give a readable PEM file") from error


class Client:
    """A connection at a time. Use it as a context manager, or call close()."""

    def __init__(self, connection: Connection) -> None:
        if not connection.servers:
            raise invalid("--server names nothing", "give host:port, or several with commas")
        self._connection = connection
        self._at = 0
        self._channels: dict[str, grpc.Channel] = {}
        self._metadata = (("liveroll-user", _user()),)
        self._method(self.server, "GetRollout")  # unreadable certificates are told here

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server(self) -> str:
        """Who is asked next."""
        return self._connection.servers[self._at]

    @property
    def servers(self) -> int:
        """How many there are to ask."""
        return len(self._connection.servers)

    def move_on(self, server: str) -> None:
        """That one did not answer: ask the next one, unless somebody has moved on already."""
        if server == self.server:
            self._at = (self._at + 1) % self.servers

    def call(self, method: str, request: Message, answer: type[A]) -> A:
        """Any unary call by its name. A mutating request without a key gets one. Raises Failed."""
        if "idempotency_key" in request.DESCRIPTOR.fields_by_name and not request.idempotency_key:  # type: ignore[attr-defined]
            request.idempotency_key = new_key()  # type: ignore[attr-defined]

        def once(server: str) -> A:
            made = self._method(server, method)(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )
            assert isinstance(made, answer)
            return made

        began, rounds = time.monotonic(), ROUNDS if self.servers > 1 else 1
        while True:
            rounds -= 1
            try:
                return self._anywhere(once)
            except Failed as failed:
                late = time.monotonic() - began > self._connection.timeout_s
                if late or not rounds or failed.exit is not Exit.UNREACHABLE:
                    raise
            time.sleep(random.uniform(0.0, PAUSE_S))  # noqa: S311 - jitter

    def stream(self, method: str, request: Message) -> Stream:
        """Any streaming call by its name."""
        return Stream(self, lambda server: self._method(server, method)(request, metadata=self._metadata))

    def _anywhere(self, once: Callable[[str], A]) -> A:
        """The first answer of a round over all servers."""
        failures: list[Failed] = []
        for _ in range(self.servers):
            server = self.server
            try:
                return once(server)
            except grpc.RpcError as error:
                failures.append(failed_call(error, server))
            if not is_elsewhere(failures[-1]):
                raise failures[-1] from None
            self.move_on(server)
        raise unanswered(failures, self._connection.servers)

    def _method(self, server: str, method: str) -> Any:
        if server not in self._channels:
            self._channels[server] = self._connection.channel(server)
        stub = rollout_pb2_grpc.RolloutServiceStub(self._channels[server])  # type: ignore[no-untyped-call]
        return getattr(stub, method)

    # --- rollouts -----------------------------------------------------------------------

    def plan(self, spec: pb.RolloutSpec) -> pb.RolloutPlan:
        return self.call("PlanRollout", pb.PlanRolloutRequest(spec=spec), pb.PlanRolloutResponse).plan

    def create(self, spec: pb.RolloutSpec, *, key: str = "") -> pb.Rollout:
        request = pb.CreateRolloutRequest(spec=spec, idempotency_key=key)
        return self.call("CreateRollout", request, pb.CreateRolloutResponse).rollout

    def get(self, rollout: str) -> pb.Rollout:
        return self.call("GetRollout", pb.GetRolloutRequest(rollout=rollout), pb.GetRolloutResponse).rollout

    def list(self, *, active_only: bool = False) -> Sequence[pb.Rollout]:
        """All of them, page by page, newest first."""
        found: list[pb.Rollout] = []
        token = ""
        while True:
            request = pb.ListRolloutsRequest(active_only=active_only, page_token=token)
            page = self.call("ListRollouts", request, pb.ListRolloutsResponse)
            found += page.rollouts
            token = page.next_page_token
            if not token:
                return found

    def watch(self, rollout: str, cursor: str = "") -> Stream:
        """Yields WatchRolloutResponse until the rollout has ended."""
        return self.stream("WatchRollout", pb.WatchRolloutRequest(rollout=rollout, cursor=cursor))

    def explain(self, rollout: str, node: str = "") -> pb.ExplainResponse:
        return self.call("Explain", pb.ExplainRequest(rollout=rollout, node_id=node), pb.ExplainResponse)

    def pause(self, rollout: str, reason: str = "", *, key: str = "") -> pb.Rollout:
        request = pb.PauseRolloutRequest(rollout=rollout, reason=reason, idempotency_key=key)
        return self.call("PauseRollout", request, pb.PauseRolloutResponse).rollout

    def resume(
        self, rollout: str, reason: str = "", *, clear_halt: bool = False, key: str = ""
    ) -> pb.Rollout:
        request = pb.ResumeRolloutRequest(
            rollout=rollout, reason=reason, clear_halt=clear_halt, idempotency_key=key
        )
        return self.call("ResumeRollout", request, pb.ResumeRolloutResponse).rollout

    def approve(self, rollout: str, wave: str = "", *, remark: str = "", key: str = "") -> pb.Rollout:
        request = pb.ApproveRolloutRequest(rollout=rollout, wave=wave, remark=remark, idempotency_key=key)
        return self.call("ApproveRollout", request, pb.ApproveRolloutResponse).rollout

    def cancel(self, rollout: str, reason: str = "", *, roll_back: bool = False, key: str = "") -> pb.Rollout:
        request = pb.CancelRolloutRequest(
            rollout=rollout, reason=reason, roll_back=roll_back, idempotency_key=key
        )
        return self.call("CancelRollout", request, pb.CancelRolloutResponse).rollout

    def roll_back(self, rollout: str, reason: str = "", *, key: str = "") -> pb.Rollout:
        request = pb.RollBackRolloutRequest(rollout=rollout, reason=reason, idempotency_key=key)
        return self.call("RollBackRollout", request, pb.RollBackRolloutResponse).rollout

    def commit(
        self, rollout: str, nodes: Sequence[str] = (), reason: str = "", *, key: str = ""
    ) -> Sequence[str]:
        """No nodes: all that are updated and uncommitted."""
        request = pb.CommitNodesRequest(rollout=rollout, nodes=nodes, reason=reason, idempotency_key=key)
        return self.call("CommitNodes", request, pb.CommitNodesResponse).nodes

    def retry(
        self, rollout: str, nodes: Sequence[str] = (), reason: str = "", *, key: str = ""
    ) -> Sequence[str]:
        """No nodes: all that have failed."""
        request = pb.RetryNodesRequest(rollout=rollout, nodes=nodes, reason=reason, idempotency_key=key)
        return self.call("RetryNodes", request, pb.RetryNodesResponse).nodes

    def exclude(self, rollout: str, nodes: Sequence[str], reason: str, *, key: str = "") -> pb.Rollout:
        request = pb.ExcludeNodesRequest(rollout=rollout, nodes=nodes, reason=reason, idempotency_key=key)
        return self.call("ExcludeNodes", request, pb.ExcludeNodesResponse).rollout

    # --- the fleet ----------------------------------------------------------------------

    def write_off(self, nodes: Sequence[str], reason: str, *, key: str = "") -> Sequence[str]:
        request = pb.WriteOffRequest(nodes=nodes, reason=reason, idempotency_key=key)
        return self.call("WriteOff", request, pb.WriteOffResponse).nodes

    def fleet_stop(
        self, reason: str, *, stop: bool = True, accept_differences: bool = False, key: str = ""
    ) -> pb.FleetStopResponse:
        """stop False releases it; accept_differences: whatever nodes know beyond the store."""
        request = pb.FleetStopRequest(
            stop=stop, reason=reason, accept_differences=accept_differences, idempotency_key=key
        )
        return self.call("FleetStop", request, pb.FleetStopResponse)

    def differences(self) -> pb.ListDifferencesResponse:
        """All pages as one."""
        whole = pb.ListDifferencesResponse()
        token = ""
        while True:
            request = pb.ListDifferencesRequest(page_size=1000, page_token=token)
            page = self.call("ListDifferences", request, pb.ListDifferencesResponse)
            found = [*whole.differences, *page.differences]
            whole = page
            del whole.differences[:]
            whole.differences.extend(found)
            token = page.next_page_token
            if not token:
                return whole

    def nodes(self, selector: str = "", rollout: str = "") -> Sequence[pb.Node]:
        """All that match, page by page, by name."""
        found: list[pb.Node] = []
        token = ""
        while True:
            request = pb.ListNodesRequest(
                selector=selector, rollout=rollout, page_size=1000, page_token=token
            )
            page = self.call("ListNodes", request, pb.ListNodesResponse)
            found += page.nodes
            token = page.next_page_token
            if not token:
                return found

    def node(self, node_id: str) -> pb.Node:
        return self.call("GetNode", pb.GetNodeRequest(node_id=node_id), pb.GetNodeResponse).node

    def watch_nodes(self, selector: str = "", rollout: str = "") -> Stream:
        """Yields WatchNodesResponse; all that match in the first ones."""
        return self.stream("WatchNodes", pb.WatchNodesRequest(selector=selector, rollout=rollout))

    def maintenance(
        self,
        nodes: Sequence[str],
        reason: str = "",
        *,
        owner: str = "",
        until: datetime | None = None,
        end: bool = False,
        key: str = "",
    ) -> Sequence[pb.Node]:
        """Take nodes out of service, or with `end` put them back."""
        request = pb.SetMaintenanceRequest(nodes=nodes, idempotency_key=key)
        if not end:
            request.maintenance.owner, request.maintenance.reason = owner, reason
            if until is not None:
                request.maintenance.expire_time.FromDatetime(until)
        return self.call("SetMaintenance", request, pb.SetMaintenanceResponse).nodes

    def events(
        self,
        *,
        cursor: str = "",
        rollout: str = "",
        node: str = "",
        follow: bool = False,
        limit: int = 0,
        kinds: Sequence[str] = (),
        actor: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        until_cursor: str = "",
        progress: bool = False,
    ) -> Stream:
        """Yields ListEventsResponse. since counts where there is no cursor; progress allows pages
        without events, which bring the cursor forward."""
        request = pb.ListEventsRequest(
            cursor=cursor,
            rollout=rollout,
            node_id=node,
            follow=follow,
            limit=limit,
            kinds=kinds,
            actor=actor,
            until_cursor=until_cursor,
            progress=progress,
        )
        if since is not None and not cursor:
            request.since_time.FromDatetime(since)
        if until is not None:
            request.until_time.FromDatetime(until)
        return self.stream("ListEvents", request)


class Stream:
    """Messages of a streaming call. Iterating raises Failed; cancel() ends it from any thread.

    Until its first message it is opened at one server after the other. One that ends later moves the
    client on: opened anew from its cursor, it goes on elsewhere (follow.py).
    """

    def __init__(self, client: Client, opened: Callable[[str], Any]) -> None:
        self._client, self._opened = client, opened
        self._cancelled = threading.Event()
        self._call: Any = None

    def __iter__(self) -> Iterator[Any]:
        failures: list[Failed] = []
        tried: list[str] = []
        while not self._cancelled.is_set():
            server, begun = self._client.server, False
            tried.append(server)
            self._call = self._opened(server)
            if self._cancelled.is_set():  # meanwhile
                self._call.cancel()
            try:
                for message in self._call:
                    begun = True
                    yield message
            except grpc.RpcError as error:
                failures.append(failed_call(error, server))
            else:
                return
            if not is_elsewhere(failures[-1]):
                raise failures[-1] from None
            self._client.move_on(server)
            if begun:
                raise failures[-1] from None
            if len(failures) >= self._client.servers:
                raise unanswered(failures, tried)

    def cancel(self) -> None:
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()


def is_elsewhere(failed: Failed) -> bool:
    """Whether another orchestrator may do better: this one is away, leaves, or has no store."""
    return failed.exit is Exit.UNREACHABLE or failed.reason == "TLS_FAILED"


def unanswered(failures: Sequence[Failed], servers: Sequence[str]) -> Failed:
    """What to tell when none of several has answered: what one of them said, if one did."""
    said = next((f for f in failures if f.reason not in _FROM_NOBODY), None)
    if len(servers) == 1 or said is not None:
        return said or failures[-1]
    if all(f.reason == "TLS_FAILED" for f in failures):
        return failures[-1]
    names = f"{', '.join(servers[:-1])} or {servers[-1]}"
    return Failed(
        Exit.UNREACHABLE,
        f"cannot reach an orchestrator at {names}",
        "UNREACHABLE",
        "Is one of them running, and are these (--server or LIVEROLL_SERVER) their operators' addresses?",
    )


_FROM_NOBODY = frozenset({"UNREACHABLE", "TIMEOUT", "TLS_FAILED"})


def new_key() -> str:
    """An idempotency key."""
    return str(uuid.uuid4())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, in a container
        return f"uid-{os.getuid()}"


__all__ = ["Client", "Connection", "Failed", "Stream", "new_key"]
