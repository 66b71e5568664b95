"""The configuration barrier: replacing a trusted component by an ordered block (A8.2, A8.3).

Heights up to the CONFIG block are decided by the old member table only, heights
above by the new one only; nobody begins the new one before the CONFIG block is
stable in the old (I-19). A node whose component is not a member stays silent and
asks to be admitted.
"""

from __future__ import annotations

from tepbft.core.admission import OperatorSignature
from tepbft.core.block import CONFIG, Block
from tepbft.core.configuration import Configuration, ReplaceTc, check_replace, next_configuration
from tepbft.errors import ContractBroken, PeerFault
from tepbft.protocols.tep.messages import Admission
from tepbft.protocols.tep.state import State
from tepbft.storage.port import ConfigRecord, LinkedConfigRecord
from tepbft.trusted.port import BeginConfig
from tepbft.types import Height, NodeId
from tepbft.wire import ConfigLink, encode


def check_change(s: State, change: ReplaceTc, height: Height) -> None:
    """A change may be ordered at `height` of this configuration; PeerFault if not."""
    check_replace(s.cfg, change, height, s.parameters.min_config_gap)
    if not OperatorSignature(s.verifier).admits(s.chain_id, s.cfg, change):
        raise PeerFault("not_admitted", f"the operator of node {change.node} did not sign for it")


def orderable(s: State, change: ReplaceTc) -> bool:
    """True if the change could be ordered next (its rate limit has passed, S-37)."""
    try:
        check_replace(s.cfg, change, s.executed + 1, s.parameters.min_config_gap)
    except PeerFault:
        return False
    return True


def on_admission(s: State, sender: NodeId, message: Admission) -> None:
    """Remember a well-signed change; the newest of each node counts. Its timer runs from the first sight of
    the new component: an operator who signs again does not start it anew."""
    change = message.change
    if change.node >= len(s.cfg.members) or change.old_tc_id != s.cfg.members[change.node].tc_id:
        return
    known = s.admissions.get(change.node)
    if known is not None and known[0] == change:
        return
    if not OperatorSignature(s.verifier).admits(s.chain_id, s.cfg, change):
        raise PeerFault("not_admitted", f"the operator of node {change.node} did not sign for it")
    again = known is not None and known[0].new_tc_id == change.new_tc_id
    s.admissions[change.node] = (change, known[1] if known is not None and again else s.now)


def request_admission(s: State, change: ReplaceTc) -> None:
    """This node's own component is new: ask for its admission until it is a member."""
    if change.new_tc_id == s.tc_id and not s.voter:
        s.own_admission = change
        s.admission_sent_ms = 0


def ask_for_admission(s: State) -> None:
    """Repeat the own request while it is not granted."""
    if s.own_admission is None:
        return
    if s.voter:
        s.own_admission = None
    elif s.now - s.admission_sent_ms >= s.options.t_retransmit_ms:
        s.admission_sent_ms = s.now
        s.broadcast(Admission(s.own_admission))


def due(s: State) -> ReplaceTc | None:
    """The change that this primary should order next, if any."""
    for node in sorted(s.admissions):
        change = s.admissions[node][0]
        if change.old_tc_id != s.cfg.members[node].tc_id:
            continue
        try:
            check_replace(s.cfg, change, s.next_height, s.parameters.min_config_gap)
        except PeerFault:
            continue
        return change
    return None


def recognise(s: State, block: Block) -> None:
    """The head came with a snapshot and nothing said what follows it. Its block is here: if it is a
    CONFIG block, this replica stands at a barrier. The digest in the certified header vouches for it."""
    if block.kind != CONFIG or block.cfg != s.cfg.number or block.height != s.head.height:
        return
    if s.following is None and block.digest(s.chain_id) == s.head.block_digest:
        s.barrier, s.following = block.height, next_configuration(s.cfg, block)
        s.recognised = block


def _record(s: State, following: Configuration) -> ConfigRecord:
    """With the link if a snapshot brought the head: the CONFIG block will not be in the ledger."""
    block = s.recognised
    if block is None:
        return ConfigRecord(encode(following))
    link = ConfigLink(block.cfg, block.height, block.ts, block.body, s.head, s.stable_certificate)
    return LinkedConfigRecord(encode(following), encode(link))


def pass_barrier(s: State) -> bool:
    """Begin the next configuration, if the CONFIG block is executed and stable. True if it began."""
    if s.barrier < 0 or s.executed < s.barrier or s.stable_height < s.barrier:
        return False
    following, head = s.following, s.head
    if following is None or head.height != s.barrier or s.diverged_at >= 0:
        if s.diverged_at >= 0:
            return False
        raise ContractBroken(f"barrier {s.barrier} passed at height {head.height} without a configuration")
    s.out.persist.append(_record(s, following))
    s.begin(following, head.digest())
    s.certify(BeginConfig(following.number, following.digest(), following.floor))
    for node in [n for n, (c, _) in s.admissions.items() if c.old_tc_id != following.members[n].tc_id]:
        del s.admissions[node]
    s.host.configured(following)
    s.notice("configuration", number=following.number, floor=following.floor)
    return True
