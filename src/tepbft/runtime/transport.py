"""Frames over sockets: a u32 little-endian length, then the bytes (see `wire`).

`FrameProtocol` receives without copying more than once and refuses a frame that is
too long before it reads its body. `Outgoing` writes what is queued together and keeps
a bound. `Listener` bounds how many connections there are, and how many of
them may be in their handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

from tepbft.errors import TepbftError
from tepbft.runtime.secure import secured
from tepbft.wire import LENGTH

WRITE_CHUNK_BYTES = 1 << 18
WRITE_HIGH_WATER_BYTES = 1 << 20
DEAD_PEER_MS = 10_000
"""Unacknowledged data for this long means that the other end is gone."""
_HEADER = LENGTH.size


class Budget:
    """Bytes that connections of one port may hold together for frames that are not complete yet."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, amount: int) -> bool:
        """True if `amount` more is permitted (and now taken)."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def give(self, amount: int) -> None:
        """Return what `take` granted."""
        self.used -= amount


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts what arrives into frames. Subclasses say what happens with them.

    The buffer grows only as bytes arrive, never because a length was announced.
    """

    def __init__(self, frame_limit: int, budget: Budget, initial_bytes: int = 1 << 16) -> None:
        self.frame_limit = frame_limit
        self.transport: asyncio.Transport | None = None
        self._budget = budget
        self._initial = initial_bytes
        self._granted = 0
        self._buffer = bytearray(initial_bytes)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def frames_received(self, frames: list[bytes]) -> None:
        """Frames that arrived together, in order; none is empty."""
        raise NotImplementedError

    def refused(self, code: str, detail: str) -> None:
        """The other end broke the framing (`oversize`, `empty_frame`, `memory`); abort the connection."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._budget.give(self._granted)
        self._granted = 0
        self.transport = None

    def abort(self) -> None:
        """Close at once; what was queued is lost."""
        if self.transport is not None:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        frames = []
        start, end, view = self._start, self._end, self._view
        while end - start >= _HEADER:
            (length,) = LENGTH.unpack_from(self._buffer, start)
            if length > self.frame_limit or length == 0:
                code = "oversize" if length else "empty_frame"
                self._start = self._end = 0
                return self.refused(code, f"{length} bytes, at most {self.frame_limit}")
            stop = start + _HEADER + length
            if stop > end:
                break
            frames.append(bytes(view[start + _HEADER : stop]))
            start = stop
        self._start = start
        if not self._make_room():
            return self.refused("memory", "too many unfinished frames on this port")
        if frames and self.transport is not None:
            self.frames_received(frames)
        return None

    def _make_room(self) -> bool:
        """Leave free space behind what is buffered; False if the budget does not permit it."""
        held = self._end - self._start
        capacity = len(self._buffer)
        if held == 0:
            self._start = self._end = 0
            if self._granted and capacity > 1 << 20:
                self._replace(bytearray(self._initial))
                self._budget.give(self._granted)
                self._granted = 0
            return True
        if self._start and capacity - self._end < capacity // 2:
            self._view[:held] = self._view[self._start : self._end]
            self._start, self._end = 0, held
        if self._end == capacity:
            if not self._budget.take(capacity):
                return False
            self._granted += capacity
            self._replace(bytearray(2 * capacity))
        return True

    def _replace(self, buffer: bytearray) -> None:
        held = self._end - self._start
        view = memoryview(buffer)
        view[:held] = self._view[self._start : self._end]
        self._buffer, self._view, self._start, self._end = buffer, view, 0, held


class Outgoing:
    """Frames waiting for one connection, to be written together by `flush`: bounded, oldest dropped.

    It outlives connections: `attach` gives it one, `detach` takes it away. While there is
    none only `down_bytes` are kept, as most of it would be stale.
    """

    def __init__(self, bound_bytes: int, down_bytes: int | None = None) -> None:
        self.bound_bytes = bound_bytes
        self.down_bytes = bound_bytes if down_bytes is None else down_bytes
        self.queued_bytes = 0
        self.dropped_frames = 0
        self.dropped_bytes = 0
        self._queue: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self._paused = False

    @property
    def total_bytes(self) -> int:
        """Queued here and in the transport."""
        held = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self.queued_bytes + held

    def put(self, data: bytes) -> None:
        """Queue one frame (length included). Drops the oldest ones if that exceeds the bound."""
        self._queue.append(data)
        self.queued_bytes += len(data)
        bound = self.bound_bytes if self._transport is not None else self.down_bytes
        while self.queued_bytes > bound and len(self._queue) > 1:
            self._drop_oldest()

    def attach(self, transport: asyncio.Transport) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        self._paused = False
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.flush()

    def detach(self) -> None:
        """There is no connection now."""
        self._transport = None
        self._paused = False
        while self.queued_bytes > self.down_bytes and len(self._queue) > 1:
            self._drop_oldest()

    def pause(self) -> None:
        """The transport holds enough."""
        self._paused = True

    def resume(self) -> None:
        """The transport has room again."""
        self._paused = False
        self.flush()

    def flush(self) -> None:
        """Hand to the transport as much as it takes."""
        transport, queue = self._transport, self._queue
        while queue and transport is not None and not self._paused and not transport.is_closing():
            chunk = [queue.popleft()]
            size = len(chunk[0])
            while queue and size + len(queue[0]) <= WRITE_CHUNK_BYTES:
                chunk.append(queue.popleft())
                size += len(chunk[-1])
            self.queued_bytes -= size
            transport.write(chunk[0] if len(chunk) == 1 else b"".join(chunk))

    def _drop_oldest(self) -> None:
        data = self._queue.popleft()
        self.queued_bytes -= len(data)
        self.dropped_frames += 1
        self.dropped_bytes += len(data)


def tune(sock: socket.socket) -> None:
    """No delay for small frames, and notice a peer that is gone."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)


def bind(host: str, port: int, purpose: str) -> socket.socket:
    """A listening socket; TepbftError naming the port if it cannot be had."""
    sock = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        where = f"{purpose} port {port} on {host}"
        if error.errno == errno.EADDRINUSE:
            raise TepbftError(
                where,
                "another process listens there",
                f"End it (`ss -ltnp 'sport = :{port}'` names it), or is this node running already?",
            ) from None
        raise TepbftError(
            where, f"cannot listen ({error})", "Set bind_host in node.toml to an address of this machine."
        ) from None
    return sock


class Listener:
    """Accepts TLS connections within bounds.

    Of the connections in their handshake at most `max_handshakes` exist: one more ends the
    oldest, so that idle strangers cannot keep members out. Of the others at most
    `max_connections` (the protocol's `connection_made` and `connection_lost` must call
    `opened` and `closed`).
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.BufferedProtocol],
        *,
        handshake_timeout_ms: int,
        max_connections: int,
        max_handshakes: int = 128,
    ) -> None:
        self._sock = sock
        self._context = context
        self._factory = factory
        self._timeout_s = handshake_timeout_ms / 1000
        self._max_connections = max_connections
        self._max_handshakes = max_handshakes
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        self.rejected = 0
        """Connections closed for want of room."""
        self.failed_handshakes = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sock.getsockname()[1])

    def start(self) -> None:
        """Begin to accept."""
        self._task = asyncio.get_running_loop().create_task(self._accept())

    def opened(self) -> bool:
        """Count a connection; False if it is one too many (it must be aborted)."""
        self.connections += 1
        if self.connections > self._max_connections:
            self.rejected += 1
            return False
        return True

    def closed(self) -> None:
        """Count the end of a connection that was `opened`."""
        self.connections -= 1

    async def close(self) -> None:
        """Stop accepting; established connections are the protocols' business."""
        tasks = [task for task in (self._task, *self._handshakes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError:
                await asyncio.sleep(0.1)  # out of descriptors, or the connection went away again
                continue
            if len(self._handshakes) >= self._max_handshakes:
                next(iter(self._handshakes)).cancel()
                self.rejected += 1
                await asyncio.sleep(0)
            tune(sock)
            task = loop.create_task(self._handshake(sock))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _handshake(self, sock: socket.socket) -> None:
        try:
            await secured(sock, self._context, self._factory, server_side=True, timeout_s=self._timeout_s)
        except (OSError, TimeoutError):
            self.failed_handshakes += 1
