"""Checkpoints, stability, garbage collection, divergence (A3.3).

A checkpoint is agreed on (height, digest of the executed header), nothing else
(A-31). Only what is at or below a stable height is ever forgotten (A-34, I-16).
"""

from __future__ import annotations

from tepbft.core.block import CONFIG, Header
from tepbft.core.certificates import CheckpointCertificate, Vote
from tepbft.core.verification import check_checkpoint_certificate
from tepbft.errors import PeerFault
from tepbft.protocols.tep.messages import Checkpoint, Stable
from tepbft.protocols.tep.state import State
from tepbft.storage.port import StableRecord
from tepbft.trusted.port import CHECKPOINT, AdvanceFloor, Refused, SignCheckpoint, Ui, numbered_body
from tepbft.types import Height, NodeId


def after_execution(s: State, header: Header, kind: int) -> None:
    """A block was executed: sign a checkpoint if one is due, or meet one that is stable already."""
    s.headers[header.height] = header
    if header.height <= s.stable_height:
        if header.height == s.stable_height:
            _reconcile(s, header)
        else:
            _release(s, header.height)
        return
    if header.height % s.parameters.checkpoint_interval == 0 or kind == CONFIG:
        _sign(s, header)


def _release(s: State, height: Height) -> None:
    """This replica catches up: the block is in its ledger now, and need not be held as well until the stable
    height is reached, which may be thousands of blocks away (I-17)."""
    slot = s.slots[height]
    for digest in slot.bodies:
        s.host.dropped(digest)
        s.wanted.pop(digest, None)
    slot.bodies.clear()
    slot.waiting = None  # nobody needs a vote for it any more


def _sign(s: State, header: Header) -> None:
    s.checkpoint_asked = header.height
    s.certify(SignCheckpoint(header.height, header.digest()))


def tend(s: State) -> None:
    """Send own checkpoints again while they are not stable. And sign one for the last block when
    nothing follows it: with K > 1 an idle chain would otherwise leave its last blocks without a
    certificate, without receipts, and a divergence in them unseen."""
    if s.own_checkpoints and s.now - s.own_checkpoint_sent_ms >= s.options.t_retransmit_ms:
        s.own_checkpoint_sent_ms = s.now
        for height in sorted(s.own_checkpoints):
            s.broadcast(s.own_checkpoints[height])
    idle = s.now - s.progress_ms >= s.options.t_retransmit_ms
    if idle and s.executed > max(s.stable_height, s.checkpoint_asked):
        _sign(s, s.head)


def on_signed(s: State, request: SignCheckpoint, answer: Ui | Refused) -> None:
    """The component signed a checkpoint: send it, and count it."""
    if isinstance(answer, Refused):
        s.notice("tc_refused", code=answer.code, reason=answer.reason, height=request.height)
        return
    if request.height <= s.stable_height:
        return
    message = Checkpoint(s.cfg.number, s.me, request.height, request.digest, answer.seq, answer.signature)
    s.own_checkpoints[request.height] = message
    s.own_checkpoint_sent_ms = s.now
    s.broadcast(message)
    _count(s, message)


def on_checkpoint(s: State, sender: NodeId, message: Checkpoint) -> None:
    """Count a peer's checkpoint; only heights that this replica may soon reach are kept (I-17)."""
    if message.cfg != s.cfg.number:
        if message.cfg > s.cfg.number:
            s.postpone(sender, message)
        return
    if not s.stable_height < message.height <= s.stable_height + 2 * s.window:
        return
    if message.sender >= len(s.cfg.members):
        raise PeerFault("unknown_member", f"node {message.sender}")
    known = s.checkpoints.get(message.height, {})
    if any(message.sender in voters for voters in known.values()):
        return
    body = numbered_body(message.height, message.digest)
    if not s.verifier.ui(s.cfg, message.sender, message.seq, CHECKPOINT, body, message.signature):
        raise PeerFault("bad_signature", f"CHECKPOINT at height {message.height}")
    _count(s, message)


def _count(s: State, message: Checkpoint) -> None:
    by_digest = s.checkpoints.setdefault(message.height, {})
    voters = by_digest.setdefault(message.digest, {})
    voters[message.sender] = Vote(message.sender, message.seq, message.signature)
    if len(voters) >= s.quorums.certificate:
        votes = tuple(voters[node] for node in sorted(voters))
        become_stable(s, CheckpointCertificate(s.cfg.number, message.height, message.digest, votes))
    elif sum(len(found) for found in by_digest.values()) >= s.quorums.commit and len(by_digest) > 1:
        s.notice("alarm", what="executions differ", detail=f"height {message.height}")  # A-35, S-46


def on_stable(s: State, sender: NodeId, message: Stable) -> None:
    """A stable checkpoint from a peer: the certificate speaks for itself."""
    certificate = message.certificate
    if certificate.cfg != s.cfg.number or certificate.height <= s.stable_height:
        return
    if not check_checkpoint_certificate(s.cfg, certificate, s.verifier):
        raise PeerFault("bad_certificate", f"stable checkpoint {certificate.height}")
    become_stable(s, certificate)


def become_stable(s: State, certificate: CheckpointCertificate) -> None:
    """Move the window; forget evidence up to the stable height; install what was executed."""
    if certificate.height <= s.stable_height:
        return
    s.stable_height, s.stable_certificate = certificate.height, certificate
    own = s.head if s.head.height == certificate.height else s.headers.get(certificate.height)
    if own is not None and own.digest() != certificate.digest:
        own = None
        _diverged(s, certificate.height)
    s.out.persist.append(StableRecord(certificate, own))
    s.certify(AdvanceFloor(certificate.height))
    if own is not None:
        _install(s, own)
    collect_garbage(s)
    s.next_height = max(s.next_height, s.stable_height + 1)
    s.replay = True  # the window moved: what was too far ahead may be in it now
    s.notice("stable", height=certificate.height)


def _reconcile(s: State, header: Header) -> None:
    """Execution reached a height that was stable before."""
    if header.digest() != s.stable_certificate.digest:
        _diverged(s, header.height)
        return
    if s.diverged_at >= 0:
        s.diverged_at = -1
        s.replay = True
        s.notice("healed", height=header.height)
    s.out.persist.append(StableRecord(s.stable_certificate, header))
    _install(s, header)
    collect_garbage(s)


def _install(s: State, header: Header) -> None:
    s.host.stable(header, s.stable_certificate)
    s.headers = {height: found for height, found in s.headers.items() if height > header.height}


def _diverged(s: State, height: int) -> None:
    """My execution is not the agreed one: stop voting, go back to the last installed state and
    execute the agreed blocks again; if that differs too, take a peer's snapshot, or try once more
    after a while if no peer has a newer one (A-35, S-46)."""
    s.notice("diverged", height=height)
    s.diverged_ms = s.now
    s.snapshot_only = s.diverged_at >= 0
    if s.snapshot_only:
        s.notice("alarm", what="re-execution diverged too", detail="asking for a snapshot")
    s.diverged_at = height
    s.head = s.host.rollback()
    s.headers = {}


def collect_garbage(s: State) -> None:
    """Delete votes, PREPAREs and evidence at or below the stable height, but keep what execution
    still needs."""
    for height in [h for h in s.checkpoints if h <= s.stable_height]:
        del s.checkpoints[height]
    for height in [h for h in s.own_checkpoints if h <= s.stable_height]:
        del s.own_checkpoints[height]
    done = min(s.stable_height, s.executed)
    for height in [h for h in s.slots if h <= s.stable_height]:
        slot = s.slots[height]
        if height <= done or slot.certificate is None:
            for digest in slot.bodies:
                s.host.dropped(digest)
                s.wanted.pop(digest, None)
            del s.slots[height]
        else:
            slot.votes.clear()
            slot.heads.clear()
            slot.prepares.clear()
    for digest in [d for d, (height, _, _) in s.wanted.items() if height <= done]:
        del s.wanted[digest]
