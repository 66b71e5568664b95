"""The client port over real TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_support import CHAIN, anchors_of, parties, until

from fuzz.fuzz_mutations import hostile
from tepbft.core.block import Receipt, Request
from tepbft.core.events import Busy, Reply
from tepbft.core.requests import EXTENSION
from tepbft.errors import PeerFault
from tepbft.runtime.clients import ClientPort
from tepbft.runtime.inbox import Inbox
from tepbft.runtime.settings import NodeSettings
from tepbft.runtime.traffic import Traffic
from tepbft.runtime.transport import bind
from tepbft.types import MAX_FRAME_BYTES, ConnectionId
from tepbft.wire import (
    LENGTH,
    NotAdmitted,
    Outcome,
    Submit,
    WantProof,
    Welcome,
    client_codec,
    encode,
    frame,
)

REQUEST = Request(b"c" * 16, 1, 1, b"op", b"auth")


@contextlib.asynccontextmanager
async def client_port(folder: Path, **changed: Any) -> AsyncIterator[ClientPort]:
    found = parties(folder, 1)
    numbers = itertools.count(1)
    port = ClientPort(
        chain_id=CHAIN,
        context=found[0].contexts(anchors_of(found)).client_server,
        sock=bind("127.0.0.1", 0, "client"),
        inbox=Inbox(1 << 20),
        traffic=Traffic(),
        settings=msgspec.structs.replace(NodeSettings(node=0), **changed),
        next_number=lambda: ConnectionId(next(numbers)),
    )
    port.start()
    try:
        yield port
    finally:
        await port.close()


class Client:
    """A raw client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, port: ClientPort, limit: int = 1 << 24) -> Client:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = cls()
        client.reader, client.writer = await asyncio.open_connection(
            "127.0.0.1", port.listener.port, ssl=context, server_hostname="", limit=limit
        )
        return client

    def say(self, message: Any) -> None:
        self.writer.write(frame(encode(message)))

    async def hear(self) -> Any:
        async with asyncio.timeout(10):
            (length,) = LENGTH.unpack(await self.reader.readexactly(4))
            return client_codec.decode(await self.reader.readexactly(length))

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(10):
                while await self.reader.read(1 << 16):
                    pass
        self.writer.close()
        return True


async def test_welcome_submit_outcome_and_busy(tmp_path: Path) -> None:
    async with client_port(tmp_path) as port:
        port.welcome = lambda: Welcome(CHAIN, 0, 5, 2)
        client = await Client.connect(port)
        assert await client.hear() == Welcome(CHAIN, 0, 5, 2)
        client.say(Submit(CHAIN, [REQUEST]))
        await until(lambda: port.inbox)
        ((source, data),) = port.inbox.take(10)
        assert list(port.open(data).requests) == [REQUEST]
        number = ConnectionId(source.name)
        receipt = Receipt(REQUEST.client, 1, 1, b"d" * 32, 0, b"done")
        port.reply(Reply(number, 9, (receipt,)), 5)
        port.busy(Busy(number, [(REQUEST.client, 1, 2, "busy")]))
        port.flush()
        assert await client.hear() == Outcome(5, 9, [receipt])
        assert await client.hear() == NotAdmitted([(REQUEST.client, 1, 2, "busy")])
        gone: list[int] = []
        port.gone = gone.append
        client.writer.close()
        await until(lambda: gone == [number])
        port.reply(Reply(number, 9, (receipt,)), 5)  # nothing happens
        assert port.connections == {}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Submit(b"\x01" * 32, [REQUEST]), "wrong_chain"),
        (Welcome(CHAIN, 0, 0, 0), "unexpected_message"),
        (b"\xc1", "malformed"),
    ],
)
async def test_what_a_client_may_not_say(tmp_path: Path, message: Any, code: str) -> None:
    async with client_port(tmp_path) as port:
        data = message if isinstance(message, bytes) else encode(message)
        with pytest.raises(PeerFault) as caught:
            port.open(data)
        assert caught.value.code == code
        assert port.traffic.refusals() == [("clients", code, 1)]
        assert isinstance(port.open(encode(WantProof(b"c" * 16, 1, 1))), WantProof)


async def test_a_faulty_client_is_cut_off_alone(tmp_path: Path) -> None:
    async with client_port(tmp_path) as port:
        good, bad = await Client.connect(port), await Client.connect(port)
        await good.hear()
        await bad.hear()
        bad.writer.write(LENGTH.pack(MAX_FRAME_BYTES + 1))
        assert await bad.ended()
        assert port.traffic.refused_total() == {"oversize": 1}
        good.say(Submit(CHAIN, [REQUEST]))
        await until(lambda: port.inbox)
        good.writer.close()


async def test_one_connection_too_many_is_closed(tmp_path: Path) -> None:
    async with client_port(tmp_path, max_clients=2) as port:
        clients = [await Client.connect(port) for _ in range(2)]
        for client in clients:
            await client.hear()
        extra = await Client.connect(port)
        assert await extra.ended()
        assert port.traffic.refused_total() == {"too_many_connections": 1}
        clients[0].writer.close()
        await until(lambda: port.listener.connections == 1)
        again = await Client.connect(port)
        assert isinstance(await again.hear(), Welcome)
        for client in (clients[1], again):
            client.writer.close()


async def test_an_idle_client_is_closed(tmp_path: Path) -> None:
    async with client_port(tmp_path, client_idle_ms=50) as port:
        client = await Client.connect(port)
        assert await client.ended()
        assert port.traffic.refused_total() == {"idle": 1}


async def test_a_client_that_does_not_read_is_held_then_cut_off(tmp_path: Path) -> None:
    """I-17: replies for one client are bounded, and others are not held up by it."""
    async with client_port(tmp_path, client_queue_bytes=1 << 16) as port:
        slow = await Client.connect(port, limit=1 << 10)
        await slow.hear()
        (connection,) = port.connections.values()
        receipt = Receipt(REQUEST.client, 1, 1, b"d" * 32, 0, b"x" * 60_000)
        held = False
        for _ in range(2000):
            port.reply(Reply(connection.number, 1, (receipt,)), 0)
            port.flush()
            await asyncio.sleep(0)
            held = held or connection._read_holds > 0
            if not port.connections:
                break
        assert held
        assert port.connections == {} or connection.transport is None or connection.transport.is_closing()
        assert port.traffic.refused_total() == {"slow_reader": 1}
        slow.writer.close()


async def test_a_flooding_client_waits_while_its_requests_are_worked_off(tmp_path: Path) -> None:
    async with client_port(tmp_path) as port:
        client = await Client.connect(port)
        await client.hear()
        big = Submit(CHAIN, [Request(b"c" * 16, 1, seq, b"x" * 1000, b"") for seq in range(200)])
        for _ in range(50):
            client.say(big)
        await until(lambda: port.inbox.bytes_of("client") > 1 << 20)
        await asyncio.sleep(0.05)
        assert port.inbox.bytes_of("client") < 4 << 20
        taken = 0

        def drained() -> bool:
            nonlocal taken
            taken += len(port.inbox.take(1000))
            return taken == 50

        await until(drained)
        client.writer.close()


requests = st.builds(
    Request,
    st.binary(min_size=16, max_size=16),
    st.sampled_from([0, 1, 2**63 - 1]),
    st.integers(0, 2**63 - 1),
    st.binary(max_size=40),
    st.binary(max_size=144),
)
frames = st.lists(requests, max_size=6).map(lambda listed: encode(Submit(CHAIN, listed)))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(frames, hostile(frames)))
def test_a_table_takes_what_the_codec_takes(data: bytes) -> None:
    """With the extension and without it, the same frames are understood, in the same way, and the same
    are refused."""
    port = object.__new__(ClientPort)
    port.chain_id, port.traffic = CHAIN, Traffic()
    port._submit_head = encode(Submit(CHAIN, []))[:-1]
    try:
        expected: Any = client_codec.decode(data)
    except PeerFault as fault:
        expected = fault.code
    else:
        if not isinstance(expected, Submit | WantProof):
            expected = "unexpected_message"
        elif isinstance(expected, Submit) and expected.chain_id != CHAIN:
            expected = "wrong_chain"
    try:
        found: Any = port.open(data)
    except PeerFault as fault:
        found = fault.code
    if isinstance(found, Submit):
        found = Submit(found.chain_id, list(found.requests))
    assert found == expected


def test_requests_come_in_a_table_where_that_is_possible() -> None:
    port = object.__new__(ClientPort)
    port.chain_id, port.traffic = CHAIN, Traffic()
    port._submit_head = encode(Submit(CHAIN, []))[:-1]
    for listed in ([], [REQUEST], [REQUEST] * 300):
        found = port.open(encode(Submit(CHAIN, listed)))
        assert isinstance(found, Submit) and list(found.requests) == listed
        assert isinstance(found.requests, list) != EXTENSION
