"""TLS straight on a socket: the contract of a transport, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from runtime_support import anchors_of, parties, until

from tepbft.runtime.secure import READS_PER_TURN, SecureTransport, dial, secured
from tepbft.runtime.tls import TlsContexts, peer_digest


class Keeper(asyncio.BufferedProtocol):
    """Keeps what arrives, in a buffer of `room` bytes, and notes what it is told."""

    def __init__(self, room: int = 1 << 16) -> None:
        self.room = memoryview(bytearray(room))
        self.got = bytearray()
        self.told: list[str] = []
        self.lost: list[Exception | None] = []
        self.stop_after = 0
        self.transport: SecureTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SecureTransport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.room[:nbytes]
        if 0 < self.stop_after <= len(self.got):
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


@dataclass
class Pair:
    """Both ends of one connection."""

    contexts: TlsContexts
    a: Keeper
    b: Keeper


@contextlib.asynccontextmanager
async def pair(folder: Path, room: int = 1 << 16) -> AsyncIterator[Pair]:
    """A connected pair of transports."""
    found = parties(folder, 1)
    contexts = found[0].contexts(anchors_of(found))
    left, right = socket.socketpair()
    for sock in (left, right):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    a, b = Keeper(), Keeper(room)
    await asyncio.gather(
        secured(left, contexts.peer_client, lambda: a, server_side=False, timeout_s=10),
        secured(right, contexts.peer_server, lambda: b, server_side=True, timeout_s=10),
    )
    try:
        yield Pair(contexts, a, b)
    finally:
        for end in (a, b):
            end.transport.abort()
        await until(lambda: a.lost and b.lost)


async def test_what_is_written_arrives_and_each_end_knows_the_other(tmp_path: Path) -> None:
    async with pair(tmp_path) as p:
        p.a.transport.write(b"there")
        p.b.transport.write(b"back")
        assert p.a.transport.get_write_buffer_size() == 0  # it left at once
        await until(lambda: p.b.got == b"there" and p.a.got == b"back")
        assert peer_digest(p.a.transport) == peer_digest(p.b.transport) is not None
        assert p.a.transport.get_extra_info("peername", "none") == "none"


@pytest.mark.parametrize("room", [7, 1000, 1 << 14, 1 << 16])
async def test_any_amount_arrives_in_order_through_a_buffer_of_any_size(tmp_path: Path, room: int) -> None:
    """Bytes that were decrypted with others are not reported by the socket: they must not be forgotten."""
    async with pair(tmp_path, room) as p:
        pieces = [bytes([n % 251]) * (n * 97 % 40_000) for n in range(40)]
        for piece in pieces:
            p.a.transport.write(piece)
        await until(lambda: len(p.b.got) == sum(map(len, pieces)))
        assert p.b.got == b"".join(pieces)


async def test_many_small_writes_are_read_in_one_turn(tmp_path: Path) -> None:
    """What waits together is worked off together: a turn may take long, and there may be many writes."""
    async with pair(tmp_path) as p:
        await asyncio.sleep(0.05)
        count = READS_PER_TURN // 2
        for n in range(count):
            p.a.transport.write(bytes([n]) * 10)
        p.b.transport._readable()
        assert len(p.b.got) == 10 * count


async def test_a_full_socket_keeps_the_rest_and_says_so(tmp_path: Path) -> None:
    async with pair(tmp_path) as p:
        p.b.transport.pause_reading()
        assert not p.b.transport.is_reading()
        p.a.transport.set_write_buffer_limits(high=100_000)
        data = bytearray(bytes(range(256)) * 4000)
        p.a.transport.write(data)
        assert p.a.told == ["pause"]
        assert p.a.transport.get_write_buffer_size() == len(data)
        sent = bytes(data)
        data[:] = bytes(len(data))  # the caller's own again
        p.a.transport.write(b"behind")
        await asyncio.sleep(0.05)
        assert p.b.got == b""
        p.b.transport.resume_reading()
        await until(lambda: len(p.b.got) == len(sent) + 6)
        assert p.b.got == sent + b"behind"
        assert p.a.told == ["pause", "resume"]
        assert p.a.transport.get_write_buffer_size() == 0


async def test_reading_stops_in_the_middle_of_a_record_and_goes_on_with_it(tmp_path: Path) -> None:
    async with pair(tmp_path, 100) as p:
        p.b.stop_after = 100
        p.a.transport.write(b"x" * 5000)
        await until(lambda: p.b.got)
        await asyncio.sleep(0.05)
        assert len(p.b.got) == 100
        p.b.stop_after = 0
        p.b.transport.resume_reading()
        await until(lambda: len(p.b.got) == 5000)


async def test_an_end_that_goes_away_is_told_once_and_late_writes_are_dropped(tmp_path: Path) -> None:
    async with pair(tmp_path) as p:
        p.a.transport.abort()
        assert p.a.transport.is_closing() and p.a.lost == []  # not from inside the call
        p.a.transport.write(b"late")
        p.a.transport.abort()
        await until(lambda: p.a.lost and p.b.lost)
        assert len(p.a.lost) == len(p.b.lost) == 1
        p.b.transport.write(b"late")
        p.b.transport.resume_reading()
        p.b.transport.pause_reading()
        assert p.b.transport.get_write_buffer_size() == 0


async def test_bytes_that_are_no_tls_end_the_connection(tmp_path: Path) -> None:
    found = parties(tmp_path, 1)
    contexts = found[0].contexts(anchors_of(found))
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    wrapped = contexts.peer_client.wrap_socket(left, do_handshake_on_connect=False)
    keeper = Keeper()
    accepting = asyncio.ensure_future(
        secured(right, contexts.peer_server, lambda: keeper, server_side=True, timeout_s=10)
    )
    while not accepting.done():
        with contextlib.suppress(ssl.SSLWantReadError):
            wrapped.do_handshake()
        await asyncio.sleep(0.005)
    raw = socket.socket(fileno=wrapped.detach())
    raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted
    await until(lambda: keeper.lost)
    assert isinstance(keeper.lost[0], ssl.SSLError)
    raw.close()


@pytest.mark.parametrize("timeout_s", [0.05, 10.0])
async def test_a_handshake_that_fails_or_never_comes_closes_the_socket(
    tmp_path: Path, timeout_s: float
) -> None:
    found = parties(tmp_path, 1)
    context = found[0].contexts(anchors_of(found)).peer_server
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    if timeout_s > 1:
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises((TimeoutError, ssl.SSLError)):
        await secured(ours, context, Keeper, server_side=True, timeout_s=timeout_s)
    theirs.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        while theirs.recv(4096):
            pass  # an alert perhaps, then the end
    theirs.close()


async def test_dialling_takes_the_first_address_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sock = await dial("localhost", port)  # ::1 may come first, where nobody listens
        assert sock.getpeername()[1] == port and not sock.getblocking()
        sock.close()
    with pytest.raises(OSError):
        await dial("127.0.0.1", port)
