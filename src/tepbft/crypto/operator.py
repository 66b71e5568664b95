"""The operator's pen: signing a replacement of a trusted component (A8.2)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tepbft.core.admission import possession_digest
from tepbft.core.configuration import Configuration, ReplaceTc, replace_preimage
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import TepbftError
from tepbft.trusted.port import Attest, Identity, TcAnswer, Ui


def sign_replacement(
    chain_id: bytes,
    cfg: Configuration,
    node: int,
    operator_seed: bytes,
    identity: Identity,
    attest: Callable[[Attest], TcAnswer],
) -> ReplaceTc:
    """The change that puts the fresh component `identity` in place of that of `node` in `cfg`.

    `attest` asks the new component (usually its `call`); it must be provisioned for this chain and
    node, under configuration number 0xffffffff and an all-zero configuration digest.
    TepbftError if the seed (32 bytes) is not that of the node's operator, or the component declines.
    """
    thing = f"replacement of the trusted component of node {node}"
    if not 0 <= node < len(cfg.members):
        raise TepbftError(thing, "there is no such node", f"Nodes are 0 to {len(cfg.members) - 1}.")
    member = cfg.members[node]
    operator = NodeKey.from_seed(operator_seed)
    if operator.public != member.operator_key:
        raise TepbftError(
            thing, "the operator key is not the one in the genesis", "Use this node's own operator.key."
        )
    draft = ReplaceTc(node, member.tc_id, identity.tc_id, identity.key, 0, b"", b"")
    answer = attest(Attest(possession_digest(chain_id, draft)))
    if not isinstance(answer, Ui):
        raise TepbftError(
            thing,
            f"the new component did not attest its key ({getattr(answer, 'reason', answer)})",
            "Check that it is fresh and bound to this chain and node.",
        )
    return msgspec.structs.replace(
        draft,
        possession_seq=answer.seq,
        possession=answer.signature,
        evidence=operator.sign(replace_preimage(chain_id, draft)),
    )
