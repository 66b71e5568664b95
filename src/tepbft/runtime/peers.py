"""Links between nodes: each node dials every other one and sends there; what it accepts it only reads.

One connection per direction needs no agreement on which of two survives. Who is at
the other end follows from the pinned certificate; the first frame in each direction
is a `Hello` that names the chain, so a node of another chain is refused before it
says anything. A link that breaks is dialled again with exponential back-off and
jitter; what was queued may be lost, and the protocol retransmits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import structlog
from msgspec import Meta, Struct

from tepbft.core.configuration import Member
from tepbft.errors import PeerFault
from tepbft.runtime.inbox import Inbox, Source
from tepbft.runtime.secure import dial, secured
from tepbft.runtime.tls import TlsContexts, peer_digest
from tepbft.runtime.traffic import Traffic
from tepbft.runtime.transport import Budget, FrameProtocol, Listener, Outgoing, tune
from tepbft.types import MAX_FRAME_BYTES, Digest, NodeId, NodeIndex
from tepbft.wire import Codec, encode, frame, tag_of

LINK_VERSION = 1
HELLO_BYTES = 256
BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 2.0
DOWN_BYTES = 4 << 20
BUFFER_BYTES = 1 << 18
log = structlog.get_logger("tepbft.peers")


class Hello(Struct, array_like=True, frozen=True, tag=1):
    """ "I am `node` of the chain `chain_id` and speak this version of the link protocol"."""

    chain_id: Digest
    node: NodeIndex
    version: Annotated[int, Meta(ge=0, le=65535)]


hello_codec: Codec[Hello] = Codec(Hello)


class MessageCodec(Protocol):
    """What decodes a room's messages: its `messages.codec`."""

    def decode(self, data: bytes | memoryview) -> Any:
        """The message in `data`; PeerFault if inadmissible."""
        ...


@dataclass(frozen=True)
class LinkState:
    """One peer, as the transport sees it."""

    node: NodeId
    sending: bool
    """Our connection to it is up."""
    receiving: bool
    """Its connection to us is up."""
    queued_bytes: int
    dropped_frames: int
    dropped_bytes: int
    connects: int


def check_hello(data: bytes, chain_id: bytes, node: NodeId) -> None:
    """PeerFault unless `data` is the hello of `node` on this chain."""
    hello = hello_codec.decode(data)
    if hello.version != LINK_VERSION:
        raise PeerFault("wrong_version", f"it speaks version {hello.version}, this node {LINK_VERSION}")
    if hello.chain_id != chain_id:
        raise PeerFault("wrong_chain", f"it is on chain {hello.chain_id.hex()[:16]}…")
    if hello.node != node:
        raise PeerFault("wrong_node", f"it says that it is node {hello.node}")


class _Accepted(FrameProtocol):
    """A connection that a peer made: it says hello, gets ours, and is read from then on."""

    def __init__(self, network: PeerNetwork) -> None:
        super().__init__(HELLO_BYTES, network.budget, BUFFER_BYTES)
        self.network = network
        self.node: NodeId | None = None
        self.ready = False
        self._source: Source | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.network.accepted.add(self)
        digest = peer_digest(transport)
        self.node = self.network.node_of.get(digest) if digest is not None else None
        if not self.network.listener.opened():
            return self._refuse("too_many_connections", "")
        if self.node is None or self.node == self.network.me:
            return self._refuse("unknown_certificate", digest.hex() if digest else "none presented")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.network.handshake_s, self._too_slow)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.network.accepted.discard(self)
        self.network.listener.closed()
        if self._timer is not None:
            self._timer.cancel()
        if self._source is not None:
            self._source.close(discard=False)
        if self.node is not None and self.network.incoming.get(self.node) is self:
            del self.network.incoming[self.node]

    def frames_received(self, frames: list[bytes]) -> None:
        if not self.ready:
            try:
                check_hello(frames[0], self.network.chain_id, self.node if self.node is not None else -1)
            except PeerFault as fault:
                return self._refuse(fault.code, fault.detail)
            self._welcome()
            frames = frames[1:]
        if self._source is not None:
            network = self.network
            urgent = network.inbox.votes_wanted or not all(tag_of(found) in network.votes for found in frames)
            self._source.put(frames, sum(map(len, frames)), urgent=urgent)
        return None

    def refused(self, code: str, detail: str) -> None:
        self._refuse(code, detail)

    def _welcome(self) -> None:
        assert self.node is not None and self.transport is not None
        self.ready = True
        self.frame_limit = MAX_FRAME_BYTES
        if self._timer is not None:
            self._timer.cancel()
        older = self.network.incoming.get(self.node)
        self.network.incoming[self.node] = self
        if older is not None:
            older.abort()  # the peer started anew, or its old connection is dead
        self._source = self.network.inbox.source(
            "peer", self.node, self.transport.pause_reading, self._resume_reading
        )
        self.transport.write(self.network.hello_frame)
        self.network.links[self.node].hurry()

    def _resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _too_slow(self) -> None:
        self._refuse("hello_timeout", "")

    def _refuse(self, code: str, detail: str) -> None:
        self.network.refuse(self.node, code, detail)
        self.abort()


class _Dialled(FrameProtocol):
    """A connection that this node made: it is written to; only the peer's hello is read."""

    def __init__(self, link: PeerLink) -> None:
        super().__init__(HELLO_BYTES, link.network.budget, 1 << 10)
        self.link = link
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        network = self.link.network
        digest = peer_digest(transport)
        if digest is None or network.node_of.get(digest) != self.link.node:
            return self.refused("unknown_certificate", digest.hex() if digest else "none presented")
        assert self.transport is not None
        self.transport.write(network.hello_frame)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.link.outgoing.detach()
        for future in (self.ready, self.lost):
            if not future.done():
                future.set_result(None)

    def frames_received(self, frames: list[bytes]) -> None:
        if self.ready.done():
            return self.refused("unexpected_frame", "on a connection that only this node writes to")
        try:
            check_hello(frames[0], self.link.network.chain_id, self.link.node)
        except PeerFault as fault:
            return self.refused(fault.code, fault.detail)
        assert self.transport is not None
        self.ready.set_result(None)
        self.link.connects += 1
        self.link.outgoing.attach(self.transport)
        return None

    def refused(self, code: str, detail: str) -> None:
        self.link.network.refuse(self.link.node, code, detail)
        self.abort()

    def pause_writing(self) -> None:
        self.link.outgoing.pause()

    def resume_writing(self) -> None:
        self.link.outgoing.resume()


class PeerLink:
    """Keeps one connection to one peer, and the queue of what goes there."""

    def __init__(
        self, network: PeerNetwork, member: Member, queue_bytes: int, address: tuple[str, int]
    ) -> None:
        self.network = network
        self.node: NodeId = member.node
        self.name = f"node{member.node}"
        self.outgoing = Outgoing(queue_bytes, min(queue_bytes, DOWN_BYTES))
        self.connects = 0
        self.connection: _Dialled | None = None
        self._address = address
        self._hurry = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether frames are leaving."""
        found = self.connection
        return found is not None and found.ready.done() and not found.lost.done()

    def hurry(self) -> None:
        """The peer is alive: do not wait out the back-off."""
        self._hurry.set()

    async def keep_up(self) -> None:
        """Dial for ever; ends only by cancellation."""
        backoff_s = BACKOFF_FIRST_S
        try:
            while True:
                if await self._connect_once():
                    backoff_s = BACKOFF_FIRST_S
                self._hurry.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s * random.uniform(0.5, 1.5)):
                        await self._hurry.wait()
                        await asyncio.sleep(BACKOFF_FIRST_S * random.random())
                backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)
        finally:
            if self.connection is not None:
                self.connection.abort()

    async def _connect_once(self) -> bool:
        """One connection from dialling to its end; True if it was up."""
        timeout_s = self.network.handshake_s
        try:
            async with asyncio.timeout(timeout_s):
                sock = await dial(*self._address)
                tune(sock)
                connection = _Dialled(self)
                await secured(
                    sock,
                    self.network.contexts.peer_client,
                    lambda: connection,
                    server_side=False,
                    timeout_s=timeout_s,
                )
        except (OSError, TimeoutError) as error:
            log.debug("peer_unreachable", peer=self.name, reason=str(error) or type(error).__name__)
            return False
        self.connection = connection
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(connection.ready)
        except TimeoutError:
            connection.refused("hello_timeout", "")
        if connection.lost.done():
            return False
        log.info("peer_connected", peer=self.name)
        await connection.lost
        log.info("peer_disconnected", peer=self.name)
        return True


class PeerNetwork:
    """All links of one node. Give it a bound, listening socket.

    `votes` are the tags of messages that are not urgent while everything is decided.
    `addresses` are (host, port) by node, where one is to be dialled elsewhere than its member entry says.
    """

    def __init__(
        self,
        *,
        me: NodeId,
        chain_id: bytes,
        members: Sequence[Member],
        contexts: TlsContexts,
        codec: MessageCodec,
        votes: Container[int],
        sock: socket.socket,
        inbox: Inbox,
        traffic: Traffic,
        queue_bytes: int,
        handshake_timeout_ms: int,
        addresses: Mapping[NodeId, tuple[str, int]] | None = None,
    ) -> None:
        self.me = me
        self.chain_id = chain_id
        self.contexts = contexts
        self.inbox = inbox
        self.traffic = traffic
        self.handshake_s = handshake_timeout_ms / 1000
        self.budget = Budget(4 * MAX_FRAME_BYTES * len(members))
        self.node_of = {member.certificate: member.node for member in members}
        self.hello_frame = frame(encode(Hello(chain_id, me, LINK_VERSION)))
        self.incoming: dict[NodeId, _Accepted] = {}
        self.accepted: set[_Accepted] = set()
        elsewhere = addresses or {}
        self.links = {
            m.node: PeerLink(self, m, queue_bytes, elsewhere.get(m.node, (m.host, m.peer_port)))
            for m in members
            if m.node != me
        }
        self.votes = votes
        self._codec = codec
        self._unsent: dict[Outgoing, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.listener = Listener(
            sock,
            contexts.peer_server,
            lambda: _Accepted(self),
            handshake_timeout_ms=handshake_timeout_ms,
            max_connections=4 * len(members) + 8,
        )

    def start(self) -> None:
        """Listen, and dial everybody."""
        self.listener.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(link.keep_up()) for link in self.links.values()]

    def send(self, to: Sequence[NodeId], message: Any) -> None:
        """Queue a message for each node of `to`, encoded once; `flush` sends it."""
        body = encode(message)
        kind = type(message).__name__
        if len(body) > MAX_FRAME_BYTES:
            log.error("message_too_large", kind=kind, bytes=len(body))
            self.traffic.refuse("self", "oversize")
            return
        data = frame(body)
        for node in to:
            link = self.links[node]
            link.outgoing.put(data)
            self._unsent[link.outgoing] = None
            self.traffic.count("sent", link.name, kind, len(data))

    def flush(self) -> None:
        """Send what was queued, as far as the connections take it."""
        if self._unsent:
            for outgoing in self._unsent:
                outgoing.flush()
            self._unsent.clear()

    def open(self, sender: NodeId, data: bytes) -> Any:
        """The message in a frame from `sender`; PeerFault (counted) if it is inadmissible."""
        link = f"node{sender}"
        try:
            message = self._codec.decode(data)
        except PeerFault as fault:
            self.traffic.refuse(link, fault.code)
            raise
        self.traffic.count("received", link, type(message).__name__, len(data) + 4)
        return message

    def refuse(self, node: NodeId | None, code: str, detail: str) -> None:
        """Count and log something inadmissible below the level of messages."""
        name = "unknown" if node is None else f"node{node}"
        self.traffic.refuse(name, code)
        log.warning("link_refused", peer=name, code=code, detail=detail)

    def states(self) -> list[LinkState]:
        """One entry per peer, by node id."""
        return [
            LinkState(
                node,
                link.up,
                node in self.incoming,
                link.outgoing.total_bytes,
                link.outgoing.dropped_frames,
                link.outgoing.dropped_bytes,
                link.connects,
            )
            for node, link in sorted(self.links.items())
        ]

    async def close(self) -> None:
        """End all links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.listener.close()
        for connection in list(self.accepted):
            connection.abort()
        await asyncio.sleep(0)
