"""A host: a production node with its disk, its component, its clock, and a shell that may die.

`carry_out` does what the production shell does, in the same order; between any two
effects the process may crash (`fuse`), and an append may be torn in the middle. What is
only written stays so until something has to be forced: a real shell forces it after a
while, but nothing may rely on that. In some worlds the component dies with the power of its
host, as a process does, and works while the host waits for its disk (ADR 0023).
"""

from __future__ import annotations

import traceback
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

from tepbft.core.events import (
    AdmissionRequested,
    Effects,
    Event,
    InstallState,
    PeerMessage,
    ReplaceState,
    SaveSnapshot,
    Send,
    StorageEffect,
    TcAnswered,
    Tick,
)
from tepbft.core.verification import NodeSigner
from tepbft.crypto.operator import sign_replacement
from tepbft.errors import TepbftError
from tepbft.node.node import Node
from tepbft.sim.application import Fallible
from tepbft.sim.clock import Clock
from tepbft.sim.component import Component
from tepbft.sim.crypto import operator_seed
from tepbft.sim.disk import Disk
from tepbft.sim.ports import Strategy
from tepbft.storage.errors import StoreFull
from tepbft.storage.port import Record
from tepbft.trusted.port import TcRequest
from tepbft.types import Millis, NodeId

if TYPE_CHECKING:
    from tepbft.sim.world import World

INBOX_EVENTS = 512
ADMISSION_MS = 200
"""A node whose component is not a member asks its operator so often."""


class Crashed(Exception):
    """The process died between two effects."""


def _by_strategy(error: BaseException) -> bool:
    """True if a strategy itself is at fault: an error of the simulator, not of the node that it betrays."""
    frames = traceback.extract_tb(error.__traceback__)
    return any("/adversaries/" in frame.filename or "/mischief" in frame.filename for frame in frames)


class SimHost:
    """One machine. Its disk and its component outlive its process."""

    def __init__(
        self,
        world: World,
        number: NodeId,
        component: Component,
        node_key: bytes,
        signer: NodeSigner,
        clock: Clock,
    ) -> None:
        self.world, self.number = world, number
        self.component, self.node_key, self.signer, self.clock = component, node_key, signer, clock
        self.disk = self.new_disk()
        self.node: Node | None = None
        self.strategy: Strategy | None = None
        """What makes this host Byzantine."""
        self.application: Fallible
        self.flawed = False
        """Its application was wrong once: what it executes is not judged, and it counts as faulty."""
        self.wiped = False
        """Its disk was replaced: what its component attests may be lost, so it counts as faulty."""
        self.was_wiped_at: Millis = -1
        self.fuse = -1
        """Effects until the process dies; -1: it lives."""
        self.trap = ""
        """Name of an effect at which the process dies, just before or just after it (`spring_late`)."""
        self.spring_late = False
        self.unplugged = False
        """When the process dies, it is the power that fails."""
        self.stalled = False
        """The disk is full: nothing is carried out until there is room."""
        self.incarnation = 0
        self.busy = False
        self.inbox: deque[Event] = deque()
        self._rng = Random(f"{world.config.seed}/host/{number}")
        self._effects = Effects()
        self._backlog: deque[Event] = deque()
        self._asked_ms: Millis = -ADMISSION_MS

    def new_disk(self) -> Disk:
        """An empty disk."""
        return Disk(written_counts=not self.world.config.component_outlives_host)

    @property
    def byzantine(self) -> bool:
        """True if a strategy speaks for it."""
        return self.strategy is not None

    @property
    def up(self) -> bool:
        """True if its process runs."""
        return self.node is not None

    @property
    def quiet(self) -> bool:
        """True if every effect so far is carried out and every answer was taken."""
        return not self._backlog and not self._effects.persist and not self._effects.certify

    @property
    def member(self) -> bool:
        """True if its component is a member of the newest configuration that anybody has reached."""
        return self.world.chain.newest.members[self.number].tc_id == self.component.tc_id

    # --- process ----------------------------------------------------------------------------------

    def start(self) -> None:
        """The process starts and recovers from its disk."""
        world, now = self.world, self.world.now
        stored = self.disk.configurations()
        cfg = world.decode_configuration(stored[-1]) if stored else world.genesis.configuration()
        self.component.provision(world.chain_id, cfg, world.genesis.parameters.window)
        self.incarnation += 1
        self._asked_ms = now - ADMISSION_MS
        self.application = Fallible(world.make_application())
        self.node = Node(
            me=self.number,
            genesis=world.genesis,
            store=self.disk,
            identity=self.component.identity(),
            signer=self.signer,
            verifier=world.keys.verifier,
            requests=world.keys.requests(world.genesis.clients, self.number),
            application=self.application,
            settings=world.config.options,
        )
        self._effects = self.node.start(self.clock.now_ms(now), self.clock.wall_ms(now))
        if self.strategy is None:
            for hook in world.hooks.on_start:
                hook(self)
        self._work()

    def stop(self) -> None:
        """The process is gone; what it had not carried out never happens."""
        self.node = None
        self.fuse, self.trap = -1, ""
        self.stalled = self.busy = self.unplugged = False
        self.inbox.clear()
        self._backlog.clear()
        self._effects = Effects()

    # --- events -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Time passes; also where a full disk is tried again and an operator is asked."""
        if self.node is None:
            return
        self._ask_operator()
        self.inbox.append(Tick(self.clock.wall_ms(self.world.now)))
        self.turn()
        if self.strategy is not None and self.node is not None:
            self.strategy.tick()

    def deliver(self, event: Event) -> None:
        """Something arrived. A busy host takes it up with what else has arrived by then."""
        if self.node is None:
            return
        if len(self.inbox) >= INBOX_EVENTS:
            self.inbox.popleft()
        self.inbox.append(event)
        if self.busy or self.stalled:
            return
        config = self.world.config
        if config.batch and not self.world.network.healed and self._rng.random() < config.batch:
            self.busy = True
            self.world.at(
                self.world.now + self._rng.randint(1, config.batch_ms), self._wake, self.incarnation
            )
        else:
            self.turn()

    def _wake(self, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.busy = False
            self.turn()

    def turn(self) -> None:
        """Take everything that has arrived."""
        if self.node is None:
            return
        if self.stalled:
            while len(self.inbox) > INBOX_EVENTS // 2:
                self.inbox.popleft()
            if self.disk.full:
                return
        self._backlog.extend(self.inbox)
        self.inbox.clear()
        self._work()

    def _ask_operator(self) -> None:
        node, world = self.node, self.world
        if node is None or world.now - self._asked_ms < ADMISSION_MS:
            return
        self._asked_ms = world.now
        cfg = node.configuration
        if cfg.members[self.number].tc_id == self.component.tc_id:
            return
        try:
            change = sign_replacement(
                world.chain_id,
                cfg,
                self.number,
                operator_seed(world.config.seed, self.number),
                self.component.identity(),
                self.component.call,
            )
        except TepbftError as error:
            world.violate("I-20", f"readmission impossible: {error.reason}", self.number)
            return
        self.inbox.append(AdmissionRequested(change))

    # --- the shell --------------------------------------------------------------------------------

    def _work(self) -> None:
        world = self.world
        try:
            self.stalled = False
            self._carry_out()
            while self._backlog:
                events = 0
                while self._backlog and not self._pressing and events < world.config.merge_events:
                    self._step(self._backlog.popleft())
                    events += 1
                self._carry_out()
        except Crashed:
            world.crash(self.number)
        except StoreFull:
            self.stalled = True
        except Exception as error:
            if self.strategy is None or _by_strategy(error):
                world.report_error(self.number, error)
            self.stop()
            if self.strategy is not None:  # betrayed to death: its host starts it again
                world.at(world.now + world.config.down_ms, world.start, self.number)

    @property
    def _pressing(self) -> bool:
        """True if there is something that is carried out before the next step, as by a real shell."""
        return bool(self._effects.store or self._effects.announce)

    def _step(self, event: Event) -> None:
        node, world = self.node, self.world
        if node is None:
            raise Crashed
        world.steps += 1
        more = node.step(event, self.clock.now_ms(world.now))
        effects = self._effects
        if more.announce:
            effects.announce += more.announce
        if more.persist:
            effects.persist += more.persist
        if more.store:
            effects.store += more.store
        if more.certify:
            effects.certify += more.certify
        if more.send:
            effects.send += more.send
        if more.replies:
            effects.replies += more.replies
        if more.busy:
            effects.busy += more.busy
        if more.notices:
            effects.notices += more.notices
            if self.strategy is None:
                self._notice_fast(more)
        if self.strategy is None:
            for hook in world.hooks.on_step:
                hook(self)

    def _notice_fast(self, more: Effects) -> None:
        world = self.world
        for notice in more.notices:
            world.note(self, notice)
            for hook in world.hooks.on_notice:
                hook(self, notice.name, notice.fields)

    def _burn(self) -> None:
        """One more effect: the process may die here."""
        if self.fuse > 0:
            self.fuse -= 1
        elif self.fuse == 0:
            raise Crashed

    def _spring(self, effect: Any, late: bool) -> None:
        """The process dies here if its trap waits for this effect."""
        if self.spring_late == late and type(effect).__name__ == self.trap:
            self.world.coverage.count("trapped")
            raise Crashed

    def _carry_out(self) -> None:
        effects = self._effects
        if effects.announce:
            announced, effects.announce = effects.announce, []
            self._send(announced)
        if effects.persist:
            self._append(effects)
        elif effects.store or (effects.certify and self.world.config.component_outlives_host):
            self.disk.force()
        while effects.store:
            if self.fuse >= 0:
                self._burn()
            effect = effects.store[0]
            if self.trap:
                self._spring(effect, late=False)
            self._store(effect)
            del effects.store[0]
            if self.trap:
                self._spring(effect, late=True)
        self._effects = Effects()
        if effects.certify:
            self._certify(effects.certify)
        if effects.send:
            self._send(effects.send)
        for reply in effects.replies:
            if self.fuse >= 0:
                self._burn()
            self.world.reply(self, int(reply.connection), reply.height, reply.receipts)
        for busy in effects.busy:
            self.world.busy(self, int(busy.connection), busy.requests)

    def _append(self, effects: Effects) -> None:
        records = effects.persist
        if self.fuse >= 0:
            self._burn()
            if self.fuse == 0 and self._rng.random() < 0.5:
                self._tear(records, self._rng.randrange(len(records)))
        if self.trap:
            for place, record in enumerate(records):
                if type(record).__name__ == self.trap:
                    self.world.coverage.count("trapped")
                    self._tear(records, place + self.spring_late)
        while_asking = effects.certify and not (effects.store or self.world.config.component_outlives_host)
        self.disk.append(records, forced=effects.must_force() and not while_asking)
        if self.strategy is None:
            for hook in self.world.hooks.on_records:
                hook(self, records)
        effects.persist = []

    def _tear(self, records: list[Record], kept: int) -> None:
        """The plug is pulled inside an append: only its first records are there."""
        if not self.disk.full:
            self.disk.append(records[:kept])
            self.world.coverage.count("torn_appends")
            if self.strategy is None:
                for hook in self.world.hooks.on_records:
                    hook(self, records[:kept])
        raise Crashed

    def _store(self, effect: StorageEffect) -> None:
        match effect:
            case InstallState():
                self.disk.install(effect.writes, effect.stable, effect.header)
            case SaveSnapshot():
                self.disk.save_snapshot(effect.height, effect.chunks)
            case ReplaceState():
                self.disk.replace_state(effect.height, effect.header, effect.certificate, effect.chunks)

    def _certify(self, requests: list[TcRequest]) -> None:
        answers: list[Event] = []
        world, strategy = self.world, self.strategy
        for request in requests:
            if self.fuse >= 0:
                self._burn()
            if strategy is None:
                for hook in world.hooks.on_request:
                    hook(self, request)
            elif not strategy.certify(request):
                continue
            if self.trap:
                self._spring(request, late=False)
            answers.append(TcAnswered(request, self.component.call(request)))
            if self.trap:
                self._spring(request, late=True)
        if self.fuse >= 0:
            self._burn()
        self.disk.force()
        self._backlog.extendleft(reversed(answers))

    def _send(self, sends: list[Send]) -> None:
        world, strategy = self.world, self.strategy
        for send in sends:
            if self.fuse >= 0:
                self._burn()
            if self.trap:
                self._spring(send.message, late=False)
            if strategy is None:
                world.multicast(self, send.to, send.message)
            else:
                for to in send.to:
                    for target, message in strategy.outbound(to, send.message):
                        world.post(self.number, target, message)

    # --- input from the network -------------------------------------------------------------------

    def receive(self, sender: NodeId, message: Any) -> None:
        """A decoded message from a peer."""
        if self.strategy is None:
            self.deliver(PeerMessage(sender, message))
        elif self.node is not None:
            for origin, found in self.strategy.inbound(sender, message):
                self.deliver(PeerMessage(origin, found))
