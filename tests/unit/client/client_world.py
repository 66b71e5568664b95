"""A small honest chain, in process: what nodes would answer, with real signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tepbft.client.credentials import Credentials, new_credentials
from tepbft.core.admission import config_block
from tepbft.core.block import (
    NORMAL,
    Block,
    Header,
    Receipt,
    Request,
    digest_of,
    encode_body,
    genesis_header,
)
from tepbft.core.certificates import CheckpointCertificate, Vote
from tepbft.core.configuration import Configuration, Genesis, Member, Parameters, next_configuration
from tepbft.core.receipt_tree import receipt_proof, receipts_root
from tepbft.crypto.node_key import NodeKey
from tepbft.crypto.operator import sign_replacement
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import BeginConfig, SignCheckpoint, Ui
from tepbft.types import ZERO_DIGEST
from tepbft.wire import ConfigLink, ProvenReceipt


def operator_seed(node: int) -> bytes:
    """Seed of the key that may replace a node's component."""
    return bytes([node + 1]) * 32


class Chain:
    """A ledger of executed blocks and the trusted components of its `n` nodes."""

    def __init__(
        self,
        n: int = 3,
        *,
        scheme: str = "secp256k1",
        ports: Sequence[int] = (),
        certificates: Sequence[bytes] = (),
        parameters: Parameters | None = None,
    ) -> None:
        self.credentials: Credentials = new_credentials(scheme, "client00")
        self.components = [HbUsig.fresh() for _ in range(n)]
        members = []
        for node, component in enumerate(self.components):
            identity = component.identity()
            members.append(
                Member(
                    node=node,
                    tc_id=identity.tc_id,
                    tc_key=identity.key,
                    node_key=NodeKey.from_seed(bytes([node + 101]) * 32).public,
                    operator_key=NodeKey.from_seed(operator_seed(node)).public,
                    certificate=certificates[node] if certificates else bytes(32),
                    host="127.0.0.1",
                    peer_port=0,
                    client_port=ports[node] if ports else 0,
                    http_port=0,
                )
            )
        self.genesis = Genesis(
            protocol="tep",
            app="kv",
            scheme=scheme,
            created_ms=1,
            nonce=bytes(32),
            members=tuple(members),
            clients=(self.credentials.registration(),),
            parameters=parameters or Parameters(),
        )
        self.chain_id = self.genesis.chain_id
        self.cfg: Configuration = self.genesis.configuration()
        for node, component in enumerate(self.components):
            component.provision(self.chain_id, node, 0, self.cfg.digest(), 0, 16)
        self.headers: list[Header] = [genesis_header(self.chain_id, 0)]
        self.receipts: dict[int, list[Receipt]] = {}
        self.links: list[ConfigLink] = []
        self.signer = self.credentials.signer(self.genesis)

    # --- making blocks ---

    def request(self, seq: int, op: bytes, session: int = 1) -> Request:
        """A signed request of the chain's client."""
        draft = Request(self.credentials.client, session, seq, op, b"")
        auth = self.signer.sign(digest_of(self.chain_id, draft))
        return Request(self.credentials.client, session, seq, op, auth)

    def receipt(self, request: Request, status: int = 0) -> Receipt:
        """What executing a request gives: its operation, reversed."""
        digest = digest_of(self.chain_id, request)
        return Receipt(request.client, request.session, request.seq, digest, status, request.op[::-1])

    def execute(self, requests: Sequence[Request]) -> int:
        """Append a block; returns its height."""
        block = Block(
            self.cfg.number,
            self.head.height + 1,
            NORMAL,
            1000 + self.head.height,
            len(requests),
            encode_body(list(requests)),
        )
        return self._append(block, [self.receipt(request) for request in requests])

    def _append(self, block: Block, receipts: list[Receipt]) -> int:
        root = receipts_root(receipts)
        header = Header(
            height=block.height,
            ts=block.ts,
            block_digest=block.digest(self.chain_id),
            parent=self.head.digest(),
            state_root=ZERO_DIGEST,
            receipts_root=root,
            clients_root=ZERO_DIGEST,
            snapshot_root=ZERO_DIGEST,
        )
        self.headers.append(header)
        self.receipts[block.height] = receipts
        return block.height

    @property
    def head(self) -> Header:
        """Newest header."""
        return self.headers[-1]

    # --- proving ---

    def certify(self, header: Header, nodes: Sequence[int] | None = None) -> CheckpointCertificate:
        """CHECKPOINTs of `nodes` (the first f+1 unless given)."""
        chosen = range(self.cfg.quorums.certificate) if nodes is None else nodes
        votes = []
        for node in chosen:
            answer = self.components[node].call(SignCheckpoint(header.height, header.digest()))
            assert isinstance(answer, Ui), answer
            votes.append(Vote(node, answer.seq, answer.signature))
        return CheckpointCertificate(self.cfg.number, header.height, header.digest(), tuple(votes))

    def prove(self, height: int, index: int, nodes: Sequence[int] | None = None) -> ProvenReceipt:
        """The proven receipt at (height, index), certified at the head."""
        receipts = self.receipts[height]
        neighbours, path = receipt_proof(receipts, index)
        return ProvenReceipt(
            chain_id=self.chain_id,
            receipt=receipts[index],
            index=index,
            count=len(receipts),
            neighbours=neighbours,
            path=path,
            headers=self.headers[height:],
            certificate=self.certify(self.head, nodes),
            links=list(self.links),
        )

    def replace(self, node: int, **altered: Any) -> ConfigLink:
        """Order the replacement of a node's trusted component and begin the next configuration.
        What is `altered` of the change is ordered and certified all the same."""
        fresh = HbUsig.fresh()
        fresh.provision(self.chain_id, node, self.cfg.number, self.cfg.digest(), 0, 16)
        op = sign_replacement(
            self.chain_id, self.cfg, node, operator_seed(node), fresh.identity(), fresh.call
        )
        op = msgspec.structs.replace(op, **altered)
        block = config_block(self.cfg.number, self.head.height + 1, 1000 + self.head.height, op)
        height = self._append(block, [])
        link = ConfigLink(
            cfg=self.cfg.number,
            height=height,
            ts=block.ts,
            body=block.body,
            header=self.head,
            certificate=self.certify(self.head),
        )
        self.links.append(link)
        self.cfg = next_configuration(self.cfg, block)
        self.components[node] = fresh
        for component in self.components:
            component.call(BeginConfig(self.cfg.number, self.cfg.digest(), height))
        return link
