"""Verifying a receipt offline: the genesis and the receipt, nothing else (A9, REPLY-PROOF).

What is established, in this order: the receipt stands in its block; the header of
that block is an ancestor of a certified one; the certificate is that of f+1 trusted
components which the member table of its configuration names; and that member table
follows from the genesis, each step ordered, executed and certified by the one before.
With at most f Byzantine nodes the outcome is then the one in the agreed chain (I-14).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tepbft.core.admission import AdmissionRule, OperatorSignature
from tepbft.core.block import Header, request_digest
from tepbft.core.configuration import Configuration, Genesis
from tepbft.core.links import follow_link
from tepbft.core.receipt_tree import check_receipt
from tepbft.core.verification import Verifier, check_checkpoint_certificate
from tepbft.errors import PeerFault, TepbftError
from tepbft.trusted.verify import UiVerifier
from tepbft.wire import ProvenReceipt


class ReceiptRefused(TepbftError):
    """A receipt does not verify. `check` is the one that failed, in a word: `chain`, `position`,
    `headers`, `configuration`, `admission`, `certificate`."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__("receipt", f"{reason} (check: {check})", "Do not rely on it; ask another node.")
        self.check = check


class VerifiedReceipt(Struct, frozen=True):
    """What a verified receipt proves."""

    chain_id: bytes
    client: bytes
    session: int
    seq: int
    request_digest: bytes
    status: int
    result: bytes
    height: int
    timestamp_ms: int
    """Agreed time of the block, Unix milliseconds."""
    certified_height: int
    configuration: int
    """Number of the configuration that certified it."""
    signers: tuple[int, ...]
    """Nodes whose trusted components signed."""

    def is_for(self, op: bytes) -> bool:
        """True iff `op` is the operation to which this is the answer."""
        return self.request_digest == request_digest(self.chain_id, self.client, self.session, self.seq, op)


def verify_receipt(
    genesis: Genesis,
    proof: ProvenReceipt,
    verifier_factory: Callable[[bytes], Verifier] = UiVerifier,
    admission: AdmissionRule | None = None,
) -> VerifiedReceipt:
    """What `proof` proves on the chain of `genesis`; ReceiptRefused names the check that failed.

    `verifier_factory` makes the signature checker from the chain identity; `admission` is the rule
    of the chain for new trusted components (the operator's signature unless told otherwise).
    """
    chain_id = genesis.chain_id
    if proof.chain_id != chain_id:
        raise ReceiptRefused(
            "chain", f"it is of chain {proof.chain_id.hex()[:16]}…, the genesis of {chain_id.hex()[:16]}…"
        )
    verifier = verifier_factory(chain_id)
    header = proof.headers[0]
    if header.height <= genesis.base_height:
        raise ReceiptRefused("headers", f"there is no block at height {header.height} of this chain")
    if not check_receipt(
        proof.receipt, proof.index, proof.count, proof.neighbours, proof.path, header.receipts_root
    ):
        raise ReceiptRefused("position", f"it does not stand where it says in block {header.height}")
    head = _check_headers(proof.headers)
    cfg = _follow_links(genesis, proof, verifier, admission or OperatorSignature(verifier))
    _check_certificate(cfg, proof, head, verifier)
    receipt = proof.receipt
    return VerifiedReceipt(
        chain_id=chain_id,
        client=receipt.client,
        session=receipt.session,
        seq=receipt.seq,
        request_digest=receipt.request_digest,
        status=receipt.status,
        result=receipt.result,
        height=header.height,
        timestamp_ms=header.ts,
        certified_height=head.height,
        configuration=cfg.number,
        signers=tuple(vote.node for vote in proof.certificate.votes),
    )


def _check_headers(headers: list[Header]) -> Header:
    """The last header, after each was found to name the one before as its parent."""
    head = headers[0]
    for header in headers[1:]:
        if header.height != head.height + 1 or header.parent != head.digest():
            raise ReceiptRefused("headers", f"header {header.height} does not follow header {head.height}")
        head = header
    return head


def _check_certificate(cfg: Configuration, proof: ProvenReceipt, head: Header, verifier: Verifier) -> None:
    certificate = proof.certificate
    if (certificate.height, certificate.digest) != (head.height, head.digest()):
        raise ReceiptRefused("certificate", f"it does not certify header {head.height}")
    if certificate.cfg != cfg.number:
        raise ReceiptRefused(
            "configuration",
            f"its links lead to configuration {cfg.number}, its certificate is of {certificate.cfg}",
        )
    if not check_checkpoint_certificate(cfg, certificate, verifier):
        raise ReceiptRefused(
            "certificate",
            f"it lacks valid signatures of {cfg.quorums.certificate} distinct members "
            f"of configuration {cfg.number}",
        )


def _follow_links(
    genesis: Genesis, proof: ProvenReceipt, verifier: Verifier, admission: AdmissionRule
) -> Configuration:
    """The configuration at the end of the receipt's links, each link verified under the one before."""
    cfg = genesis.configuration()
    if len(proof.links) != proof.certificate.cfg:
        raise ReceiptRefused(
            "configuration",
            f"{len(proof.links)} links cannot lead to configuration {proof.certificate.cfg}",
        )
    for link in proof.links:
        try:
            cfg = follow_link(
                genesis.chain_id,
                cfg,
                link,
                verifier=verifier,
                admission=admission,
                min_gap=genesis.parameters.min_config_gap,
            )
        except PeerFault as fault:
            reason = f"the step to configuration {cfg.number + 1}: {fault.detail}"
            raise ReceiptRefused(fault.code, reason) from None
    return cfg
