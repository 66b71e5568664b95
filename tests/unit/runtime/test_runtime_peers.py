"""Links between nodes over real TLS on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from runtime_support import CHAIN, Note, anchors_of, cluster, parties, until

from tepbft.errors import PeerFault, TepbftError
from tepbft.runtime.peers import Hello
from tepbft.runtime.transport import bind
from tepbft.types import MAX_FRAME_BYTES
from tepbft.wire import LENGTH, encode, frame


async def raw_connection(
    context: ssl.SSLContext, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Everything until the other end closes."""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except (ConnectionError, ssl.SSLError):
        return b""


async def test_two_nodes_exchange_messages_and_count_them(tmp_path: Path) -> None:
    """B7: counts and bytes per type, link and direction, kept by the network layer."""
    async with cluster(tmp_path) as c:
        a, b = c.network(0), c.network(1)
        a.start()
        b.start()
        notes = [Note(bytes([n % 256]) * (n * 37 % 5000)) for n in range(300)] + [Note(b"z" * (3 << 20))]
        for note in notes:
            a.send((1,), note)
            a.flush()
        b.send((0,), Note(b"back"))
        b.flush()
        got: list[Note] = []

        def all_there() -> bool:
            got.extend(b.open(sender, data) for sender, data in c.received(1))
            return len(got) == len(notes)

        await until(all_there)
        assert got == notes
        await until(lambda: c.inboxes[0])
        assert [a.open(sender, data) for sender, data in c.received(0)] == [Note(b"back")]
        sent = {(d, link): (n, size) for d, link, kind, n, size in a.traffic.messages() if kind == "Note"}
        heard = {(d, link): (n, size) for d, link, kind, n, size in b.traffic.messages() if kind == "Note"}
        assert sent["sent", "node1"] == heard["received", "node0"]
        assert sent["sent", "node1"][0] == len(notes)
        assert [(s.node, s.sending, s.receiving) for s in a.states()] == [(1, True, True)]


async def test_a_stranger_with_an_own_certificate_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        a.start()
        stranger = parties(tmp_path / "..", 1)[0]
        stranger.folder = tmp_path / "stranger"
        context = stranger.contexts(anchors_of(c.parties)).peer_client
        with pytest.raises((ConnectionError, ssl.SSLError, EOFError)):
            reader, writer = await raw_connection(context, c.ports[0])
            writer.write(frame(encode(Hello(CHAIN, 1, 1))))
            await writer.drain()
            if not await closed(reader):
                raise ConnectionResetError
        assert a.incoming == {}


async def test_a_node_without_certificate_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        a.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises((ConnectionError, ssl.SSLError, EOFError)):
            reader, writer = await raw_connection(context, c.ports[0])
            writer.write(frame(encode(Hello(CHAIN, 1, 1))))
            await writer.drain()
            if not await closed(reader):
                raise ConnectionResetError
        assert a.incoming == {}


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        c.network(0).start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await raw_connection(context, c.ports[0])


async def test_a_member_in_anothers_place_gets_nothing(tmp_path: Path) -> None:
    """Node 2 answers at node 1's address: trusted, but not the one that the table names."""
    async with cluster(tmp_path, 3) as c:
        a = c.network(0)
        impostor = c.network(1, party=c.parties[2])
        a.start()
        impostor.listener.start()
        a.send((1,), Note(b"secret"))
        a.flush()
        await until(lambda: ("node1", "unknown_certificate") in {(x, y) for x, y, _ in a.traffic.refusals()})
        assert not a.links[1].up
        assert c.received(1) == []


async def test_a_hello_for_another_node_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as c:
        a = c.network(0)
        a.start()
        context = c.parties[1].contexts(anchors_of(c.parties)).peer_client
        reader, writer = await raw_connection(context, c.ports[0])
        writer.write(frame(encode(Hello(CHAIN, 2, 1))))
        assert await closed(reader) == b""
        writer.close()
        assert a.traffic.refused_total() == {"wrong_node": 1}


async def test_another_chain_or_version_is_refused_by_both_ends(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a, b = c.network(0), c.network(1, chain=b"\x08" * 32)
        a.start()
        b.start()
        await until(lambda: a.traffic.refused_total().get("wrong_chain"))
        await until(lambda: b.traffic.refused_total().get("wrong_chain"))
        assert not a.links[1].up and not b.links[0].up
        await b.close()
        context = c.parties[1].contexts(anchors_of(c.parties)).peer_client
        reader, writer = await raw_connection(context, c.ports[0])
        writer.write(frame(encode(Hello(CHAIN, 1, 99))))
        assert await closed(reader) == b""
        writer.close()
        assert a.traffic.refused_total()["wrong_version"] == 1


async def test_oversize_frames_end_the_link_before_and_after_the_hello(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        a.start()
        context = c.parties[1].contexts(anchors_of(c.parties)).peer_client
        hello = frame(encode(Hello(CHAIN, 1, 1)))
        for start in (b"", hello):
            reader, writer = await raw_connection(context, c.ports[0])
            writer.write(start + LENGTH.pack(MAX_FRAME_BYTES + 1))
            await closed(reader)
            writer.close()
        assert a.traffic.refused_total() == {"oversize": 2}
        assert c.received(0) == []


async def test_malformed_messages_are_counted_by_code(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        with pytest.raises(PeerFault):
            a.open(1, b"\xff\xff")
        assert a.traffic.refusals() == [("node1", "malformed", 1)]


async def test_a_link_comes_back_after_the_peer_restarts(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a, b = c.network(0), c.network(1)
        a.start()
        b.start()
        await until(lambda: a.links[1].up and b.links[0].up)
        await b.close()
        await until(lambda: not a.links[1].up)
        a.send((1,), Note(b"while it was down"))
        a.flush()
        again = c.network(1)
        again.start()
        await until(lambda: c.inboxes[1])
        assert [again.open(s, d) for s, d in c.received(1)] == [Note(b"while it was down")]
        await until(lambda: again.links[0].up and 1 in a.incoming)
        again.send((0,), Note(b"hello again"))
        again.flush()
        await until(lambda: c.inboxes[0])
        assert a.links[1].connects == 2


async def test_a_second_connection_of_a_peer_replaces_the_first(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        a.start()
        context = c.parties[1].contexts(anchors_of(c.parties)).peer_client
        hello = frame(encode(Hello(CHAIN, 1, 1)))
        first, first_writer = await raw_connection(context, c.ports[0])
        first_writer.write(hello)
        await until(lambda: 1 in a.incoming)
        second, second_writer = await raw_connection(context, c.ports[0])
        second_writer.write(hello + frame(encode(Note(b"mine"))))
        assert await closed(first) == a.hello_frame
        await until(lambda: c.inboxes[0])
        assert [data for _, data in c.received(0)] == [encode(Note(b"mine"))]
        assert await second.readexactly(len(a.hello_frame)) == a.hello_frame
        for writer in (first_writer, second_writer):
            writer.close()


async def test_a_peer_that_is_down_costs_a_bounded_queue(tmp_path: Path) -> None:
    """I-17: drop-oldest, with a counter."""
    async with cluster(tmp_path) as c:
        a = c.network(0)
        for number in range(20):
            a.send((1,), Note(bytes([number]) * (1 << 20)))
        a.flush()
        state = a.states()[0]
        assert state.queued_bytes <= 4 << 20
        assert state.dropped_frames >= 16
        b = c.network(1, inbox_bytes=1 << 25)
        a.start()
        b.start()
        texts: list[int] = []

        def all_there() -> bool:
            texts.extend(b.open(s, d).text[0] for s, d in c.received(1))
            return len(texts) == 20 - state.dropped_frames

        await until(all_there)
        assert texts == list(range(20 - len(texts), 20))  # the newest, in order


async def test_a_full_inbox_stops_reading_and_loses_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a, b = c.network(0), c.network(1, inbox_bytes=1 << 17)
        a.start()
        b.start()
        await until(lambda: a.links[1].up)
        count = 400
        for number in range(count):
            a.send((1,), Note(number.to_bytes(2, "little") * 5000))
        a.flush()
        await until(lambda: c.inboxes[1].bytes_of("peer") > 1 << 17)
        await asyncio.sleep(0.1)
        assert c.inboxes[1].bytes_of("peer") < 2 << 20  # the rest waits at the sender
        got: list[bytes] = []

        def drained() -> bool:
            got.extend(data for _, data in c.received(1))
            return len(got) == count

        await until(drained)
        assert [b.open(0, data).text[:2] for data in got] == [n.to_bytes(2, "little") for n in range(count)]


async def test_idle_strangers_do_not_keep_members_out(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a, b = c.network(0), c.network(1)
        a.listener._max_handshakes = 4
        a.start()
        idle = []
        for _ in range(12):
            sock = socket.create_connection(("127.0.0.1", c.ports[0]))
            idle.append(sock)
        await until(lambda: a.listener.rejected >= 8)
        b.start()
        await until(lambda: b.links[0].up)
        for sock in idle:
            sock.close()


async def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        a = c.network(0)
        a.handshake_s = 0.1
        a.start()
        context = c.parties[1].contexts(anchors_of(c.parties)).peer_client
        reader, writer = await raw_connection(context, c.ports[0])
        assert await closed(reader) == b""
        writer.close()
        assert a.traffic.refused_total() == {"hello_timeout": 1}


def test_a_port_in_use_is_named() -> None:
    sock = bind("127.0.0.1", 0, "peer")
    port = sock.getsockname()[1]
    with pytest.raises(TepbftError, match=f"client port {port}.*another process"):
        bind("127.0.0.1", port, "client")
    sock.close()
    with pytest.raises(TepbftError, match="bind_host"):
        bind("192.0.2.1", 0, "client")


def test_a_message_above_the_frame_limit_is_not_sent(tmp_path: Path) -> None:
    async def run() -> None:
        async with cluster(tmp_path) as c:
            a = c.network(0)
            a.send((1,), Note(b"x" * MAX_FRAME_BYTES))
            assert a.states()[0].queued_bytes == 0
            assert a.traffic.refused_total() == {"oversize": 1}

    asyncio.run(run())
