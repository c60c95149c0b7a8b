"""The link over gRPC: a channel that many nodes of one process may share, a stream for each.

Rules:
- A stream is opened only once the channel is ready: opening more than about 100 on a channel
  that is still connecting leaves some of them stuck for ever.
- A channel is to one address and carries at most STREAMS_PER_CHANNEL streams; each address's name is
  what its certificate must bear. A channel that nobody uses and that is not connected is ended, so
  that whoever dials an orchestrator again does not wait for an old channel's own backoff.
- A name with several addresses is gRPC's to resolve; it takes them in an order of its own each time.
- The reason in a refusal is read from the rich status details; without them the gRPC code
  names it.
- Keepalives notice an orchestrator that vanished without a word.

Imported when the first link is opened and not before: importing gRPC costs about 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc

from node_agent.core.rota import Rota
from node_agent.errors import LinkError, SettingsError
from node_agent.runtime.link_transport import Connector, Transport
from node_agent.settings import TlsFiles, is_loopback

STREAMS_PER_CHANNEL = 50
"""Half of where streams on one connection begin to hinder each other."""
CONNECT_S = 20.0
MESSAGE_MAX_BYTES = 1 << 20
"""A command is a few hundred bytes; a MiB down is a mistake or an attack."""
_OPTIONS = (
    # A replica's machine that is gone says nothing: its nodes notice before the grace after it ends.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    # Or all nodes would go to the first address of a name that has several.
    ("grpc.service_config", '{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}'),
    # A proxy of the environment is for people's browsers; nodes dial what they were told.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(slots=True, eq=False)
class _Shared:
    """A channel and the streams on it."""

    channel: grpc.aio.Channel
    users: set[object] = field(default_factory=set)


class GrpcDialer:
    """Opens links to the orchestrators of one fleet, for any number of nodes. close() when done.

    Args:
        addresses: host:port each, as far as known; for the check of plaintext.
        tls: PEM files; None is plaintext, for loopback only.

    Raises:
        SettingsError: plaintext off loopback, or unreadable TLS files.
    """

    def __init__(self, addresses: Sequence[str], tls: TlsFiles | None) -> None:
        away = next((a for a in addresses if not is_loopback(a)), "")
        if tls is None and away:
            raise SettingsError(
                f"refusing plaintext to {away}",
                reason="PLAINTEXT_REFUSED",
                remedy="set tls.ca, tls.certificate and tls.key; plaintext is for loopback only",
            )
        self._credentials = _credentials(tls)
        self._tls = tls is not None
        self._channels: dict[str, list[_Shared]] = {}

    def by(self, rota: Rota) -> Connector:
        """Opens a node's link to where its rota stands at that moment."""
        return lambda: self.connect(rota.address)

    @asynccontextmanager
    async def connect(self, address: str) -> AsyncIterator[Transport]:
        """A fresh stream to host:port. Raises LinkError."""
        shared = self._take(address)
        user = object()
        shared.users.add(user)
        try:
            await self._ready(shared.channel, address)
            call = rpc.AgentServiceStub(shared.channel).Link()  # type: ignore[no-untyped-call]
            try:
                yield _GrpcTransport(call, address, tls=self._tls)
            finally:
                call.cancel()
        finally:
            shared.users.remove(user)
            await self._drop_idle(address, shared)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return sum(len(those) for those in self._channels.values())

    async def close(self) -> None:
        """End every channel."""
        ended, self._channels = self._channels, {}
        for those in ended.values():
            for shared in those:
                await shared.channel.close(None)

    def _take(self, address: str) -> _Shared:
        those = self._channels.setdefault(address, [])
        for shared in those:
            if len(shared.users) < STREAMS_PER_CHANNEL:
                return shared
        # Without a subchannel pool of its own, gRPC would put all channels on one connection.
        options = (*_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        if self._credentials is None:
            made = _Shared(grpc.aio.insecure_channel(address, options=options))
        else:
            made = _Shared(grpc.aio.secure_channel(address, self._credentials, options=options))
        those.append(made)
        return made

    async def _drop_idle(self, address: str, shared: _Shared) -> None:
        those = self._channels.get(address, [])
        if shared.users or shared not in those:
            return
        if shared.channel.get_state() is grpc.ChannelConnectivity.READY:
            return
        those.remove(shared)
        await shared.channel.close(None)

    async def _ready(self, channel: grpc.aio.Channel, address: str) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise _unreachable(address, tls=self._tls)
                    await channel.wait_for_state_change(state)
        except TimeoutError as error:
            raise _unreachable(address, tls=self._tls) from error


_Call = grpc.aio.StreamStreamCall[pb.LinkRequest, pb.LinkResponse]


class _GrpcTransport:
    """One stream."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.LinkRequest, pb.LinkResponse], address: str, *, tls: bool
    ) -> None:
        self._call = call
        self._address = address
        self._tls = tls

    async def send(self, message: pb.LinkRequest) -> None:
        """See Transport."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._why() from error

    async def receive(self) -> pb.LinkResponse | None:
        """See Transport."""
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._why() from error
        if not isinstance(message, pb.LinkResponse):  # grpc.aio.EOF
            if await self._call.code() is not grpc.StatusCode.OK:
                raise await self._why()
            return None
        return message

    async def _why(self) -> LinkError:
        """The status that ended the call, as an error with the orchestrator's own reason."""
        code = await self._call.code()
        details = await self._call.details() or ""
        reason, remedy = code.name, ""
        with contextlib.suppress(ValueError):
            for key, value in await self._call.trailing_metadata() or ():
                if key == "grpc-status-details-bin" and isinstance(value, bytes):
                    reason, remedy = _rich(value, reason)
        if code is grpc.StatusCode.UNAVAILABLE and not remedy:
            return _unreachable(self._address, tls=self._tls)
        return LinkError(
            details or f"the orchestrator ended the link with {code.name}",
            reason=reason,
            remedy=remedy or "the orchestrator's log says more",
            code=code.name,
        )


def _rich(data: bytes, reason: str) -> tuple[str, str]:
    """(reason, remedy) of a serialised google.rpc.Status. Raises ValueError if it is none."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    remedy = ""
    try:
        for detail in status_pb2.Status.FromString(data).details:
            info, hint = error_details_pb2.ErrorInfo(), error_details_pb2.Help()
            if detail.Unpack(info):
                reason = info.reason or reason
            elif detail.Unpack(hint):
                remedy = "; ".join(link.description for link in hint.links)
    except DecodeError as error:
        raise ValueError("not a status") from error
    return reason, remedy


def _credentials(tls: TlsFiles | None) -> grpc.ChannelCredentials | None:
    if tls is None:
        return None
    try:
        ca, key, certificate = (p.read_bytes() for p in (tls.ca, tls.key, tls.certificate))
    except OSError as error:
        raise SettingsError(
            f"cannot read {error.filename}: {error.strerror}",
            reason="TLS_UNREADABLE",
            remedy="make the TLS files readable to the agent's user",
        ) from error
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _unreachable(address: str, *, tls: bool) -> LinkError:
    # gRPC does not say why a channel cannot connect; a refused certificate looks like this too.
    trust = ", and that each side trusts the other's certificate (tls.ca)" if tls else ""
    return LinkError(
        f"cannot reach the orchestrator at {address}",
        reason="UNREACHABLE",
        remedy=f"see that liveroll-orchestrator runs there and that the address is right{trust}",
        address=address,
    )
