"""One connection to one node's client port: TLS 1.3, pinned certificate, frames, reconnection."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from random import Random
from typing import Any

from tepbft.core.configuration import Member
from tepbft.errors import PeerFault
from tepbft.wire import LENGTH, MAX_FRAME_BYTES, Welcome, client_codec

CONNECT_TIMEOUT_S = 5.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
STEADY_S = 2.0
"""A connection that lasted this long starts the back-off anew when it breaks."""
WRITE_BUFFER_BYTES = 4 << 20
READ_BUFFER_BYTES = 1 << 16


def client_tls() -> ssl.SSLContext:
    """TLS 1.3 without authorities: the certificate's digest decides, after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Frames:
    """Cuts a stream into frames. Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The frames that `data` completes; PeerFault for one above MAX_FRAME_BYTES."""
        self._rest += data
        frames: list[bytes] = []
        at, end = 0, len(self._rest)
        with memoryview(self._rest) as view:
            while end - at >= 4:
                (length,) = LENGTH.unpack_from(view, at)
                if length > MAX_FRAME_BYTES:
                    raise PeerFault("frame_too_large", f"{length} bytes")
                if end - at - 4 < length:
                    break
                frames.append(bytes(view[at + 4 : at + 4 + length]))
                at += 4 + length
        del self._rest[:at]
        return frames


class NodeLink:
    """Keeps a connection to one node. `received` gets decoded messages, `up` is called when the
    node has said a proper welcome; both are called from the event loop and must not block.

    `problem` says in words why there is no connection (empty if there is one).
    """

    def __init__(
        self,
        chain_id: bytes,
        member: Member,
        tls: ssl.SSLContext,
        rng: Random,
        *,
        received: Callable[[int, list[Any]], None],
        up: Callable[[int], None],
        raw: bool = False,
    ) -> None:
        self.member = member
        self.raw = raw
        """Deliver frames behind the welcome as bytes: the receiver compares before it decodes."""
        self.problem = "not tried yet"
        self._chain_id = chain_id
        self._tls = tls
        self._rng = rng
        self._received = received
        self._up = up
        self._wire: _Wire | None = None

    @property
    def connected(self) -> bool:
        """True after the welcome, until the connection breaks."""
        return self._wire is not None

    def send(self, data: bytes) -> bool:
        """Write whole frames; False (nothing is written) without a connection, or while the node
        does not read. What is not written is repeated by the session."""
        wire = self._wire
        if wire is None or wire.paused:
            return False
        wire.transport.write(data)
        return True

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            wire = _Wire(self)
            started_s = loop.time()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.create_connection(
                        lambda wire=wire: wire,  # type: ignore[misc]
                        self.member.host,
                        self.member.client_port,
                        ssl=self._tls,
                    )
                    await wire.welcomed
                await wire.closed
            except TimeoutError:
                self.problem = f"no answer within {CONNECT_TIMEOUT_S:g} s"
            except (OSError, ssl.SSLError, PeerFault) as error:
                self.problem = str(error) or type(error).__name__
            finally:
                self._wire = None
                wire.abort()
            if loop.time() - started_s > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s * (0.5 + self._rng.random()))
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    def close(self) -> None:
        """Break the connection now. The task of `run` has to be cancelled before."""
        if self._wire is not None:
            self._wire.abort()

    # --- called by the wire ---

    def _welcome(self, wire: _Wire, message: Welcome) -> None:
        if message.chain_id != self._chain_id:
            raise PeerFault("wrong_chain", f"it serves chain {message.chain_id.hex()[:16]}…")
        if message.node != self.member.node:
            raise PeerFault("wrong_node", f"it says that it is node {message.node}")
        self._wire = wire
        self.problem = ""

    def _deliver(self, messages: list[Any]) -> None:
        self._received(self.member.node, messages)

    def _is_up(self) -> None:
        self._up(self.member.node)


class _Wire(asyncio.BufferedProtocol):
    """The asyncio side of one connection attempt. It brings its own buffer: the loop would ask the system
    for a quarter of a megabyte at each read and give it back, which took longer than the read."""

    transport: asyncio.Transport

    def __init__(self, link: NodeLink) -> None:
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.paused = False
        self._link = link
        self._frames = Frames()
        self._made = False
        self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._made = True
        session = transport.get_extra_info("ssl_object")
        der = session.getpeercert(binary_form=True) if session is not None else None
        if der is None or hashlib.sha256(der).digest() != self._link.member.certificate:
            self._fail(PeerFault("wrong_certificate", "its TLS certificate is not the one in the genesis"))
            return
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.closed.done():
            return
        try:
            messages: list[Any] = list(self._frames.feed(self._buffer[:nbytes]))
            fresh = messages and not self.welcomed.done()
            if not self._link.raw:
                messages = [client_codec.decode(frame) for frame in messages]
            elif fresh:
                messages[0] = client_codec.decode(messages[0])
            if fresh:
                first = messages[0]
                if not isinstance(first, Welcome):
                    raise PeerFault("no_welcome", "it does not begin with a welcome")
                self._link._welcome(self, first)
                self.welcomed.set_result(None)
                self._link._deliver(messages)
                self._link._is_up()
            elif messages:
                self._link._deliver(messages)
        except PeerFault as fault:
            self._fail(fault)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(PeerFault("closed", str(error) if error else "the node closed the connection"))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def abort(self) -> None:
        """Break the connection, if there is one."""
        if self._made:
            self.transport.abort()
        for future in (self.welcomed, self.closed):
            future.cancel()

    def _fail(self, fault: PeerFault) -> None:
        for future in (self.welcomed, self.closed):
            if not future.done():
                future.set_exception(fault)
                future.exception()  # marks it as seen: the task may wait for the other one
        if self._made:
            self.transport.abort()
