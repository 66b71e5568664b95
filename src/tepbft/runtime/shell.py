"""The loop that owns a node: what arrives goes in, what the node wants is done, in the order it states.

Per batch: every event is a `step`; the effects of several steps are carried out together,
so that one append (one fsync) serves them all. They are carried out at once where a step
changes the store, which the next step may read. What could not be stored for want of space
is kept and tried again, and nothing that depends on it happens before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, assert_never

import msgspec
import structlog

from tepbft.core.events import (
    ClientRequests,
    Effects,
    Event,
    InstallState,
    Notice,
    PeerMessage,
    ReplaceState,
    SaveSnapshot,
    StorageEffect,
    TcAnswered,
    Tick,
)
from tepbft.core.requests import EXTENSION
from tepbft.errors import ContractBroken, PeerFault, TepbftError, TrustedRefusal
from tepbft.node.status import NodeStatus
from tepbft.runtime.bridge import Bridge
from tepbft.runtime.clients import ClientPort
from tepbft.runtime.core import Clock, Core, Device
from tepbft.runtime.inbox import Inbox, Source
from tepbft.runtime.logs import logs_debug
from tepbft.runtime.metrics import Metrics
from tepbft.runtime.pause import Pause
from tepbft.runtime.peers import PeerNetwork
from tepbft.runtime.readmission import Readmission
from tepbft.runtime.requests import RequestQueue
from tepbft.runtime.utilisation import Utilisation
from tepbft.storage.errors import StoreFull
from tepbft.storage.port import ChainStore
from tepbft.trusted.port import AdvanceFloor, TcRequest
from tepbft.types import ConnectionId, Millis
from tepbft.wire import WantProof

BATCH_FRAMES = 128
MERGE_EVENTS = 32
RETRY_S = 1.0
PROBE_MS = 1000
"""How often a component that has nothing to do is asked whether it is still there."""
EXIT_CONTRACT_BROKEN = 70
DEVICE_ERRORS = (OSError, EOFError, TepbftError, TrustedRefusal)
"""What talking to a trusted component that is gone raises."""
_LEVELS = {
    "executed": "debug",
    "stable": "debug",
    "peer_fault": "warning",
    "client_fault": "info",
    "tc_refused": "warning",
    "diverged": "error",
    "alarm": "error",
}
log = structlog.get_logger("tepbft.shell")


class Shell:
    """Owns one node.

    After the trusted component was lost, `reopen_device` finds or starts one (it blocks, and runs in a
    thread), and `rebuild` makes a new node core from the same store. `prove` answers WantProof.
    `verification` says how signatures of clients are verified, for `status`; so many of them at a time that
    peers need not wait (`part_requests`).
    """

    def __init__(
        self,
        core: Core,
        *,
        inbox: Inbox,
        network: PeerNetwork,
        clients: ClientPort,
        bridge: Bridge,
        metrics: Metrics,
        reopen_device: Callable[[], Device],
        rebuild: Callable[[ChainStore, Device], Core],
        prove: Callable[[Core, WantProof], Any],
        readmission: Readmission | None,
        tick_ms: int,
        verification: Callable[[], str] = lambda: "inline",
        part_requests: int = 256,
        clock: Clock | None = None,
    ) -> None:
        self.core = core
        self.trouble = ""
        """One sentence about what keeps this node from working; empty if nothing does."""
        self._inbox = inbox
        self._network = network
        self._clients = clients
        self._bridge = bridge
        self._metrics = metrics
        self._reopen_device = reopen_device
        self._rebuild = rebuild
        self._prove = prove
        self._readmission = readmission
        self._tick_ms = tick_ms
        self._verification = verification
        self._clock = clock or Clock()
        self._utilisation = Utilisation(self._clock.now_ms())
        self._effects = Effects()
        self._backlog: deque[Event] = deque()
        self._requests = RequestQueue(part_requests)
        self._lost = False
        self._full = False
        self._debug = logs_debug()
        self._probe_ms = 0
        self._tick_at_ms = 0
        self._floor: list[TcRequest] = []
        """Moving the floor alone is not worth a call: it goes in front of the next one, which finds it
        where it must be. Held back it hurts nobody, a lower floor only attests to more (A2, V3)."""
        self._stop = asyncio.Event()
        self._idle = Pause()
        inbox.wake = self._idle.wake
        clients.gone = bridge.closed
        clients.welcome = lambda: self.core.node.welcome()

    # --- the loop -----------------------------------------------------------------------------

    def stop(self) -> None:
        """End after the batch at hand."""
        self._stop.set()
        self._idle.wake()

    async def run(self) -> int:
        """Run until `stop`; the exit code: 0, or 70 if the node contradicted itself. TepbftError if
        the store is of no use any more."""
        try:
            self._start_core()
            while not self._stop.is_set():
                if self._lost:
                    await self._regain()
                elif self._full:
                    await self._pause(RETRY_S)
                    self.work()
                else:
                    self.turn()
                    await self._breathe()
        except TepbftError:
            raise  # the store or the system failed, and a person has to do something about it
        except Exception as error:
            kind = "contract_broken" if isinstance(error, ContractBroken) else "unexpected_error"
            log.critical(kind, error=str(error) or type(error).__name__, exc_info=True)
            return EXIT_CONTRACT_BROKEN
        return 0

    async def _breathe(self) -> None:
        """The loop has its turn; where nothing waits for this node, it waits for something."""
        if self._inbox or self._requests:
            await asyncio.sleep(0)
            return
        self._utilisation.waits(self._clock.now_ms())
        self._inbox.votes_wanted = self.core.node.undecided()
        await self._pause(self._idle_s())
        self._utilisation.works(self._clock.now_ms())

    def turn(self) -> None:
        """One batch of input, then a tick."""
        for source, item in self._inbox.take(BATCH_FRAMES, clients=not self._requests):
            event = self._event(source, item)
            if isinstance(event, ClientRequests):
                self._requests.put(event.connection, event.requests)
            elif event is not None:
                self._backlog.append(event)
        now_ms = self._clock.now_ms()
        if now_ms >= self._look_at_ms():
            admission = self._admission(now_ms)
            if self._lost:
                return
            if admission is not None:
                self._backlog.append(admission)
            self._tick_at_ms = now_ms + self._tick_ms
            self.core.store.force()
            self._backlog.append(Tick(self._clock.wall_ms()))
        self.work()

    def _look_at_ms(self) -> Millis:
        """When the node wants to hear of the time: now and then, and when a block is due."""
        seal_at_ms = self.core.node.wake_at_ms()
        return self._tick_at_ms if seal_at_ms is None else min(self._tick_at_ms, seal_at_ms)

    def _idle_s(self) -> float:
        return max(1, self._look_at_ms() - self._clock.now_ms()) / 1000

    def work(self) -> None:
        """Step through the backlog and one part of the clients' requests, and carry out what comes of it."""
        try:
            if self._effects:
                self.carry_out()
            self._drain()
            if self._requests:
                self._backlog.append(self._part())
                self._drain()
        except StoreFull as error:
            if not self._full:
                log.error("store_full", reason=error.reason, remedy=error.remedy)
            self._full = True
            self.trouble = (
                f"{error.thing}: {error.reason}. This node stands still and loses nothing; "
                "free some space and it goes on by itself"
            )
        else:
            if self._full:
                self._full, self.trouble = False, ""
                log.info("store_has_room")
        self._flush()

    def _part(self) -> ClientRequests:
        more = self._inbox.bytes_of("client") > 0
        return self._requests.take(more, self._utilisation.high(self._clock.now_ms()))

    def _drain(self) -> None:
        backlog, step = self._backlog, self.core.node.step
        while backlog:
            events, effects = 1, step(backlog.popleft(), self._clock.now_ms())
            if self._effects:
                effects = self._effects.then(effects)
            while backlog and not (effects.store or effects.announce) and events < MERGE_EVENTS:
                effects = effects.then(step(backlog.popleft(), self._clock.now_ms()))
                events += 1
            self._metrics.batch_events.observe(events)
            self._effects = effects
            if effects:
                self.carry_out()

    def _flush(self) -> None:
        """What was queued leaves now."""
        self._network.flush()
        self._clients.flush()

    # --- effects, in their order --------------------------------------------------------------

    def carry_out(self) -> None:
        """Persist, store, certify, send, reply, notify. What is done is removed, so that StoreFull
        leaves exactly the rest; answers of the trusted component go to the front of the backlog. Nothing
        that may leave waits for the disk or the component (ADR 0024)."""
        effects, node = self._effects, self.core.node
        for send in effects.announce:
            self._network.send(send.to, send.message)
        effects.announce = []
        asks = any(not isinstance(request, AdvanceFloor) for request in effects.certify)
        if asks or effects.store or (effects.persist and effects.must_force()):
            self._flush()
        if effects.persist:
            began_s = time.perf_counter()
            while_asking = asks and not effects.store
            self.core.store.append(effects.persist, forced=effects.must_force() and not while_asking)
            self._metrics.append_seconds.observe(time.perf_counter() - began_s)
            effects.persist = []
        elif effects.store:
            self.core.store.force()
        while effects.store:
            self._store(effects.store[0])
            del effects.store[0]
        self._effects = Effects()
        if asks:
            if not self._certify(self._floor + effects.certify):
                return
        elif effects.certify:
            self._floor = effects.certify[-1:]
        for send in effects.send:
            self._network.send(send.to, send.message)
        if effects.replies:
            view = node.welcome().view
            for reply in effects.replies:
                if not self._bridge.reply(reply):
                    self._clients.reply(reply, view)
        for busy in effects.busy:
            if not self._bridge.busy(busy):
                self._clients.busy(busy)
        for notice in effects.notices:
            self._notice(notice)

    def _store(self, effect: StorageEffect) -> None:
        store = self.core.store
        match effect:
            case InstallState():
                store.install(effect.writes, effect.stable, effect.header)
            case SaveSnapshot():
                store.save_snapshot(effect.height, effect.chunks)
            case ReplaceState():
                store.replace_state(effect.height, effect.header, effect.certificate, effect.chunks)
            case _:
                assert_never(effect)

    def _certify(self, requests: list[TcRequest]) -> bool:
        """False if the trusted component is gone: nothing that could depend on it leaves. What it is asked
        for is on the disk before its answers count, and before it is asked if it outlives the host."""
        device, store = self.core.device, self.core.store
        self._floor = []
        if device.outlives_host:
            store.force()
        try:
            device.ask(requests)
        except DEVICE_ERRORS as error:
            self._lose(error)
            return False
        store.force()
        try:
            answers = device.answers()
        except DEVICE_ERRORS as error:
            self._lose(error)
            return False
        for request in requests:
            self._metrics.tc_calls[type(request).__name__] += 1
        pairs = list(zip(requests, answers, strict=True))
        self._backlog.extendleft(TcAnswered(request, answer) for request, answer in reversed(pairs))
        return True

    def _notice(self, notice: Notice) -> None:
        self._metrics.notice(notice)
        if notice.name in ("stable", "state_transferred"):
            self._bridge.stable(int(notice.fields.get("height", 0)))
        level = _LEVELS.get(notice.name, "info")
        if level == "debug" and not self._debug:
            return  # one for every block: not even its fields are looked at
        fields = {("reason_" if key == "event" else key): value for key, value in notice.fields.items()}
        getattr(log, level)(notice.name, **fields)

    # --- input --------------------------------------------------------------------------------

    def _event(self, source: Source, item: Any) -> Event | None:
        """What an item of the inbox means to the node; None if it stops here."""
        if source.kind == "local":
            event: Event = item
            return event
        if source.kind == "peer":
            try:
                return PeerMessage(source.name, self._network.open(source.name, item))
            except PeerFault as fault:
                log.warning("peer_fault", sender=source.name, code=fault.code, detail=fault.detail)
                return None
        number = ConnectionId(source.name)
        try:
            message = self._clients.open(item)
        except PeerFault as fault:
            self._clients.drop(number, fault)
            return None
        if isinstance(message, WantProof):
            self._clients.send(number, self._prove(self.core, message))
            return None
        return ClientRequests(number, message.requests)

    def _admission(self, now_ms: Millis) -> Event | None:
        """Look after the trusted component: is it there, and is it a member?"""
        core = self.core
        try:
            if now_ms >= self._probe_ms:
                self._probe_ms = now_ms + PROBE_MS
                core.device.identity()
            if self._readmission is None:
                return None
            return self._readmission.due(core.node.configuration, core.identity, core.device.call, now_ms)
        except DEVICE_ERRORS as error:
            self._lose(error)
            return None

    # --- the trusted component ----------------------------------------------------------------

    def _start_core(self) -> None:
        found = self.core.node.start(self._clock.now_ms(), self._clock.wall_ms())
        self._effects = self._effects.then(found)
        self._bridge.stable(self.core.node.status(self._clock.now_ms()).stable)
        self.work()

    def _lose(self, error: BaseException) -> None:
        """The component is gone: this node says nothing more until it has one again. TepbftError if the
        disk is gone as well."""
        self.core.store.force()
        self._lost, self._full = True, False
        self._effects, self._floor = Effects(), []
        self._backlog.clear()
        self._requests.clear()
        self.trouble = "its trusted component is gone; it is started again, which may need a readmission"
        self._metrics.tc_losses += 1
        log.error("trusted_component_lost", reason=str(error) or type(error).__name__)

    async def _regain(self) -> None:
        with contextlib.suppress(*DEVICE_ERRORS):
            self.core.device.close()
        try:
            device = await asyncio.to_thread(self._reopen_device)
            self.core = self._rebuild(self.core.store, device)
        except DEVICE_ERRORS as error:
            log.error("trusted_component_unavailable", reason=str(error) or type(error).__name__)
            return await self._pause(RETRY_S)
        self._lost, self.trouble = False, ""
        log.warning("trusted_component_back", warm=self.core.identity.warm, tc_id=self.core.identity.tc_id)
        self._start_core()
        return None

    # --- for those who ask --------------------------------------------------------------------

    def status(self) -> NodeStatus:
        """The node's status, with what only the shell knows."""
        status = msgspec.structs.replace(
            self.core.node.status(self._clock.now_ms()),
            verification=self._verification(),
            extension=EXTENSION,
        )
        if not self.trouble:
            return status
        phase = "halted" if self._full else "silent"
        return msgspec.structs.replace(status, phase=phase, heals=self._lost, verdict=self.trouble)

    async def _pause(self, seconds: float) -> None:
        """Until something arrives, or for that long (just that long, while the node stands still)."""
        if self._lost or self._full:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
            return
        await self._idle.wait(seconds)
