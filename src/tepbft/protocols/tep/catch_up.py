"""Catching up: STATUS, bodies, final blocks, stable checkpoints (A3.5).

A replica that is behind pulls, from one peer at a time, in turn; whoever holds a
certificate may serve it, so that partial meshes converge through relays. Two
events push: a client that repeats a request, and a peer that complains about a
view in which others made progress (A-33, A-61).
"""

from __future__ import annotations

from tepbft.core.block import CONFIG
from tepbft.protocols.tep import ordering
from tepbft.protocols.tep.messages import (
    Body,
    FetchBody,
    FetchFinal,
    FetchOffer,
    Final,
    Prepare,
    Stable,
    Status,
)
from tepbft.protocols.tep.state import State
from tepbft.protocols.tep.view_change import obtain
from tepbft.types import Height, NodeId

BATCH_BLOCKS = 32
BATCH_BYTES = 4 << 20
RETRY_INTERVALS = 16
"""Retransmission intervals after which a replica that diverged twice executes again."""


def own_status(s: State) -> Status:
    """Where this replica stands."""
    bitmap = 0
    for height, slot in s.slots.items():
        offset = height - s.executed - 1
        if slot.certificate is not None and 0 <= offset < 62:
            bitmap |= 1 << offset
    want = tuple((height, digest) for digest, (height, _, _) in list(s.wanted.items())[: s.window])
    return Status(s.cfg.number, s.view, s.active, s.stable_height, s.executed, bitmap, want)


def announce(s: State) -> None:
    """Send STATUS when it is due."""
    if s.now - s.status_ms >= s.options.t_status_ms:
        s.status_ms = s.now
        s.broadcast(own_status(s))


def on_status(s: State, sender: NodeId, message: Status) -> None:
    """Remember it; give a peer that is behind the small certificates at once."""
    peer = s.peers[sender]
    peer.status, peer.heard_ms = message, s.now
    if message.cfg < s.cfg.number:
        following = s.history.get(message.cfg + 1)
        if following is not None and s.may_help(sender, "barrier"):
            found = s.store.stable_at_or_above(following.floor)
            if message.executed >= following.floor and s.store.block(following.floor) is not None:
                serve_final(s, sender, following.floor)  # it may have the state, and not know what follows
            elif found is not None:
                s.send(sender, Stable(found[0]))
        return
    if message.cfg > s.cfg.number:
        return
    if message.stable < s.stable_height > s.cfg.floor and s.may_help(sender, "stable"):
        s.send(sender, Stable(s.stable_certificate))
    behind = message.view < s.certified_view or (message.view == s.certified_view and not message.active)
    if behind and s.certificate is not None and s.may_help(sender, "certificate"):
        s.send(sender, s.certificate)
    for height, digest in message.want[:4]:
        _serve_body(s, sender, height, digest)


# --- bodies -----------------------------------------------------------------------------------


def on_fetch_body(s: State, sender: NodeId, message: FetchBody) -> None:
    """Serve a block that a peer needs."""
    _serve_body(s, sender, message.height, message.digest)


def _serve_body(s: State, sender: NodeId, height: Height, digest: bytes) -> None:
    block = obtain(s, height, digest)
    if block is not None and s.may_help(sender, f"body{height}"):
        s.send(sender, Body(block))


def on_body(s: State, sender: NodeId, message: Body) -> None:
    """A body: used only if its digest was wanted."""
    block = message.block
    digest = block.digest(s.chain_id)
    wanted = s.wanted.pop(digest, None)
    if wanted is None or wanted[0] != block.height or block.height <= s.executed:
        return
    slot = s.slot(block.height)
    s.keep_body(slot, digest, block)
    if slot.certificate is not None and slot.certificate.digest == digest:
        ordering.finalize(s, slot, slot.certificate, sender)
    for key, head in list(slot.heads.items()):
        voters = slot.votes.get(key)
        if key[1] == digest and voters and s.active and head.view == s.view:
            ordering.on_prepare(s, sender, Prepare(s.cfg.number, head, block))
    ordering.try_accept(s, slot, sender)


def ask_again(s: State) -> None:
    """Wanted bodies: another peer each time."""
    for digest, (height, asked_ms, node) in list(s.wanted.items()):
        if s.now - asked_ms >= s.options.t_retransmit_ms:
            turn = (s.others.index(node) + 1) % len(s.others) if node in s.others else 0
            s.wanted[digest] = (height, s.now, s.others[turn])
            s.send(s.others[turn], FetchBody(height, digest))


# --- final blocks -----------------------------------------------------------------------------


def pull(s: State) -> None:
    """Fetch final blocks from a peer that has more, if execution stands still or is far behind."""
    if s.transfer is not None:
        return
    ahead = [
        node
        for node, peer in s.peers.items()
        if peer.status is not None and peer.status.executed > s.executed
    ]
    if not ahead:
        return
    gap = max(_executed(s, node) for node in ahead) - s.executed
    standing = s.now - s.progress_ms >= s.options.t_status_ms
    if not standing and gap <= 2 * s.window:
        return
    waiting = s.now - s.pulled_ms < s.options.t_retransmit_ms and s.executed < s.pulled_until
    if waiting or s.now == s.pulled_ms:
        return
    s.pull_turn += 0 if s.executed >= s.pulled_until > 0 else 1
    node = ahead[s.pull_turn % len(ahead)]
    s.pulled_from, s.pulled_ms = node, s.now
    s.pulled_until = min(s.executed + BATCH_BLOCKS, _executed(s, node))
    if s.snapshot_only and s.now - s.diverged_ms >= RETRY_INTERVALS * s.options.t_retransmit_ms:
        s.snapshot_only = False  # no peer has a newer snapshot: whatever went wrong may be over
    if s.snapshot_only:
        s.send(node, FetchOffer(s.executed))
    else:
        s.send(node, FetchFinal(s.executed + 1))


def _executed(s: State, node: NodeId) -> Height:
    status = s.peers[node].status
    return status.executed if status is not None else 0


def serve_final(s: State, node: NodeId, first: Height) -> None:
    """Send a batch of final blocks from `first` on, stopping at the end of a configuration."""
    budget = BATCH_BYTES
    for height in range(first, min(first + BATCH_BLOCKS, s.executed + 1)):
        stored = s.store.block(height)
        if stored is None:
            return
        s.send(node, Final(stored.block, stored.certificate))
        budget -= len(stored.block.body) + 512
        if stored.block.kind == CONFIG:
            found = s.store.stable_at_or_above(height)
            if found is not None and found[0].height == height:
                s.send(node, Stable(found[0]))
            return
        if budget <= 0:
            return


def push(s: State, height: Height) -> None:
    """A client still waits for the outcome at `height`: give the final blocks to every peer that
    has not shown it (A3.5, CE9)."""
    for node in s.others:
        _push_to(s, node, height)


def help_complainer(s: State, node: NodeId) -> None:
    """A peer complains about a view in which this replica made progress."""
    _push_to(s, node, s.executed)


def _push_to(s: State, node: NodeId, height: Height) -> None:
    status = s.peers[node].status if node in s.peers else None
    if status is not None and status.executed < min(height, s.executed) and s.may_help(node, "push"):
        serve_final(s, node, status.executed + 1)
