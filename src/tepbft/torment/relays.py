"""Our own network between the nodes: one TCP relay per ordered pair, which can be cut, slowed and reset.

Node i dials the relay instead of node j; the relay dials node j. What passes is TLS from
end to end, so a relay can lose and delay, and nothing else: just what a network can do.
Ordered pairs make one-way failures possible, as every connection carries messages one way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from tepbft.errors import TepbftError
from tepbft.types import NodeId

Pair = tuple[NodeId, NodeId]
CHUNK_BYTES = 1 << 16
QUEUED_CHUNKS = 64
"""Chunks under way in one direction of a connection; above it the sender has to wait."""
CONNECT_TIMEOUT_S = 5.0


@dataclass
class Weather:
    """What a link does to what passes it. Delays add to those of the machine."""

    cut: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_per_s: float = 0.0
    """0: no limit."""


@dataclass(eq=False)
class Link:
    """The relay of one ordered pair."""

    pair: Pair
    target: tuple[str, int]
    rng: Random
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _passable: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, host: str) -> None:
        """Listen at a free port of `host`."""
        self._passable.set()
        self.server = await asyncio.start_server(self._accepted, host, 0, limit=CHUNK_BYTES)
        self.port = self.server.sockets[0].getsockname()[1]

    def set(self, weather: Weather) -> None:
        """Change the weather. While cut, what is under way waits, as with a cable that is pulled."""
        self.weather = weather
        self._changed.set()  # wakes those who wait now, and only them
        self._changed = asyncio.Event()
        if weather.cut:
            self._passable.clear()
        else:
            self._passable.set()

    @property
    def _slow(self) -> bool:
        weather = self.weather
        return weather.delay_ms + weather.jitter_ms + weather.bytes_per_s > 0

    def reset(self) -> None:
        """Break all connections; what is under way is lost."""
        for writer in list(self.writers):
            writer.transport.abort()

    async def close(self) -> None:
        """End it, and everything that passes."""
        if self.server is not None:
            self.server.close()
        self.reset()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.tasks.add(task)
        self.writers.add(writer)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError, TimeoutError):
            pass  # a connection that breaks is what a relay is for; cancelled only by `close`
        finally:
            self.writers.discard(writer)
            writer.transport.abort()
            if task is not None:
                self.tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable.wait()  # a connection through a cut is not set up before it heals
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            far_reader, far_writer = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        self.writers.add(far_writer)
        try:
            ways = [
                asyncio.create_task(self._way(reader, far_writer)),
                asyncio.create_task(self._way(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self.writers.discard(far_writer)
            far_writer.transport.abort()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction until its end: a reader that stamps, a writer that waits until the time has come."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        writing = asyncio.create_task(self._write(queue, writer))
        loop = asyncio.get_running_loop()
        due = 0.0
        try:
            while data := await reader.read(CHUNK_BYTES):
                weather = self.weather
                delay_s = (weather.delay_ms + self.rng.random() * weather.jitter_ms) / 1000
                due = max(due, loop.time() + delay_s)  # a stream keeps its order
                if weather.bytes_per_s:
                    due += len(data) / weather.bytes_per_s
                await queue.put((due, data))
            await queue.put((due, b""))
            await writing
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if not data:
                return
            while self._slow and (rest_s := due - loop.time()) > 0:  # a heal lets through what still waits
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._changed.wait()
            await self._passable.wait()
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await writer.drain()


class Relays:
    """All relays of a cluster. Open it in the event loop that shall carry them.

    Faults overlap: each imposes its weather on some links under a number of its own, and a
    link has the sum of what is imposed on it.
    """

    def __init__(self, targets: Mapping[Pair, tuple[str, int]], seed: int, host: str = "127.0.0.1") -> None:
        self._host = host
        self._imposed: dict[int, tuple[frozenset[Pair], Weather]] = {}
        self.links: dict[Pair, Link] = {
            pair: Link(pair, target, Random(f"{seed}/link/{pair[0]}/{pair[1]}"))
            for pair, target in sorted(targets.items())
        }

    async def start(self) -> None:
        """Listen everywhere. TepbftError if there are not enough ports or descriptors."""
        try:
            for link in self.links.values():
                await link.start(self._host)
        except OSError as error:
            await self.close()
            raise TepbftError(
                "the relays between the nodes",
                f"they cannot listen ({error.strerror or error})",
                "Raise the number of open files: ulimit -n 4096",
            ) from None

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(link.close() for link in self.links.values()))

    def addresses_for(self, node: NodeId) -> dict[str, str]:
        """The setting `peer_addresses` of a node that shall dial the relays."""
        return {str(to): f"{self._host}:{link.port}" for (by, to), link in self.links.items() if by == node}

    def impose(self, number: int, pairs: Iterable[Pair], weather: Weather) -> None:
        """Change the weather of some links, until `lift(number)`."""
        chosen = frozenset(pairs)
        self._imposed[number] = (chosen, weather)
        self._settle(chosen)

    def lift(self, number: int) -> frozenset[Pair]:
        """Take back what `impose` did; the links that it was about."""
        pairs, _ = self._imposed.pop(number, (frozenset(), Weather()))
        self._settle(pairs)
        return pairs

    def reset(self, pairs: Iterable[Pair]) -> None:
        """Break the connections of some links."""
        for pair in pairs:
            self.links[pair].reset()

    def heal(self) -> None:
        """Clear weather everywhere."""
        self._imposed.clear()
        self._settle(self.links)

    def _settle(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            found = [weather for where, weather in self._imposed.values() if pair in where]
            limits = [weather.bytes_per_s for weather in found if weather.bytes_per_s]
            self.links[pair].set(
                Weather(
                    any(weather.cut for weather in found),
                    sum(weather.delay_ms for weather in found),
                    sum(weather.jitter_ms for weather in found),
                    min(limits, default=0.0),
                )
            )
