"""Byzantine replicas: checkpoints, wishes, garbage, catching up, status (S-17 to S-24, S-37)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from tepbft.core.certificates import CheckpointCertificate, PrepareHead, Vote
from tepbft.protocols.tep.messages import (
    Checkpoint,
    Chunk,
    Commit,
    FetchBody,
    FetchChunk,
    FetchFinal,
    FetchOffer,
    Final,
    NewViewCertificate,
    Offer,
    Prepare,
    Stable,
    Status,
)
from tepbft.sim.adversaries.toolkit import Attacker, replace
from tepbft.sim.ports import Power
from tepbft.trusted.port import SignCheckpoint, TcRequest
from tepbft.types import Millis, NodeId
from tepbft.wire import encode

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message


class ForgedCheckpoints(Attacker):
    """S-17: f hosts sign the same wrong state; one signs twice, or heights to come; or replays
    checkpoints as another node's or of another configuration. Expected: never stable."""

    name = "s17-forged-checkpoints"

    def certify(self, request: TcRequest) -> bool:
        """See `Strategy`."""
        if not isinstance(request, SignCheckpoint) or self.rng.random() < 0.3:
            return True
        wrong = sha256(b"wrong state" + request.height.to_bytes(8, "big")).digest()
        height = request.height + (self.rng.randint(0, 2) if self.rng.random() < 0.2 else 0)
        message = self.forge.checkpoint(height, wrong)
        if message is None:
            return True
        self.did()
        self.power.broadcast(message)
        second = self.forge.checkpoint(height, request.digest)
        self.power.broadcast(second or replace(message, digest=request.digest))
        return False

    def tick(self) -> None:
        """See `Strategy`."""
        known = [found for found in self.memory.seen if isinstance(found, Checkpoint)]
        if not known or not self.every(150):
            return
        found = self.rng.choice(known)
        n = self.power.configuration.quorums.n
        other = self.rng.randrange(n)
        self.did()
        false = self.rng.choice(
            (
                replace(found, sender=other),
                replace(found, cfg=found.cfg + self.rng.choice((0, 1))),
                replace(found, height=found.height + 1),
                replace(found, sender=63),
            )
        )
        self.power.broadcast(false)
        votes = (Vote(found.sender, found.seq, found.signature),) * n
        certificate = CheckpointCertificate(found.cfg, found.height, found.digest, votes)
        self.power.broadcast(Stable(certificate))


class Favourite(Attacker):
    """S-18, CE9: all colluders work with the same single correct host only, for a while, and then
    fall silent. Expected: the others catch up with it; clients finish."""

    name = "s18-favourite"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._phase_ms: Millis = 400

    def _favoured(self, to: NodeId) -> bool:
        if to in self.power.allies:
            return True
        phase = self.power.now_ms // self._phase_ms
        victims = self.victims()
        return phase % 3 != 2 and to == victims[phase // 3 % len(victims)]

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if self._favoured(to):
            return ((to, message),)
        self.did()
        return ()


class ReqVcSpam(Attacker):
    """S-19: wishes for huge views, for the next one over and over, as other nodes, or to a single host.
    Expected: bounded state; correct hosts stay together."""

    name = "s19-req-vc-spam"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._single = self.some()[0]

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is None or not self.every(60):
            return
        target = self.rng.choice((s.view + 1, s.view + 1, s.view + 2, s.view + 1000, 2**62, 2**63 - 1))
        wish = self.forge.req_vc(target)
        if self.rng.random() < 0.2:
            wish = replace(wish, sender=self.rng.randrange(s.quorums.n))
        self.did()
        if self.rng.random() < 0.5:
            self.power.post(self._single, wish)
        else:
            self.power.broadcast(wish)


class Flood(Attacker):
    """S-20: garbage frames, truncated and bit-flipped messages, replays under other senders.
    Expected: stopped by the codec or the checks; bounded memory (I-17, I-25)."""

    name = "s20-flood"

    def tick(self) -> None:
        """See `Strategy`."""
        if not self.every(30):
            return
        for to in self.some(2):
            self.did()
            if not self.memory.seen or self.rng.random() < 0.2:
                self.power.post_bytes(to, self.forge.garbage(self.rng.randrange(300)))
                continue
            message = self.rng.choice(list(self.memory.seen))
            data = bytearray(encode(message))
            kind = self.rng.randrange(4)
            if kind == 0:
                del data[self.rng.randrange(len(data)) :]
            elif kind == 1:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            elif kind == 2:
                data += self.forge.garbage(3)
            self.power.post_bytes(to, bytes(data))


class Lure(Attacker):
    """Base of attacks on hosts that catch up: claims to be ahead of everybody, so that they ask here."""

    name = "lure"
    ahead = 40

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Status) and self.rng.random() < 0.7:
            return ((to, replace(message, executed=message.executed + self.rng.randint(1, self.ahead))),)
        return ((to, message),)


class PoisonedState(Lure):
    """S-21: offers of snapshots with wrong chunks, headers, leaves or certificates, unasked-for chunks,
    streams without end. Expected: each chunk is judged by its hash; another server takes over."""

    name = "s21-poisoned-state"

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, FetchFinal | FetchOffer):
            self._offer(sender)
        if isinstance(message, FetchChunk) and self.rng.random() < 0.7:
            self.did()
            wrong = self.forge.garbage(self.rng.choice((0, 10, 2000)))
            self.power.post(sender, Chunk(message.height, message.index, wrong))
            self.power.post(sender, Chunk(message.height, message.index + 1, wrong))
            return ()
        return super().inbound(sender, message)

    def _offer(self, to: NodeId) -> None:
        """A snapshot of the own last executed state, or of one to come."""
        s = self.state
        if s is None:
            return
        header = s.head
        leaves = (self.forge.garbage(),) * self.rng.choice((1, 3, 200))
        certificate = s.stable_certificate
        if self.rng.random() < 0.5:
            header = replace(header, height=header.height + self.rng.randint(1, 50))
            certificate = replace(certificate, height=header.height, digest=header.digest())
        self.did()
        self.power.post(to, Offer(header, certificate, leaves, ()))

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Chunk):
            self.did()
            flipped = bytes([*message.data[:-1], message.data[-1] ^ 1]) if message.data else b"x"
            return ((to, replace(message, data=flipped)),)
        if isinstance(message, Offer):
            self.did()
            false: Message = self.rng.choice(
                (
                    replace(message, leaves=tuple(reversed((*message.leaves, self.forge.garbage())))),
                    replace(message, header=replace(message.header, snapshot_root=self.forge.garbage())),
                    replace(message, certificate=replace(message.certificate, votes=())),
                    message,  # a good offer, and then wrong chunks
                )
            )
            return ((to, false),)
        return super().outbound(to, message)


class FalseCatchUp(Lure):
    """S-22: final blocks and certificates of another configuration, truncated, with a signer twice, with
    another block, or at another height. Expected: rejected."""

    name = "s22-false-catch-up"

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if self.rng.random() < 0.25:
            return super().outbound(to, message)
        if isinstance(message, Final):
            self.did()
            return ((to, self._final(message)),)
        if isinstance(message, Stable):
            self.did()
            certificate = message.certificate
            votes = self._votes(certificate.votes)
            false = self.rng.choice(
                (
                    replace(certificate, votes=votes),
                    replace(certificate, height=certificate.height + 1),
                    replace(certificate, digest=self.forge.garbage()),
                    replace(certificate, cfg=certificate.cfg + 1),
                )
            )
            return ((to, Stable(false)),)
        if isinstance(message, NewViewCertificate):
            self.did()
            wrong = self.rng.choice(
                (
                    replace(message, acks=self._votes(message.acks)),
                    replace(message, view=message.view + 1),
                    replace(message, nvc=(self.forge.garbage(), *message.nvc[1:])),
                    replace(message, nvc=message.nvc[:-1] if message.nvc else (self.forge.garbage(),)),
                )
            )
            return ((to, wrong),)
        return super().outbound(to, message)

    def _votes(self, votes: tuple[Vote, ...]) -> tuple[Vote, ...]:
        """Too few, or one signer several times, or as somebody else."""
        if not votes:
            return ()
        renamed = tuple(replace(vote, node=(vote.node + 1) % 64) for vote in votes)
        return self.rng.choice((votes[:-1], votes[:1] * len(votes), renamed))

    def _final(self, message: Final) -> Final:
        certificate, block = message.certificate, message.block
        other = self.forge.rogue_block(block.height)
        digest = other.digest(self.power.chain_id)
        return self.rng.choice(
            (
                Final(other, certificate),
                Final(other, replace(certificate, digest=digest)),
                Final(block, replace(certificate, votes=self._votes(certificate.votes))),
                Final(block, replace(certificate, cfg=certificate.cfg + 1)),
                Final(block, replace(certificate, view=certificate.view + 1)),
                Final(replace(block, height=block.height + 1), replace(certificate, height=block.height + 1)),
            )
        )

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        s = self.state
        if isinstance(message, FetchFinal) and s is not None and s.store.block(message.height) is None:
            stored = s.store.block(s.executed)
            if stored is not None:
                self.did()
                moved = replace(stored.block, height=message.height)
                digest = moved.digest(self.power.chain_id)
                certificate = replace(stored.certificate, height=message.height, digest=digest)
                self.power.post(sender, Final(moved, certificate))
        return super().inbound(sender, message)


class LyingStatus(Attacker):
    """S-23: says anything of where it stands, and wants what nobody has.
    Expected: wasted messages, bounded."""

    name = "s23-lying-status"

    def outbound(self, to: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if not isinstance(message, Status) or self.rng.random() < 0.2:
            return ((to, message),)
        self.did()
        rng = self.rng
        numbers = (0, 1, message.executed + 5, 2**40, 2**63 - 1)
        want = tuple((rng.choice(numbers), self.forge.garbage()) for _ in range(rng.choice((0, 4, 64))))
        false = Status(
            cfg=rng.choice((message.cfg, message.cfg, message.cfg, 0, message.cfg + 1, 2**32 - 1)),
            view=rng.choice((message.view, message.view + 1, *numbers)),
            active=rng.random() < 0.5,
            stable=rng.choice((message.stable, *numbers)),
            executed=rng.choice((message.executed, *numbers)),
            final_above=rng.choice(numbers),
            want=want,
        )
        return ((to, false),)

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is None or not self.every(80):
            return
        self.did()
        height = self.rng.choice((0, 1, s.executed, s.executed + 1, 2**63 - 1))
        asked: tuple[Message, ...] = (
            FetchFinal(height), FetchBody(height, self.forge.garbage()), FetchOffer(height),
            FetchChunk(height, self.rng.choice((0, 2**32 - 1))),
        )  # fmt: skip
        self.power.post(self.some()[0], self.rng.choice(asked))


class UnknownPrepare(Attacker):
    """S-24: a primary signs a block that nobody gets, and a colluder sends a Commit for it; alone, it
    sends Commits for Prepares that nobody signed. Expected: no vote without the body; no leak."""

    name = "s24-unknown-prepare"

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is None or not s.voter or not s.active or not self.every(150):
            return
        height = s.stable_height + self.rng.randint(1, s.window)
        if s.primary == s.me:
            used = s.slots.get(height)
            if used is None or not used.prepares:
                head = self.forge.head(s.view, height, self.forge.garbage())
                if head is not None:
                    self._spread(head, Prepare(s.cfg.number, head, None))
            return
        view = self.rng.choice((s.view, s.view + 1, s.view + 2))
        false = self.forge.false_head(view, height, self.forge.garbage())
        self.did()
        self.power.broadcast(Commit(s.cfg.number, s.me, false, 1, self.forge.garbage(), None))

    def _spread(self, head: PrepareHead, proposal: Prepare) -> None:
        self.did()
        for node in self.power.allies or self.some(1):
            self.power.post(node, proposal)

    def inbound(self, sender: NodeId, message: Message) -> Sequence[tuple[NodeId, Message]]:
        """See `Strategy`."""
        if isinstance(message, Prepare) and message.block is None and sender in self.power.allies:
            vote = self.forge.commit(message.head)
            if vote is not None:
                self.did()
                self.power.broadcast(vote)
            return ()
        return super().inbound(sender, message)


class RestlessComponent(Attacker):
    """S-37: restarts its trusted component again and again, and asks for admission each time.
    Expected: the rate limit; no unbounded reconfiguration."""

    name = "s37-restless-component"
    burns = True

    def tick(self) -> None:
        """See `Strategy`."""
        s = self.state
        if s is not None and self.every(1000):
            self.did()
            self.power.restart_component()
