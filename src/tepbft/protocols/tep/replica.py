"""The TEP-BFT replica: one door for messages, answers and time; the modules beside it hold the rules.

Whatever comes in is dispatched to its handler; then `_advance` carries out what
has become possible, in a fixed order: leave, merge, execute, pass a barrier,
replay what was postponed. Handlers never execute and never seal.
"""

from __future__ import annotations

from typing import assert_never

from tepbft.core.block import CONFIG, Block
from tepbft.core.configuration import Configuration, ReplaceTc, next_configuration
from tepbft.errors import PeerFault
from tepbft.protocols.tep import (
    barrier,
    catch_up,
    checkpoints,
    new_view,
    ordering,
    recovery,
    state_transfer,
    view_change,
)
from tepbft.protocols.tep.messages import (
    Admission,
    Body,
    Checkpoint,
    Chunk,
    Commit,
    FetchBody,
    FetchChunk,
    FetchFinal,
    FetchOffer,
    Final,
    Forward,
    Message,
    NewView,
    NewViewCertificate,
    NvAck,
    Offer,
    Prepare,
    ReqVc,
    Stable,
    Status,
    ViewChange,
)
from tepbft.protocols.tep.state import State
from tepbft.storage.port import (
    CommitRecord,
    Recovered,
)
from tepbft.trusted.port import (
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Identity,
    Install,
    Order,
    Refused,
    SignCheckpoint,
    TcAnswer,
    TcRequest,
    Ui,
)
from tepbft.types import NodeId


class Replica:
    """Dispatch and control flow over `State` (style rule 8: ifs up, pure leaves down)."""

    def __init__(self, state: State) -> None:
        self.state = state

    # --- events ---

    def on_message(self, sender: NodeId, message: Message) -> None:
        """A decoded message from an authenticated peer. What is inadmissible is counted and dropped."""
        s = self.state
        if sender not in s.peers:
            return
        try:
            self._dispatch(sender, message)
        except PeerFault as error:
            s.fault(sender, error)
        self._advance()

    def _dispatch(self, sender: NodeId, message: Message) -> None:
        s = self.state
        number = getattr(message, "cfg", s.cfg.number)
        if number < s.cfg.number and not isinstance(message, Status):
            raise PeerFault("wrong_configuration", f"{number}, this is {s.cfg.number}")
        match message:
            case Prepare():
                ordering.on_prepare(s, sender, message)
            case Commit():
                ordering.on_commit(s, sender, message)
            case Checkpoint():
                checkpoints.on_checkpoint(s, sender, message)
            case Status():
                catch_up.on_status(s, sender, message)
            case ReqVc():
                view_change.on_req_vc(s, sender, message)
                if message.target == s.view + 1:
                    catch_up.help_complainer(s, sender)
            case ViewChange():
                view_change.on_view_change(s, sender, message)
            case NewView():
                new_view.on_new_view(s, sender, message)
            case NvAck():
                new_view.on_ack(s, sender, message)
            case NewViewCertificate():
                new_view.on_new_view_certificate(s, sender, message)
            case Final():
                ordering.on_final(s, sender, message)
            case Stable():
                checkpoints.on_stable(s, sender, message)
            case Body():
                catch_up.on_body(s, sender, message)
            case FetchBody():
                catch_up.on_fetch_body(s, sender, message)
            case FetchFinal():
                state_transfer.on_fetch_final(s, sender, message)
            case FetchOffer():
                state_transfer.on_fetch_offer(s, sender, message)
            case FetchChunk():
                state_transfer.on_fetch_chunk(s, sender, message)
            case Offer():
                state_transfer.on_offer(s, sender, message)
            case Chunk():
                state_transfer.on_chunk(s, sender, message)
            case Admission():
                barrier.on_admission(s, sender, message)
            case Forward():
                pass  # client requests: the node's business
            case _:
                assert_never(message)

    def on_answer(self, request: TcRequest, answer: TcAnswer) -> None:
        """The trusted component answered; messages that wait for its signature leave now."""
        s = self.state
        match request, answer:
            case Order(), Ui() | Refused():
                ordering.on_ordered(s, request, answer)
            case SignCheckpoint(), Ui() | Refused():
                checkpoints.on_signed(s, request, answer)
            case Depart(), DepartureUi() | Refused():
                view_change.on_departed(s, request, answer)
            case Install(), Ui() | Refused():
                new_view.on_installed(s, request, answer)
            case EnterView(), Done() | Refused():
                new_view.on_entered(s, request, answer)
            case ((AdvanceFloor() | BeginConfig() | Attest()), _):
                if isinstance(answer, Refused):
                    s.notice("tc_refused", code=answer.code, reason=answer.reason)
            case _:
                s.notice("alarm", what="answer of the wrong kind", detail=type(answer).__name__)
        self._advance()

    def on_tick(self) -> None:
        """Time passed: announce, retransmit, ask again, complain."""
        s = self.state
        catch_up.announce(s)
        catch_up.ask_again(s)
        catch_up.pull(s)
        state_transfer.watch(s)
        try:
            ordering.retransmit(s)
        except PeerFault as error:
            s.fault(s.primary, error)
        checkpoints.tend(s)
        barrier.ask_for_admission(s)
        view_change.forget_requests(s)
        view_change.retransmit(s)
        cause = view_change.find_complaint(s)
        if cause:
            view_change.complain(s, cause)
        self._advance()

    def on_admission(self, change: ReplaceTc) -> None:
        """This node's operator signed for its new trusted component."""
        barrier.request_admission(self.state, change)

    # --- votes that come too late ---

    def is_late(self, message: Message) -> bool:
        """A vote for what is final here. It is dropped (ADR 0010), and so are two in three of all votes
        that five nodes exchange."""
        s = self.state
        if type(message) is not Commit or message.cfg != s.cfg.number:
            return False
        height = message.head.height
        if height <= s.stable_height:
            return True
        slot = s.slots.get(height)
        return slot is not None and slot.certificate is not None

    def undecided(self) -> bool:
        """Whether a vote may matter now: something was proposed that is not executed, or views change."""
        s = self.state
        executed = s.executed
        return not s.active or max(s.slots, default=0) > executed

    # --- proposing ---

    def may_propose(self) -> bool:
        """True if a block proposed now would be in the window of an active view led from here."""
        return ordering.may_propose(self.state)

    def config_due(self) -> ReplaceTc | None:
        """A change of configuration that goes before any request, where `may_propose`."""
        return barrier.due(self.state)

    def propose(self, block: Block, digest: bytes) -> None:
        """Order a block at `next_height`."""
        ordering.propose(self.state, block, digest)
        self._advance()

    def push(self, height: int) -> None:
        """A client repeats a request whose outcome stands at `height`."""
        catch_up.push(self.state, height)

    # --- what has become possible ---

    def _advance(self) -> None:
        s = self.state
        while True:
            view_change.leave(s)
            new_view.try_new_view(s)
            if not s.active or s.new_views:
                new_view.retry_new_views(s)
            if self._execute() or barrier.pass_barrier(s):
                continue
            if not s.replay:
                return
            s.replay = False
            self._replay()

    def _replay(self) -> None:
        """Run postponed messages again; those that are still too early are postponed anew."""
        s = self.state
        for node in s.others:
            peer = s.peers[node]
            waiting = list(peer.future)
            peer.future.clear()
            for message in waiting:
                try:
                    self._dispatch(node, message)
                except PeerFault as error:
                    s.fault(node, error)
        for height in sorted(s.slots):
            slot = s.slots.get(height)
            if slot is not None and slot.waiting is not None:
                try:
                    ordering.try_accept(s, slot, None)
                except PeerFault as error:
                    s.fault(s.primary, error)

    def _execute(self) -> bool:
        """Execute the next final block, if there is one; strictly in order of height (I-11)."""
        s = self.state
        if s.paused or s.snapshot_only or 0 <= s.barrier <= s.executed:
            return False
        slot = ordering.executable(s, s.executed + 1)
        if slot is None or slot.certificate is None:
            return False
        digest = slot.certificate.digest
        block = slot.bodies[digest]
        following: Configuration | None = None
        if block.kind == CONFIG:
            following = s.following = next_configuration(s.cfg, block)
            s.barrier = slot.height
        s.record_body(slot, digest)
        if not slot.commit_recorded:
            s.out.persist.append(CommitRecord(slot.certificate))
        s.head = s.host.execute(block, digest, following)
        s.progress_ms = s.now
        s.executed_in_view += 1
        if s.executed_in_view % s.options.stable_blocks == 0:
            s.backoff = max(0, s.backoff - 1)
        before = s.stable_height
        checkpoints.after_execution(s, s.head, block.kind)
        s.replay = s.replay or s.stable_height != before or s.parameters.strict_sequential
        return True

    def recover(self, recovered: Recovered, identity: Identity) -> None:
        """Take up what the store holds; call once, before anything else."""
        s = self.state
        begun = -1
        while begun != s.cfg.number:  # replay may pass barriers: each configuration has its own records
            begun = s.cfg.number
            recovery.load(s, recovered, identity)
            self._advance()
        recovery.sign_again(s)
        checkpoints.collect_garbage(s)

    def phase(self) -> str:
        """`active`, `view_change`, `silent`, `transferring` or `diverged`."""
        s = self.state
        if s.diverged_at >= 0:
            return "diverged"
        if s.transfer is not None:
            return "transferring"
        if not s.voter:
            return "silent"
        return "active" if s.active else "view_change"
