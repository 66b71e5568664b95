"""What a Byzantine host can make: any message, with its own real trusted component and host key.

Each function signs with the named host's own keys; nothing here can do what that
host could not do itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from support.world import WALL_MS, World
from tepbft.core.block import NORMAL, Block, Request, encode_body
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import Configuration
from tepbft.core.events import PeerMessage
from tepbft.execution.loader import load_operations
from tepbft.protocols.tep.messages import (
    Checkpoint,
    Commit,
    Departure,
    Message,
    NewView,
    NewViewCertificate,
    NvAck,
    Prepare,
    ReqVc,
    ViewChange,
    ack_preimage,
    departure_digest,
    req_vc_preimage,
    summary_digest,
)
from tepbft.trusted.port import (
    COMMIT,
    PREPARE,
    Depart,
    DepartureUi,
    Install,
    Order,
    SignCheckpoint,
    TcRequest,
    Ui,
)

A, B, C, D, E = range(5)


def put(key: str, value: str = "v") -> bytes:
    """An operation of the `kv` application."""
    return load_operations("kv").parse(["put", key, value])


def spy(world: World) -> list[tuple[int, int, Message]]:
    """Everything put on the wire from now on, lost or not: (sender, to, message)."""
    seen: list[tuple[int, int, Message]] = []

    def look(sender: int, to: int, message: Message) -> bool:
        seen.append((sender, to, message))
        return True

    world.filters.insert(0, look)
    return seen


def deliver(world: World, sender: int, to: int, message: Message) -> None:
    """Hand a message over at once, past the network."""
    world.event(to, PeerMessage(sender, message))


def faults(world: World, number: int) -> list[str]:
    """Codes of the inadmissible messages that a node counted."""
    return [fields["code"] for fields in world.noticed(number, "peer_fault")]


def sign(world: World, host: int, request: TcRequest) -> Ui:
    """A statement of the host's component."""
    ui = world.hosts[host].tc.call(request)
    assert isinstance(ui, Ui), ui
    return ui


def block_of(world: World, height: int, *requests: Request, ts: int | None = None, cfg: int = 0) -> Block:
    """A NORMAL block."""
    when = WALL_MS + world.now if ts is None else ts
    return Block(cfg, height, NORMAL, when, len(requests), encode_body(list(requests)))


def prepare(world: World, host: int, view: int, block: Block, body: bool = True) -> Prepare:
    """The host proposes `block`."""
    digest = block.digest(world.chain_id)
    ui = sign(world, host, Order(PREPARE, view, block.height, digest))
    head = PrepareHead(view, block.height, digest, ui.seq, ui.signature)
    return Prepare(block.cfg, head, block if body else None)


def commit(world: World, host: int, proposal: Prepare) -> Commit:
    """The host votes for a proposal."""
    head = proposal.head
    ui = sign(world, host, Order(COMMIT, head.view, head.height, head.digest))
    return Commit(proposal.cfg, host, head, ui.seq, ui.signature, None)


def commit_certificate(world: World, proposal: Prepare, voters: Iterable[int]) -> CommitCertificate:
    """The proposal's PREPARE and the COMMITs of `voters` as a certificate."""
    head = proposal.head
    primary = world.genesis.configuration().primary(head.view)
    votes = {primary: Vote(primary, head.seq, head.signature)}
    for host in voters:
        vote = commit(world, host, proposal)
        votes[host] = Vote(host, vote.seq, vote.signature)
    ordered = tuple(votes[node] for node in sorted(votes))
    return CommitCertificate(proposal.cfg, head.view, head.height, head.digest, ordered)


def checkpoint(world: World, host: int, height: int, digest: bytes) -> Checkpoint:
    """The host claims a state."""
    ui = sign(world, host, SignCheckpoint(height, digest))
    return Checkpoint(0, host, height, digest, ui.seq, ui.signature)


def checkpoint_certificate(
    world: World, height: int, digest: bytes, hosts: Iterable[int]
) -> CheckpointCertificate:
    """CHECKPOINTs of `hosts` as a certificate."""
    made = [checkpoint(world, host, height, digest) for host in hosts]
    return CheckpointCertificate(0, height, digest, tuple(Vote(m.sender, m.seq, m.signature) for m in made))


def req_vc(world: World, host: int, target: int, cfg: Configuration | None = None) -> ReqVc:
    """The host asks for a view."""
    found = cfg or world.genesis.configuration()
    preimage = req_vc_preimage(world.chain_id, found, host, target)
    return ReqVc(found.number, host, target, world.hosts[host].key.sign(preimage))


def trigger(world: World, to: int, hosts: Sequence[int] | None = None) -> tuple[ReqVc, ...]:
    """f+1 REQ-VCs (of `hosts`)."""
    quorum = world.genesis.configuration().quorums.certificate
    return tuple(req_vc(world, host, to) for host in (range(quorum) if hosts is None else hosts))


def floor(world: World) -> CheckpointCertificate:
    """The vote-less certificate at the genesis."""
    return next(host.node.state.setting.floor_certificate() for host in world.hosts if host.node)


def new_view_certificate(
    world: World,
    view: int,
    nvc: Sequence[bytes] = (),
    *,
    base: CheckpointCertificate | None = None,
    hosts: Sequence[int] | None = None,
) -> NewViewCertificate:
    """NV-ACKs of `hosts` (f+1 by default) as a certificate; what they would have to check is skipped."""
    cfg = world.genesis.configuration()
    base = base or floor(world)
    summary = summary_digest(0, view, base, tuple(nvc))
    chosen = range(cfg.quorums.certificate) if hosts is None else hosts
    acks = tuple(Vote(host, 0, acknowledge(world, host, view, summary).signature) for host in chosen)
    return NewViewCertificate(0, view, base.height, base, tuple(nvc), acks)


def acknowledge(world: World, host: int, view: int, summary: bytes) -> NvAck:
    """The host acknowledges a summary."""
    preimage = ack_preimage(world.chain_id, world.genesis.configuration(), host, view, summary)
    return NvAck(0, host, view, summary, world.hosts[host].key.sign(preimage))


def view_change(
    world: World,
    host: int,
    to: int,
    *,
    base: CheckpointCertificate | None = None,
    certified: NewViewCertificate | None = None,
    prepares: Sequence[PrepareHead] = (),
    wishes: Sequence[ReqVc] | None = None,
) -> ViewChange:
    """The host leaves, with this content."""
    chosen = trigger(world, to) if wishes is None else tuple(wishes)
    content = Departure(base or floor(world), certified, tuple(prepares), chosen)
    ui = world.hosts[host].tc.call(Depart(to, departure_digest(content)))
    assert isinstance(ui, DepartureUi), ui
    return ViewChange(0, host, to, content, ui)


def new_view(
    world: World,
    host: int,
    view: int,
    changes: Sequence[ViewChange],
    base: CheckpointCertificate,
    nvc: Sequence[bytes],
) -> NewView:
    """The host starts a view with whatever summary it likes."""
    summary = summary_digest(0, view, base, tuple(nvc))
    ui = sign(world, host, Install(view, summary))
    ack = acknowledge(world, host, view, summary).signature
    return NewView(0, view, tuple(changes), base.height, tuple(nvc), ui.seq, ui.signature, ack)
