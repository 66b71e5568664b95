"""Who may put a new trusted component in place of an old one (A8.2, A8.3).

A change of configuration has to satisfy two things besides `check_replace`: an
admission rule, which says that somebody entitled wants it, and the possession of
the new key, which says that the key belongs to a component that is bound to this
chain and node. Both are checked here, by every node before it votes for a CONFIG
block and by whoever verifies a receipt offline.
"""

from __future__ import annotations

from typing import Protocol

from tepbft.core.block import CONFIG, Block
from tepbft.core.configuration import Configuration, ReplaceTc, encode_replace, replace_preimage
from tepbft.core.verification import Verifier
from tepbft.crypto.hash import digest
from tepbft.crypto.node_key import verify_ed25519
from tepbft.types import Height


def possession_digest(chain_id: bytes, op: ReplaceTc) -> bytes:
    """The 32 bytes that the new component attests: it holds the key that `op` names."""
    return digest(b"TEP1/POSS", replace_preimage(chain_id, op))


def config_block(cfg: int, height: Height, ts: int, op: ReplaceTc) -> Block:
    """The block that orders `op`, alone (A8.3). It carries no client request: its count is 0."""
    return Block(cfg, height, CONFIG, ts, 0, encode_replace(op))


class AdmissionRule(Protocol):
    """Decides whether a new trusted component is acceptable. Pure: all nodes must agree."""

    def admits(self, chain_id: bytes, cfg: Configuration, op: ReplaceTc) -> bool:
        """True if `op` may follow `cfg`; never raises. `check_replace` is not repeated here."""
        ...


class OperatorSignature:
    """The shipped rule: the operator of that node signed for it, and the new component attested it.

    It trusts the operator's word that the component is genuine. A rule that checks the
    evidence of a hardware platform takes its place without any change elsewhere.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def admits(self, chain_id: bytes, cfg: Configuration, op: ReplaceTc) -> bool:
        """True iff `op.evidence` is the Ed25519 signature of the node's operator over
        `replace_preimage`, and `op.possession` an attestation by the new component."""
        if not 0 <= op.node < len(cfg.members):
            return False
        member = cfg.members[op.node]
        if not verify_ed25519(member.operator_key, replace_preimage(chain_id, op), op.evidence):
            return False
        return self._verifier.attested(
            op.new_tc_key,
            op.new_tc_id,
            op.node,
            op.possession_seq,
            possession_digest(chain_id, op),
            op.possession,
        )
