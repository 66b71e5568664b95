"""State transfer: a certified snapshot in verified chunks, from any one server (A3.5, A-38).

Nothing a server says is believed: the certificate is checked under a member table
that this replica can prove, the leaf hashes under the certified header, each chunk
under its leaf hash. A server that sends anything else, or nothing, is replaced.
"""

from __future__ import annotations

from tepbft.core.admission import OperatorSignature
from tepbft.core.links import follow_links
from tepbft.core.verification import check_checkpoint_certificate
from tepbft.crypto.hash import leaf_hash, merkle_root
from tepbft.errors import PeerFault
from tepbft.protocols.tep import barrier, checkpoints
from tepbft.protocols.tep.catch_up import serve_final
from tepbft.protocols.tep.messages import Chunk, FetchChunk, FetchFinal, FetchOffer, Offer
from tepbft.protocols.tep.state import State, Transfer
from tepbft.storage.port import LinkedConfigRecord, StableRecord
from tepbft.trusted.port import AdvanceFloor, BeginConfig
from tepbft.types import Height, NodeId
from tepbft.wire import ConfigLink, encode

CHUNKS_AT_ONCE = 8


# --- serving ----------------------------------------------------------------------------------


def on_fetch_final(s: State, sender: NodeId, message: FetchFinal) -> None:
    """Serve final blocks; beyond `keep_blocks`, or where the ledger begins later, offer a snapshot."""
    if message.height > s.executed or not s.may_help(sender, f"final{message.height}"):
        return
    far = s.executed - message.height > s.parameters.keep_blocks
    if (far or s.store.block(message.height) is None) and _offer(s, sender, message.height):
        return
    serve_final(s, sender, message.height)


def on_fetch_offer(s: State, sender: NodeId, message: FetchOffer) -> None:
    """Offer a snapshot above a height, if there is one."""
    if s.may_help(sender, "offer"):
        _offer(s, sender, message.above)


def _offer(s: State, node: NodeId, above: Height) -> bool:
    for height, count in reversed(s.store.snapshots()):
        found = s.store.stable_at_or_above(height)
        if height < above or found is None or found[0].height != height:
            continue
        status = s.peers[node].status
        known = status.cfg if status is not None else 0
        links = s.host.link_offer(known)
        following = s.history.get(known + 1)
        if following is not None and following.floor <= height and not links:
            continue  # nobody can check it who does not know what followed its configuration
        chunks = [s.store.snapshot_chunk(height, index) for index in range(count)]
        leaves = tuple(leaf_hash(chunk) for chunk in chunks if chunk is not None)
        if len(leaves) != count:
            continue
        s.send(node, Offer(found[1], found[0], leaves, links))
        return True
    return False


def on_fetch_chunk(s: State, sender: NodeId, message: FetchChunk) -> None:
    """Serve one chunk."""
    data = s.store.snapshot_chunk(message.height, message.index)
    if data is not None:
        s.send(sender, Chunk(message.height, message.index, data))


# --- receiving --------------------------------------------------------------------------------


def on_offer(s: State, sender: NodeId, message: Offer) -> None:
    """Check an offer to the end before asking for its first chunk."""
    header, certificate = message.header, message.certificate
    if s.transfer is not None or header.height <= s.executed or sender != s.pulled_from:
        return  # an offer that nobody asked for could keep this replica from a better one
    links = tuple(link for link in message.links if link.cfg >= s.cfg.number)
    following = follow_links(
        s.chain_id,
        s.cfg,
        links,
        verifier=s.verifier,
        admission=OperatorSignature(s.verifier),
        min_gap=s.parameters.min_config_gap,
    )
    usable = [cfg for cfg in [s.cfg, *following] if cfg.number == certificate.cfg]
    if not usable or certificate.height != header.height or certificate.digest != header.digest():
        raise PeerFault("bad_offer", "its certificate does not fit its header or configuration")
    if not check_checkpoint_certificate(usable[0], certificate, s.verifier):
        raise PeerFault("bad_certificate", "offered snapshot")
    if merkle_root(message.leaves) != header.snapshot_root:
        raise PeerFault("bad_offer", "its leaf hashes do not add up to the certified root")
    following = [cfg for cfg in following if cfg.floor <= header.height]
    s.transfer = Transfer(sender, message, following, asked_ms=s.now)
    s.notice("state_transfer_started", height=header.height, server=sender, chunks=len(message.leaves))
    _ask(s, s.transfer)


def _ask(s: State, transfer: Transfer) -> None:
    transfer.asked_ms = s.now
    missing = [i for i in range(len(transfer.offer.leaves)) if i not in transfer.chunks]
    for index in missing[:CHUNKS_AT_ONCE]:
        s.send(transfer.server, FetchChunk(transfer.offer.header.height, index))


def on_chunk(s: State, sender: NodeId, message: Chunk) -> None:
    """Keep a chunk whose hash is right; a wrong one costs its server the job (S-21)."""
    transfer = s.transfer
    if transfer is None or message.height != transfer.offer.header.height or sender != transfer.server:
        return
    if message.height <= s.executed:
        s.transfer = None  # execution got there first: the state never goes back (I-11)
        return
    leaves = transfer.offer.leaves
    if message.index >= len(leaves) or message.index in transfer.chunks:
        return
    if leaf_hash(message.data) != leaves[message.index]:
        s.transfer = None
        s.pull_turn += 1
        raise PeerFault("bad_chunk", f"chunk {message.index} of snapshot {message.height}")
    transfer.chunks[message.index] = message.data
    if len(transfer.chunks) == len(leaves):
        _finish(s, transfer)
    elif len(transfer.chunks) % CHUNKS_AT_ONCE == 0:
        _ask(s, transfer)


def watch(s: State) -> None:
    """Ask again; after a silence, another server."""
    transfer = s.transfer
    if transfer is None:
        return
    if transfer.offer.header.height <= s.executed:
        s.transfer = None
        return
    silence = s.now - transfer.asked_ms
    patience = (8 if transfer.chunks else 2) * s.options.t_retransmit_ms
    if silence > patience:
        s.transfer = None
        s.pull_turn += 1


def _finish(s: State, transfer: Transfer) -> None:
    """All chunks are right: install the state in one go, and go on from there."""
    header, certificate = transfer.offer.header, transfer.offer.certificate
    s.transfer = None
    chunks = [transfer.chunks[index] for index in range(len(transfer.offer.leaves))]
    links: tuple[ConfigLink, ...] = transfer.offer.links
    following = [cfg for cfg in transfer.following if cfg.number > s.cfg.number]
    for cfg in following:
        link = next(link for link in links if link.cfg == cfg.number - 1)
        s.out.persist.append(LinkedConfigRecord(encode(cfg), encode(link)))
    if following:
        last = following[-1]
        floor = next(link.header for link in reversed(links) if link.cfg == last.number - 1)
        for cfg in following:
            s.history[cfg.number] = cfg
        s.begin(last, floor.digest())
        s.certify(BeginConfig(last.number, last.digest(), last.floor))
        s.host.configured(last)
    s.host.transferred(header, certificate, chunks)
    s.head = header
    slot = s.slots.get(header.height)
    if slot is not None and header.block_digest in slot.bodies:
        barrier.recognise(s, slot.bodies[header.block_digest])
    s.headers = {}
    s.paused = True
    s.diverged_at, s.snapshot_only = -1, False
    s.progress_ms = s.now
    if certificate.height > s.stable_height:
        s.stable_height, s.stable_certificate = certificate.height, certificate
        s.out.persist.append(StableRecord(certificate, header))
        s.certify(AdvanceFloor(certificate.height))
    s.next_height = max(s.next_height, s.stable_height + 1)
    checkpoints.collect_garbage(s)
    s.replay = True
    s.notice("state_transferred", height=header.height, server=transfer.server)
