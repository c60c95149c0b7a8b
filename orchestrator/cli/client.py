"""A thin client of the operators' service, for the CLI and for canary pipelines.

    from orchestrator.cli.client import Client, Connection

    with Client(Connection("127.0.0.1:7443")) as client:
        rollout = client.create(spec)                 # liveroll.v1.RolloutSpec
        for update in client.watch(rollout.rollout_id):
            ...                                       # .rollout, .events, .cursor
        client.approve(rollout.rollout_id, remark="error rate is flat")

Every call has a timeout and raises Failed (failure.py), which carries the stable reason, the
remedy, the violations and an exit code. Mutating calls take an idempotency key, or make one.
"""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Iterator, Sequence
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

from orchestrator.cli.failure import Failed, failed_call, invalid

A = TypeVar("A", bound=Message)

DEFAULT_SERVER = "127.0.0.1:7443"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A rollout over 20,000 nodes names each of them."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the orchestrator is. ca alone is TLS; cert and key make it mutual.

    Args:
        timeout_s: of each unary call; streams have none.
    """

    server: str = DEFAULT_SERVER
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout_s: float = 20.0

    def channel(self) -> grpc.Channel:
        """Raises Failed (INVALID) for certificate files that cannot be read."""
        if self.ca is None and self.cert is None and self.key is None:
            return grpc.insecure_channel(self.server, options=_OPTIONS)
        if (self.cert is None) != (self.key is None):
            raise invalid("--cert and --key belong together", "give both, or neither")
        credentials = grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))
        return grpc.secure_channel(self.server, credentials, options=_OPTIONS)


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(f"cannot read {path}: {error.strerror}", "give a readable PEM file") from error


class Client:
    """One connection. Use it as a context manager, or call close()."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._stub = rollout_pb2_grpc.RolloutServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = (("liveroll-user", _user()),)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, request: Message, answer: type[A]) -> A:
        """Any unary call by its name. A mutating request without a key gets one. Raises Failed."""
        if "idempotency_key" in request.DESCRIPTOR.fields_by_name and not request.idempotency_key:  # type: ignore[attr-defined]
            request.idempotency_key = new_key()  # type: ignore[attr-defined]
        try:
            made = getattr(self._stub, method)(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise failed_call(error, self._connection.server) from None
        assert isinstance(made, answer)
        return made

    def stream(self, method: str, request: Message) -> Stream:
        """Any streaming call by its name."""
        return Stream(getattr(self._stub, method)(request, metadata=self._metadata), self._connection.server)

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

    def fleet_stop(self, reason: str, *, stop: bool = True, key: str = "") -> pb.FleetStopResponse:
        """stop False releases it."""
        request = pb.FleetStopRequest(stop=stop, reason=reason, idempotency_key=key)
        return self.call("FleetStop", request, pb.FleetStopResponse)

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
        self, *, cursor: str = "", rollout: str = "", node: str = "", follow: bool = False, limit: int = 0
    ) -> Stream:
        """Yields ListEventsResponse."""
        request = pb.ListEventsRequest(
            cursor=cursor, rollout=rollout, node_id=node, follow=follow, limit=limit
        )
        return self.stream("ListEvents", request)


class Stream:
    """Messages of a streaming call. Iterating raises Failed; cancel() ends it from any thread."""

    def __init__(self, call: Any, server: str) -> None:
        self._call, self._server = call, server

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise failed_call(error, self._server) from None

    def cancel(self) -> None:
        self._call.cancel()


def new_key() -> str:
    """An idempotency key."""
    return str(uuid.uuid4())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, in a container
        return f"uid-{os.getuid()}"


__all__ = ["Client", "Connection", "Failed", "Stream", "new_key"]
