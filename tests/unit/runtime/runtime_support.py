"""What the tests of the runtime share: certificates, members, a fake room of messages, waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tepbft.cli.certificates import Certificate, make_certificate
from tepbft.core.configuration import Member
from tepbft.runtime.inbox import Inbox
from tepbft.runtime.peers import PeerNetwork
from tepbft.runtime.tls import TlsContexts, make_contexts
from tepbft.runtime.traffic import Traffic
from tepbft.runtime.transport import bind
from tepbft.wire import Codec

CHAIN = b"\x07" * 32


class Note(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A message of the fake room."""

    text: bytes


note_codec: Codec[Note] = Codec(Note)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (whatever is waited for has no event of its own)
            await asyncio.sleep(0.005)


@dataclass
class Party:
    """One node's TLS identity on disk."""

    number: int
    folder: Path
    certificate: Certificate

    def contexts(self, anchors: str) -> TlsContexts:
        """Contexts that trust `anchors`."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "tls.crt").write_text(self.certificate.certificate_pem)
        (self.folder / "tls.key").write_text(self.certificate.key_pem)
        (self.folder / "certificates.pem").write_text(anchors)
        return make_contexts(
            self.folder / "tls.crt", self.folder / "tls.key", self.folder / "certificates.pem"
        )


def parties(folder: Path, count: int) -> list[Party]:
    """Fresh identities."""
    return [
        Party(number, folder / f"p{number}", make_certificate(f"node{number}", "127.0.0.1", "test"))
        for number in range(count)
    ]


def anchors_of(found: list[Party]) -> str:
    """The bundle of all certificates."""
    return "".join(party.certificate.certificate_pem for party in found)


def member(party: Party, port: int) -> Member:
    """An entry of the member table with this certificate and peer port."""
    number = bytes([party.number])
    return Member(
        node=party.number,
        tc_id=number * 16,
        tc_key=number * 65,
        node_key=number * 32,
        operator_key=number * 32,
        certificate=party.certificate.digest,
        host="127.0.0.1",
        peer_port=port,
        client_port=0,
        http_port=0,
    )


class Cluster:
    """Networks of several nodes in one loop."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.parties = parties(folder, count)
        self.sockets = [bind("127.0.0.1", 0, "peer") for _ in range(count)]
        self.ports = [sock.getsockname()[1] for sock in self.sockets]
        self.networks: list[PeerNetwork] = []
        self.inboxes: dict[int, Inbox] = {}

    def members(self) -> list[Member]:
        """The member table."""
        return [member(party, port) for party, port in zip(self.parties, self.ports, strict=True)]

    def network(
        self,
        number: int,
        *,
        chain: bytes = CHAIN,
        party: Party | None = None,
        anchors: str | None = None,
        queue_bytes: int = 32 << 20,
        inbox_bytes: int = 1 << 20,
        members: list[Member] | None = None,
        votes: tuple[int, ...] = (),
    ) -> PeerNetwork:
        """The network of one node, not started."""
        sock = self.sockets[number]
        if sock.fileno() < 0:
            sock = self.sockets[number] = bind("127.0.0.1", self.ports[number], "peer")
        inbox = self.inboxes[number] = Inbox(inbox_bytes)
        network = PeerNetwork(
            me=number,
            chain_id=chain,
            members=members or self.members(),
            contexts=(party or self.parties[number]).contexts(anchors or anchors_of(self.parties)),
            codec=note_codec,
            votes=votes,
            sock=sock,
            inbox=inbox,
            traffic=Traffic(),
            queue_bytes=queue_bytes,
            handshake_timeout_ms=2000,
        )
        self.networks.append(network)
        return network

    def received(self, number: int) -> list[tuple[int, bytes]]:
        """(sender, frame) of everything that waits in a node's inbox; takes it."""
        return [(source.name, item) for source, item in self.inboxes[number].take(1 << 20)]


@contextlib.asynccontextmanager
async def cluster(folder: Path, count: int = 2) -> AsyncIterator[Cluster]:
    """A cluster whose links are all closed at the end."""
    made = Cluster(folder, count)
    try:
        yield made
    finally:
        for network in made.networks:
            await network.close()
        for sock in made.sockets:
            sock.close()
