"""The client port: requests in, outcomes out, and no client can hurt another.

A client that does not read its replies is not read from either; one that lets them
pile up to twice the bound is cut off. What a client may say is `Submit` and
`WantProof`; anything else ends its connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import structlog

from tepbft.core.block import Receipt, Request
from tepbft.core.events import Busy, Reply
from tepbft.core.requests import EXTENSION, open_body
from tepbft.errors import PeerFault
from tepbft.execution.outcomes import Chosen
from tepbft.runtime.inbox import Inbox, Source
from tepbft.runtime.settings import NodeSettings
from tepbft.runtime.traffic import Traffic
from tepbft.runtime.transport import WRITE_CHUNK_BYTES, Budget, FrameProtocol, Listener
from tepbft.types import MAX_BLOCK_REQUESTS, MAX_FRAME_BYTES, ConnectionId
from tepbft.wire import (
    ClientMessage,
    NotAdmitted,
    Outcome,
    Submit,
    WantProof,
    Welcome,
    client_codec,
    encode,
    frame,
)

RECEIVE_BUDGET_BYTES = 256 << 20
SWEEP_S = 1.0
log = structlog.get_logger("tepbft.clients")


class ClientConnection(FrameProtocol):
    """One client. `number` names it to the node."""

    def __init__(self, port: ClientPort) -> None:
        super().__init__(MAX_FRAME_BYTES, port.budget, 1 << 14)
        self.number = port.next_number()
        self.last_heard_s = asyncio.get_running_loop().time()
        self._port = port
        self._source: Source | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._read_holds = 0
        self._write_held = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if not self._port.listener.opened():
            self._port.traffic.refuse("clients", "too_many_connections")
            return self.abort()
        self.transport.set_write_buffer_limits(high=self._port.queue_bytes)
        self._source = self._port.inbox.source("client", self.number, self._hold, self._unhold)
        self._port.connections[self.number] = self
        self.send(self._port.welcome())
        self.flush()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._port.listener.closed()
        if self._source is not None:
            self._source.close(discard=True)
            self._port.connections.pop(self.number, None)
            self._port.gone(self.number)

    def frames_received(self, frames: list[bytes]) -> None:
        """Queue what arrived for the node."""
        self.last_heard_s = asyncio.get_running_loop().time()
        if self._source is not None:
            self._source.put(frames, sum(map(len, frames)))

    def refused(self, code: str, detail: str) -> None:
        """Count what the client did wrong and end its connection."""
        self._port.traffic.refuse("clients", code)
        log.info("client_refused", connection=self.number, code=code, detail=detail)
        self.abort()

    def pause_writing(self) -> None:
        if not self._write_held:
            self._write_held = True
            self._hold()

    def resume_writing(self) -> None:
        if self._write_held:
            self._write_held = False
            self._unhold()

    def send(self, message: ClientMessage) -> None:
        """Queue a message, which `flush` writes."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._pending_bytes + transport.get_write_buffer_size() > 2 * self._port.queue_bytes:
            return self.refused("slow_reader", "it does not read its replies")
        data = frame(encode(message))
        self._port.traffic.count("sent", "clients", type(message).__name__, len(data))
        if not self._pending:
            self._port.unsent[self] = None
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > WRITE_CHUNK_BYTES:
            self.flush()
        return None

    def flush(self) -> None:
        """Write what is queued."""
        data = b"".join(self._pending)
        self._pending = []
        self._pending_bytes = 0
        if self.transport is not None:
            self.transport.write(data)

    def _hold(self) -> None:
        self._read_holds += 1
        if self._read_holds == 1 and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _unhold(self) -> None:
        self._read_holds -= 1
        if self._read_holds == 0 and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class ClientPort:
    """All client connections of one node. Give it a bound, listening socket.

    `welcome` makes the first message of a connection; `gone` is told when one has ended.
    """

    def __init__(
        self,
        *,
        chain_id: bytes,
        context: ssl.SSLContext,
        sock: socket.socket,
        inbox: Inbox,
        traffic: Traffic,
        settings: NodeSettings,
        next_number: Callable[[], ConnectionId],
    ) -> None:
        self.chain_id = chain_id
        self.inbox = inbox
        self.traffic = traffic
        self.next_number = next_number
        self.queue_bytes = settings.client_queue_bytes
        self.budget = Budget(RECEIVE_BUDGET_BYTES)
        self.connections: dict[ConnectionId, ClientConnection] = {}
        self.unsent: dict[ClientConnection, None] = {}
        """Connections for which something is queued."""
        self.welcome: Callable[[], Welcome] = lambda: Welcome(chain_id, settings.node, 0, 0)
        self.gone: Callable[[ConnectionId], None] = lambda number: None
        self._submit_head = encode(Submit(chain_id, []))[:-1]  # what all for this chain begin with
        self._idle_s = settings.client_idle_ms / 1000
        self._sweeper: asyncio.Task[None] | None = None
        self.listener = Listener(
            sock,
            context,
            lambda: ClientConnection(self),
            handshake_timeout_ms=settings.handshake_timeout_ms,
            max_connections=settings.max_clients,
        )

    def start(self) -> None:
        """Begin to accept clients."""
        self.listener.start()
        if self._idle_s:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    def open(self, data: bytes) -> Submit | WantProof:
        """The message in a client's frame; PeerFault (counted) if it is inadmissible."""
        try:
            message = self._submitted(data) or client_codec.decode(data)
            if not isinstance(message, Submit | WantProof):
                raise PeerFault("unexpected_message", type(message).__name__)
            if isinstance(message, Submit) and message.chain_id != self.chain_id:
                raise PeerFault("wrong_chain", f"for chain {message.chain_id.hex()[:16]}…")
        except PeerFault as fault:
            self.traffic.refuse("clients", fault.code)
            raise
        self.traffic.count("received", "clients", type(message).__name__, len(data) + 4)
        return message

    def _submitted(self, data: bytes) -> Submit | None:
        """Requests for this chain, in a table where the extension is at hand. None if it takes the codec to
        tell what the frame is, or what is wrong with it: both accept the same."""
        if not EXTENSION or not data.startswith(self._submit_head):
            return None
        try:
            requests, _ = open_body(self.chain_id, data[len(self._submit_head) :])
        except PeerFault:
            return None
        return Submit(self.chain_id, cast(list[Request], requests))

    def reply(self, reply: Reply, view: int) -> None:
        """Send outcomes; nothing happens if the client is gone."""
        connection = self.connections.get(reply.connection)
        if connection is not None:
            connection.send(Outcome(view, reply.height, _to_send(reply.receipts)))

    def busy(self, busy: Busy) -> None:
        """Tell a client what was not admitted."""
        connection = self.connections.get(busy.connection)
        if connection is None:
            return
        for start in range(0, len(busy.requests), MAX_BLOCK_REQUESTS):
            part = busy.requests[start : start + MAX_BLOCK_REQUESTS]
            connection.send(NotAdmitted([(c, s, q, code[:32]) for c, s, q, code in part]))

    def send(self, number: ConnectionId, message: ClientMessage) -> None:
        """Send to one client; nothing happens if it is gone."""
        connection = self.connections.get(number)
        if connection is not None:
            connection.send(message)

    def flush(self) -> None:
        """Send what was queued, as far as the connections take it."""
        if self.unsent:
            for connection in self.unsent:
                connection.flush()
            self.unsent.clear()

    def drop(self, number: ConnectionId, fault: PeerFault) -> None:
        """End the connection of a client that sent something inadmissible (already counted)."""
        connection = self.connections.get(number)
        if connection is not None:
            log.info("client_refused", connection=number, code=fault.code, detail=fault.detail)
            connection.abort()

    async def close(self) -> None:
        """Stop accepting; say goodbye to those that are here."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self.listener.close()
        for connection in list(self.connections.values()):
            connection.abort()
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_S, self._idle_s))
            silent_since_s = asyncio.get_running_loop().time() - self._idle_s
            for connection in list(self.connections.values()):
                if connection.last_heard_s < silent_since_s:
                    connection.refused("idle", "")


def _to_send(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Receipts as a message may hold them: as they are, or encoded already."""
    if isinstance(receipts, Chosen):
        return cast(list[Receipt], msgspec.Raw(receipts.encoded()))
    return list(receipts)
