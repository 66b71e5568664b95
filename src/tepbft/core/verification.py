"""Checking statements and certificates against a member table.

`Verifier` is a port: the cluster checks real signatures, a simulated world may
check cheaper ones. The functions below are pure and say what each certificate
must contain; offline verification of receipts uses the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import Configuration
from tepbft.trusted.port import CHECKPOINT, COMMIT, PREPARE, numbered_body, order_body
from tepbft.types import NodeId


class Verifier(Protocol):
    """Signature checks for one chain. False for anything that does not verify; never raises."""

    def ui(
        self, cfg: Configuration, node: NodeId, seq: int, statement: int, body: bytes, signature: bytes
    ) -> bool:
        """A statement of the trusted component that `cfg` names for `node`."""
        ...

    def signed(self, cfg: Configuration, node: NodeId, message: bytes, signature: bytes) -> bool:
        """A plain signature by the host key of `node`."""
        ...

    def attested(
        self, key: bytes, tc_id: bytes, node: NodeId, seq: int, digest: bytes, signature: bytes
    ) -> bool:
        """An ATTEST statement of a component that is not a member yet: bound to configuration
        number 0xffffffff and an all-zero configuration digest."""
        ...


class NodeSigner(Protocol):
    """The host's own key; deterministic (Ed25519)."""

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`."""
        ...


def check_prepare(cfg: Configuration, head: PrepareHead, verifier: Verifier) -> bool:
    """P3, P4: the primary of `head.view` said exactly this."""
    body = order_body(head.view, head.height, head.digest)
    return verifier.ui(cfg, cfg.primary(head.view), head.seq, PREPARE, body, head.signature)


def _distinct_members(cfg: Configuration, votes: Sequence[Vote]) -> bool:
    nodes = {vote.node for vote in votes}
    return len(nodes) == len(votes) and all(0 <= node < len(cfg.members) for node in nodes)


def check_commit_certificate(cfg: Configuration, certificate: CommitCertificate, verifier: Verifier) -> bool:
    """q_c statements of distinct members on one (cfg, view, height, digest) (A-14, A-20)."""
    if certificate.cfg != cfg.number or certificate.height <= cfg.floor:
        return False
    if not _distinct_members(cfg, certificate.votes) or len(certificate.votes) < cfg.quorums.commit:
        return False
    primary = cfg.primary(certificate.view)
    body = order_body(certificate.view, certificate.height, certificate.digest)
    return all(
        verifier.ui(
            cfg, vote.node, vote.seq, PREPARE if vote.node == primary else COMMIT, body, vote.signature
        )
        for vote in certificate.votes
    )


def check_checkpoint_certificate(
    cfg: Configuration, certificate: CheckpointCertificate, verifier: Verifier
) -> bool:
    """f+1 CHECKPOINT statements of distinct members on one (height, cp_hash) (V2, I-15).

    The vote-less certificate of a configuration's floor is not accepted here: who knows the
    header at the floor compares digests instead.
    """
    if certificate.cfg != cfg.number or certificate.height <= cfg.floor:
        return False
    if not _distinct_members(cfg, certificate.votes) or len(certificate.votes) < cfg.quorums.certificate:
        return False
    body = numbered_body(certificate.height, certificate.digest)
    return all(
        verifier.ui(cfg, vote.node, vote.seq, CHECKPOINT, body, vote.signature) for vote in certificate.votes
    )
