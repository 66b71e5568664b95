"""Relays: what passes, what waits, what breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tepbft.torment.relays import Relays, Weather

PAIR = (0, 1)


@contextlib.asynccontextmanager
async def echo_behind_relay() -> AsyncIterator[Relays]:
    """An echo server as node 1, and the relay from node 0 to it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relays = Relays({PAIR: server.sockets[0].getsockname()}, seed=1)
    await relays.start()
    try:
        yield relays
    finally:
        await relays.close()
        server.close()


async def dial(relays: Relays) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = relays.addresses_for(0)["1"].split(":")
    return await asyncio.open_connection(host, int(port))


async def test_bytes_pass_in_order_whatever_the_jitter() -> None:
    async with echo_behind_relay() as relays:
        relays.impose(1, [PAIR], Weather(jitter_ms=20))
        reader, writer = await dial(relays)
        sent = bytes(range(256)) * 2000
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()


async def test_a_cut_link_holds_back_and_a_healed_one_lets_through() -> None:
    async with echo_behind_relay() as relays:
        reader, writer = await dial(relays)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        relays.impose(1, [PAIR], Weather(cut=True))
        relays.impose(2, [PAIR], Weather(delay_ms=1))
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.readexactly(1)
        assert relays.lift(2) == {PAIR}
        assert relays.links[PAIR].weather.cut  # of the other fault
        relays.lift(1)
        assert await reader.readexactly(1) == b"b"
        writer.close()


async def test_a_healed_link_is_not_slow_any_more() -> None:
    async with echo_behind_relay() as relays:
        relays.impose(1, [PAIR], Weather(delay_ms=3_600_000))
        reader, writer = await dial(relays)
        writer.write(b"a")
        await asyncio.sleep(0.1)
        relays.heal()
        async with asyncio.timeout(10):
            assert await reader.readexactly(1) == b"a"
        writer.close()


async def test_a_reset_breaks_what_is_there() -> None:
    async with echo_behind_relay() as relays:
        reader, writer = await dial(relays)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        relays.reset([PAIR])
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert relays.links[PAIR].weather == Weather()
        again, other = await dial(relays)
        other.write(b"b")
        assert await again.readexactly(1) == b"b"
        writer.close()
        other.close()
