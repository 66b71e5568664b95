"""TLS straight on a socket, as a transport for the event loop.

The loops' own TLS hands bytes through buffers in memory, and writes once per turn. Between
nodes a message is some hundred bytes and somebody waits for it: here one call encrypts and
writes it, at once (ADR 0024). OpenSSL speaks to the socket; this module only waits for the
socket where OpenSSL has to, and keeps the contract of `asyncio.Transport`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from fcntl import ioctl
from termios import FIONREAD
from typing import Any

READS_PER_TURN = 64
"""After so many reads, each of one TLS record at most (16 KiB), the other connections have their turn."""
DEFAULT_HIGH_BYTES = 1 << 16
_COUNT = struct.Struct("i")
_NOTHING = bytes(_COUNT.size)


class SecureTransport(asyncio.Transport):
    """A connection whose handshake is done. Its protocol is a `BufferedProtocol`.

    `write` sends at once what the socket takes and keeps the rest, in order; above the high water mark
    the protocol is asked to pause. A connection that breaks, ends, or is aborted tells its protocol so in
    a later turn of the loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: ssl.SSLSocket, protocol: asyncio.BufferedProtocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._high, self._low = DEFAULT_HIGH_BYTES, DEFAULT_HIGH_BYTES // 4
        self._closing = self._paused = False
        self._reading = True
        protocol.connection_made(self)
        if self.is_reading():
            loop.add_reader(self._fd, self._readable)
            loop.call_soon(self._readable)  # what came with the handshake may be decrypted already

    # --- reading ------------------------------------------------------------------------------

    def _readable(self) -> None:
        sock, protocol = self._sock, self._protocol
        try:
            for _ in range(READS_PER_TURN):
                if self._closing or not self._reading:
                    return
                view = memoryview(protocol.get_buffer(-1))
                room = view.nbytes
                count = sock.recv_into(view)
                if not count:
                    return self._lose(None)
                protocol.buffer_updated(count)
                if count < room and not self._waiting():  # all that was decrypted, and nothing behind it
                    return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return  # it goes on when more arrives; what OpenSSL wants to write goes out with the next write
        except OSError as error:
            return self._lose(error)
        if sock.pending():
            self._loop.call_soon(self._readable)  # decrypted already: the socket does not report it

    def _waiting(self) -> int:
        """Bytes that the socket holds. To ask costs less than a read that fails."""
        (count,) = _COUNT.unpack(ioctl(self._fd, FIONREAD, _NOTHING))
        return int(count)

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        if self._reading and not self._closing:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Go on, with what was decrypted before as well."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)
            if self._sock.pending():
                self._loop.call_soon(self._readable)

    def is_reading(self) -> bool:
        """Whether what arrives is read."""
        return self._reading and not self._closing

    # --- writing ------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send `data` now, or as soon as the socket takes it. After a close it is dropped."""
        if self._closing or not data:
            return
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except ssl.SSLWantWriteError:
                sent = 0
                self._loop.add_writer(self._fd, self._writable)
            except OSError as error:
                return self._lose(error)
            if sent == len(data):
                return
            if sent:
                return self.write(memoryview(data)[sent:])
        # OpenSSL wants to be given the same bytes again: the caller may change its own.
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _writable(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                data = unsent[0]
                sent = self._sock.send(data)
                self._unsent_bytes -= sent
                if sent < len(data):
                    unsent[0] = data[sent:]
                else:
                    unsent.popleft()
        except ssl.SSLWantWriteError:
            pass
        except OSError as error:
            return self._lose(error)
        if not unsent:
            self._loop.remove_writer(self._fd)
        if self._paused and self._unsent_bytes <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Above `high` bytes kept, the protocol is asked to pause; at `low` (a quarter of it), to resume."""
        self._high = DEFAULT_HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken; a write that it took in part counts in full."""
        return self._unsent_bytes

    def can_write_eof(self) -> bool:
        """False: TLS cannot close one direction."""
        return False

    # --- ending -------------------------------------------------------------------------------

    def _lose(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._unsent.clear()
            self._unsent_bytes = 0
            self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()

    def abort(self) -> None:
        """Close; what was not sent is lost."""
        self._lose(None)

    def close(self) -> None:
        """As `abort`: whoever reads frames does not depend on how the last one ends."""
        self._lose(None)

    def is_closing(self) -> bool:
        """True from the moment at which the connection ended or was aborted."""
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` and `socket` are the TLS socket."""
        return self._sock if name in ("ssl_object", "socket") else default


async def shake_hands(sock: ssl.SSLSocket) -> None:
    """The handshake on a socket that does not block. OSError (also ssl.SSLError) if it fails."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock.fileno(), loop.add_writer, loop.remove_writer)


async def _ready(fd: int, watch: Callable[..., None], unwatch: Callable[[int], bool]) -> None:
    """Until the loop reports `fd`."""
    reported = asyncio.Event()
    watch(fd, reported.set)
    try:
        await reported.wait()
    finally:
        unwatch(fd)


async def secured(
    sock: socket.socket,
    context: ssl.SSLContext,
    factory: Callable[[], asyncio.BufferedProtocol],
    *,
    server_side: bool,
    timeout_s: float,
) -> SecureTransport:
    """TLS on a connected socket that does not block, and a protocol on top of it. The socket is closed if
    that fails: OSError (also ssl.SSLError), TimeoutError."""
    loop = asyncio.get_running_loop()
    try:
        wrapped = context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        async with asyncio.timeout(timeout_s):
            await shake_hands(wrapped)
        return SecureTransport(loop, wrapped, factory())
    except BaseException:
        wrapped.close()
        raise


async def dial(host: str, port: int) -> socket.socket:
    """A connected socket that does not block: the first of the host's addresses that answers. OSError."""
    loop = asyncio.get_running_loop()
    problem: OSError | None = None
    for family, kind, proto, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
    raise problem or OSError(f"{host} has no address")
