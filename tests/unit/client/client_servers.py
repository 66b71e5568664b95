"""Fake nodes on 127.0.0.1: real TLS and frames, one shared chain behind them, and misbehaviour on demand."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType

import msgspec
from client_world import Chain
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tepbft import wire
from tepbft.client.credentials import encode_credentials
from tepbft.core.block import Request
from tepbft.core.configuration import Parameters, encode_genesis
from tepbft.crypto.hash import digest


def make_tls() -> tuple[ssl.SSLContext, bytes]:
    """A server context with a fresh self-signed certificate, and the digest to pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tls.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return context, digest(certificate.public_bytes(serialization.Encoding.DER))


TLS = [make_tls() for _ in range(3)]


class FakeNode:
    """One node's client port. `mood` is one of good, silent, lying, busy, garbage."""

    def __init__(self, cluster: FakeCluster, node: int, sock: socket.socket) -> None:
        self.node = node
        self.mood = "good"
        self.frames = 0
        self._cluster = cluster
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._busy: Counter[int] = Counter()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._sock, ssl=TLS[self.node][0])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.hang_up()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            cluster = self._cluster
            self._write(writer, wire.Welcome(cluster.says_chain, cluster.says_node(self.node), 0, 0))
            while True:
                (length,) = wire.LENGTH.unpack(await reader.readexactly(4))
                message = wire.client_codec.decode(await reader.readexactly(length))
                self.frames += 1
                if isinstance(message, wire.Submit):
                    self._submitted(writer, message)
                elif isinstance(message, wire.WantProof):
                    self._proof(writer, message)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.transport.abort()

    def _write(self, writer: asyncio.StreamWriter, message: wire.ClientMessage) -> None:
        writer.write(wire.frame(wire.encode(message)))

    def _submitted(self, writer: asyncio.StreamWriter, message: wire.Submit) -> None:
        if self.mood == "silent":
            return
        if self.mood == "garbage":
            writer.write(wire.frame(b"\xff\xff"))
            return
        if self.mood == "busy":
            refused = [r for r in message.requests if self._busy[r.seq] == 0]
            self._busy.update(r.seq for r in refused)
            if refused:
                codes = [(r.client, r.session, r.seq, "busy") for r in refused]
                self._write(writer, wire.NotAdmitted(codes))
                return
        for request in message.requests:
            height, index = self._cluster.order(request)
            receipt = self._cluster.chain.receipts[height][index]
            if self.mood == "lying":
                receipt = msgspec.structs.replace(receipt, result=b"a lie")
            self._write(writer, wire.Outcome(0, height, [receipt]))

    def _proof(self, writer: asyncio.StreamWriter, want: wire.WantProof) -> None:
        place = self._cluster.ordered.get((want.session, want.seq))
        if self.mood == "silent":
            return
        if place is None:
            self._write(writer, wire.NoProof(want.client, want.session, want.seq, "unknown request"))
            return
        proof = self._cluster.chain.prove(*place)
        if self.mood == "lying":
            proof = msgspec.structs.replace(
                proof, receipt=msgspec.structs.replace(proof.receipt, result=b"a lie")
            )
        self._write(writer, proof)


class FakeCluster:
    """Three fake nodes and their folder, as an async context manager."""

    def __init__(self, folder: Path, *, pinned: bool = True, parameters: Parameters | None = None) -> None:
        self.folder = folder
        self.nodes: list[FakeNode] = []
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.chain = Chain(
            3,
            ports=[sock.getsockname()[1] for sock in socks],
            certificates=[found for _, found in TLS] if pinned else [bytes(32)] * 3,
            parameters=parameters,
        )
        self.says_chain = self.chain.chain_id
        self.says_node = lambda node: node
        self.ordered: dict[tuple[int, int], tuple[int, int]] = {}
        self.nodes = [FakeNode(self, node, sock) for node, sock in enumerate(socks)]
        (folder / "clients").mkdir()
        (folder / "genesis.json").write_bytes(encode_genesis(self.chain.genesis))
        file = folder / "clients" / "client00.json"
        file.write_text(encode_credentials(self.chain.credentials))
        file.chmod(0o600)

    def order(self, request: Request) -> tuple[int, int]:
        """(height, index) of a request: executed once, whoever sees it first."""
        key = (request.session, request.seq)
        if key not in self.ordered:
            self.ordered[key] = (self.chain.execute([request]), 0)
        return self.ordered[key]

    async def __aenter__(self) -> FakeCluster:
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self.nodes:
            await node.stop()
        await asyncio.sleep(0.01)
