"""The operators' service: the calls that ask or change something once. Streams: watches.py.

Every mutating call goes through Orchestrator.operate with its idempotency key; its answer shows
the rollout or the nodes as they are when it returns, also when the call is a repetition.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core import differences, dryrun, operations, views
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Change, Maintenance
from orchestrator.core.transitions_regression import STOPPED
from orchestrator.rpc.auth import Peer, Role
from orchestrator.rpc.boundary import Context, caller, refuse
from orchestrator.rpc.differences_out import difference_of
from orchestrator.rpc.selection import matching_nodes, page_of
from orchestrator.rpc.views_out import explanation_of, node_of, plan_of
from orchestrator.rpc.watches import Watches
from orchestrator.wire.check import MAX_NODES, Checker
from orchestrator.wire.spec_in import read_spec

A = TypeVar("A")

MAX_KEY = 200
ROLLOUTS_PAGE, ROLLOUTS_PAGE_MOST = 50, 200
NODES_PAGE, NODES_PAGE_MOST = 200, 1000
UNHEARD_TOLD = 20
"""Names of nodes that have not said Hello; the rest is a count."""


def call(
    method: Callable[[Any, Any, Peer], Awaitable[A]],
) -> Callable[[Any, Any, Context], Awaitable[A]]:
    """A call of the service: identity first, errors to statuses."""

    @functools.wraps(method)
    async def served(self: RolloutService, request: Message, context: Context) -> A:
        try:
            peer = caller(Role.OPERATOR, context, verified=self.verified)
            await self.orchestrator.refresh()
            return await method(self, request, peer)
        except Exception as error:  # noqa: BLE001 - the boundary: every error gets a status
            await refuse(context, error, method=method.__name__, peer=context.peer())

    return served


class RolloutService(Watches):
    """RolloutService over an Orchestrator; see Watches for the constructor."""

    # --- rollouts: ask ------------------------------------------------------------------

    @call
    async def PlanRollout(self, request: pb.PlanRolloutRequest, peer: Peer) -> pb.PlanRolloutResponse:
        spec = read_spec(request.spec)
        artifact = await self.orchestrator.catalogue.resolve(spec.target.artifact)
        plan = dryrun.dry_run(self.orchestrator.fleet, spec, artifact, self.orchestrator.now())
        return pb.PlanRolloutResponse(plan=plan_of(plan))

    @call
    async def GetRollout(self, request: pb.GetRolloutRequest, peer: Peer) -> pb.GetRolloutResponse:
        return pb.GetRolloutResponse(rollout=self.show(_rollout(request)))

    @call
    async def ListRollouts(self, request: pb.ListRolloutsRequest, peer: Peer) -> pb.ListRolloutsResponse:
        rows = sorted(
            self.orchestrator.fleet.rollouts.values(),
            key=lambda row: (row.created_at, row.rollout_id),
            reverse=True,
        )
        names = [row.rollout_id for row in rows if not (request.active_only and row.ended_at)]
        page, token = page_of(names, request.page_size, request.page_token, ROLLOUTS_PAGE, ROLLOUTS_PAGE_MOST)
        return pb.ListRolloutsResponse(rollouts=[self.show(name) for name in page], next_page_token=token)

    @call
    async def Explain(self, request: pb.ExplainRequest, peer: Peer) -> pb.ExplainResponse:
        rollout = _rollout(request)
        o = self.orchestrator
        return explanation_of(views.explain(o.fleet, rollout, request.node_id, o.plan_to_show(), o.now()))

    # --- rollouts: change ---------------------------------------------------------------

    @call
    async def CreateRollout(self, request: pb.CreateRolloutRequest, peer: Peer) -> pb.CreateRolloutResponse:
        spec = read_spec(request.spec)
        artifact = await self.orchestrator.catalogue.resolve(spec.target.artifact)

        def create(fleet: Fleet, now: datetime) -> tuple[Change, str]:
            created = operations.create(fleet, spec, artifact, peer.actor, now)
            return created.change, created.rollout_id

        rollout_id = await self._operate("CreateRollout", request, peer, create)
        return pb.CreateRolloutResponse(rollout=self.show(rollout_id))

    @call
    async def PauseRollout(self, request: pb.PauseRolloutRequest, peer: Peer) -> pb.PauseRolloutResponse:
        rollout, reason = _rollout(request), _reason(request)
        rollout = await self._on_rollout(
            "PauseRollout",
            request,
            peer,
            rollout,
            lambda f, n: operations.pause(f, rollout, reason, peer.actor, n),
        )
        return pb.PauseRolloutResponse(rollout=self.show(rollout))

    @call
    async def ResumeRollout(self, request: pb.ResumeRolloutRequest, peer: Peer) -> pb.ResumeRolloutResponse:
        rollout, reason, meant = _rollout(request), _reason(request), operations.Meant()
        rollout = await self._on_rollout(
            "ResumeRollout",
            request,
            peer,
            rollout,
            lambda f, n: operations.resume(f, rollout, reason, request.clear_halt, peer.actor, n, meant),
        )
        return pb.ResumeRolloutResponse(rollout=self.show(rollout))

    @call
    async def ApproveRollout(
        self, request: pb.ApproveRolloutRequest, peer: Peer
    ) -> pb.ApproveRolloutResponse:
        rollout, remark, meant = _rollout(request), _reason(request, "remark"), operations.Meant()
        rollout = await self._on_rollout(
            "ApproveRollout",
            request,
            peer,
            rollout,
            lambda f, n: operations.approve(f, rollout, request.wave, remark, peer.actor, n, meant),
        )
        return pb.ApproveRolloutResponse(rollout=self.show(rollout))

    @call
    async def CancelRollout(self, request: pb.CancelRolloutRequest, peer: Peer) -> pb.CancelRolloutResponse:
        rollout, reason = _rollout(request), _reason(request)
        rollout = await self._on_rollout(
            "CancelRollout",
            request,
            peer,
            rollout,
            lambda f, n: operations.cancel(f, rollout, reason, request.roll_back, peer.actor, n),
        )
        return pb.CancelRolloutResponse(rollout=self.show(rollout))

    @call
    async def RollBackRollout(
        self, request: pb.RollBackRolloutRequest, peer: Peer
    ) -> pb.RollBackRolloutResponse:
        rollout, reason = _rollout(request), _reason(request)
        rollout = await self._on_rollout(
            "RollBackRollout",
            request,
            peer,
            rollout,
            lambda f, n: operations.roll_back(f, rollout, reason, peer.actor, n),
        )
        return pb.RollBackRolloutResponse(rollout=self.show(rollout))

    @call
    async def CommitNodes(self, request: pb.CommitNodesRequest, peer: Peer) -> pb.CommitNodesResponse:
        rollout, reason, nodes = _rollout(request), _reason(request), _nodes(request)
        done = await self._on_nodes(
            "CommitNodes",
            request,
            peer,
            lambda f, n: operations.commit_nodes(f, rollout, nodes, reason, peer.actor, n),
        )
        return pb.CommitNodesResponse(nodes=done)

    @call
    async def RetryNodes(self, request: pb.RetryNodesRequest, peer: Peer) -> pb.RetryNodesResponse:
        rollout, reason, nodes = _rollout(request), _reason(request), _nodes(request)
        done = await self._on_nodes(
            "RetryNodes",
            request,
            peer,
            lambda f, n: operations.retry_nodes(f, rollout, nodes, reason, peer.actor, n),
        )
        return pb.RetryNodesResponse(nodes=done)

    @call
    async def ExcludeNodes(self, request: pb.ExcludeNodesRequest, peer: Peer) -> pb.ExcludeNodesResponse:
        rollout = _rollout(request)
        reason, nodes = _reason(request, required=True), _nodes(request, required=True)
        await self._on_nodes(
            "ExcludeNodes",
            request,
            peer,
            lambda f, n: operations.exclude_nodes(f, rollout, nodes, reason, peer.actor, n),
        )
        return pb.ExcludeNodesResponse(rollout=self.show(rollout))

    # --- the fleet ----------------------------------------------------------------------

    @call
    async def WriteOff(self, request: pb.WriteOffRequest, peer: Peer) -> pb.WriteOffResponse:
        reason, nodes = _reason(request, required=True), _nodes(request, required=True)
        done = await self._on_nodes(
            "WriteOff", request, peer, lambda f, n: operations.write_off(f, nodes, reason, peer.actor, n)
        )
        return pb.WriteOffResponse(nodes=done)

    @call
    async def FleetStop(self, request: pb.FleetStopRequest, peer: Peer) -> pb.FleetStopResponse:
        reason = _reason(request, required=request.stop)
        await self._operate(
            "FleetStop",
            request,
            peer,
            lambda f, n: (
                operations.fleet_stop(
                    f, request.stop, reason, peer.actor, n, accept_differences=request.accept_differences
                ),
                "",
            ),
        )
        stopped = self.orchestrator.fleet.row.stopped
        message = self.orchestrator.fleet.row.stop_message
        return pb.FleetStopResponse(stopped=bool(stopped), reason=message or stopped)

    @call
    async def ListDifferences(
        self, request: pb.ListDifferencesRequest, peer: Peer
    ) -> pb.ListDifferencesResponse:
        o = self.orchestrator
        found = {d.node_id: d for d in differences.differences(o.fleet)}
        missing = list(differences.unheard(o.fleet, o.now()))
        names = sorted(found)
        page, token = page_of(names, request.page_size, request.page_token, NODES_PAGE, NODES_PAGE_MOST)
        row = o.fleet.row
        return pb.ListDifferencesResponse(
            differences=[difference_of(found[name]) for name in page],
            next_page_token=token,
            unheard=missing[:UNHEARD_TOLD],
            unheard_count=len(missing),
            difference_count=len(found),
            node_count=len(o.fleet.nodes),
            stopped=row.stopped == STOPPED,
            stop_reason=row.stop_message if row.stopped == STOPPED else "",
        )

    @call
    async def ListNodes(self, request: pb.ListNodesRequest, peer: Peer) -> pb.ListNodesResponse:
        o = self.orchestrator
        names = sorted(matching_nodes(o.fleet, request.selector, request.rollout))
        now = o.now()
        page, token = page_of(names, request.page_size, request.page_token, NODES_PAGE, NODES_PAGE_MOST)
        return pb.ListNodesResponse(
            nodes=[node_of(views.node_view(o.fleet, name, now, request.rollout)) for name in page],
            next_page_token=token,
        )

    @call
    async def GetNode(self, request: pb.GetNodeRequest, peer: Peer) -> pb.GetNodeResponse:
        check = Checker()
        node_id = check.name(request.node_id, "node_id")
        check.done()
        return pb.GetNodeResponse(node=self._show_node(node_id))

    @call
    async def SetMaintenance(
        self, request: pb.SetMaintenanceRequest, peer: Peer
    ) -> pb.SetMaintenanceResponse:
        nodes = _nodes(request, required=True)
        maintenance = _maintenance(request, peer) if request.HasField("maintenance") else None
        done = await self._on_nodes(
            "SetMaintenance",
            request,
            peer,
            lambda f, n: operations.set_maintenance(f, nodes, maintenance, peer.actor, n),
        )
        return pb.SetMaintenanceResponse(nodes=[self._show_node(node) for node in done])

    # --- within -------------------------------------------------------------------------

    def _show_node(self, node_id: str) -> pb.Node:
        o = self.orchestrator
        return node_of(views.node_view(o.fleet, node_id, o.now()))

    async def _operate(
        self,
        method: str,
        request: Any,
        peer: Peer,
        operation: Callable[[Fleet, datetime], tuple[Change, str]],
    ) -> str:
        check = Checker()
        key = check.name(request.idempotency_key, "idempotency_key", most=MAX_KEY)
        check.done()
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("idempotency_key")
        digest = hashlib.sha256(method.encode() + b"\0" + bare.SerializeToString(deterministic=True))
        operated = await self.orchestrator.operate(
            actor=peer.actor,
            idempotency_key=key,
            method=method,
            request_hash=digest.hexdigest(),
            operation=operation,
        )
        return operated.response

    async def _on_rollout(
        self,
        method: str,
        request: Any,
        peer: Peer,
        rollout: str,
        change: Callable[[Fleet, datetime], Change],
    ) -> str:
        return await self._operate(method, request, peer, lambda f, n: (change(f, n), rollout))

    async def _on_nodes(
        self,
        method: str,
        request: Any,
        peer: Peer,
        change: Callable[[Fleet, datetime], operations.OnNodes],
    ) -> list[str]:
        def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
            done = change(fleet, now)
            return done.change, json.dumps(done.nodes)

        answer: list[str] = json.loads(await self._operate(method, request, peer, operation))
        return answer


def _rollout(request: Any) -> str:
    check = Checker()
    rollout = check.name(request.rollout, "rollout")
    check.done()
    return rollout


def _reason(request: Any, field: str = "reason", *, required: bool = False) -> str:
    check = Checker()
    reason = check.reason(getattr(request, field), field)
    if required and not reason:
        check.bad(field, "it is missing", "Say why; it is kept in the audit trail.")
    check.done()
    return reason


def _nodes(request: Any, *, required: bool = False) -> Sequence[str]:
    check = Checker()
    nodes = check.names(request.nodes, "nodes", most=MAX_NODES)
    if required and not request.nodes:
        check.bad("nodes", "it is empty", "Name at least one node.")
    check.done()
    return nodes


def _maintenance(request: pb.SetMaintenanceRequest, peer: Peer) -> Maintenance:
    asked = request.maintenance
    check = Checker()
    owner = check.name(asked.owner, "maintenance.owner", required=False) or peer.actor
    reason = check.reason(asked.reason, "maintenance.reason")
    if not reason:
        check.bad("maintenance.reason", "it is missing", "Say why the node is out of service.")
    expires = None
    if asked.HasField("expire_time"):
        expires = check.instant(asked.expire_time, "maintenance.expire_time")
    check.done()
    return Maintenance(owner, reason, expires)
