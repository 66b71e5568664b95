"""Carries the schedule out on the cluster: at most f nodes faulty at a time, each until it is well again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

from tepbft.cli.processes import log_tail
from tepbft.errors import TepbftError
from tepbft.node.status import NodeStatus
from tepbft.torment.hands import Hands
from tepbft.torment.plan import COLD, COMPONENT, CRASH, DELAY, KILL, SPLIT, Fault, Schedule, Situation
from tepbft.torment.relays import Pair, Relays, Weather
from tepbft.torment.watch import Watch
from tepbft.types import NodeId

WELL_TIMEOUT_S = 120.0
HALT_TIMEOUT_S = 15.0
CALM_TIMEOUT_S = 30.0
"""How long a split waits for the faults under way to be over."""
LOOK_S = 0.5
NEAR_BLOCKS = 64
"""A node this little behind the others counts as caught up."""
MAX_PROBLEMS = 20


class Director:
    """Injects faults until told to stop, and heals."""

    def __init__(
        self,
        hands: Sequence[Hands],
        relays: Relays,
        watch: Watch,
        schedule: Schedule,
        say: Callable[[str], None],
        *,
        min_config_gap: int,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.halted = 0
        """Full disks that the node noticed and said so."""
        self.problems: list[str] = []
        self.ended: list[str] = []
        """Nodes whose process ended though nobody killed it."""
        self.primary: NodeId = 0
        self._term = (0, 0)
        """(configuration, view) that `primary` is of: views begin anew with a configuration."""
        self._view_changes = [(0, 0)] * len(hands)
        """Per node: those counted so far, and its own count when last seen; it restarts with the node."""
        self._hands = hands
        self._relays = relays
        self._watch = watch
        self._schedule = schedule
        self._say = say
        self._n = len(hands)
        self._faulty: set[NodeId] = set()
        self._min_gap = min_config_gap
        self._height = 0
        self._admissible: tuple[int, list[int]] = (-1, [0] * self._n)
        """Configuration, and per node the height from which it may have a new component."""
        self._under_way: dict[asyncio.Task[None], Fault] = {}
        self._looking: asyncio.Task[None] | None = None

    # --- course -------------------------------------------------------------------------------

    async def torment(self, seconds: float) -> None:
        """Fault after fault for that long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        await self._learn_admissions(await self._watch.statuses())
        self._looking = asyncio.create_task(self._look())
        while (rest_s := deadline - loop.time()) > 0:
            await asyncio.sleep(min(rest_s, self._schedule.pause_s()))
            if self._looking.done():
                self._looking.result()  # raises what went wrong
            if loop.time() >= deadline:
                return
            fault = self._schedule.draw(
                Situation(
                    self._n,
                    frozenset(self._faulty),
                    self.primary,
                    tuple(max(0, height - self._height) for height in self._admissible[1]),
                )
            )
            if fault is not None and fault.kind == SPLIT and self._under_way:
                await asyncio.wait(list(self._under_way), timeout=CALM_TIMEOUT_S)
                if self._faulty:
                    continue
            if fault is not None:
                self._faulty.update(fault.faulty)
                task = asyncio.create_task(self._carry_out(fault))
                self._under_way[task] = fault
                task.add_done_callback(self._over)

    async def heal(self, timeout_s: float) -> bool:
        """Undo everything and wait until every node votes and has caught up; False if one does not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=timeout_s)
        self.release()
        healed = True
        for node, hands in enumerate(self._hands):
            if await asyncio.to_thread(hands.pid) is None:
                await asyncio.to_thread(hands.start)
            well, seen = await self._await_well(node, "", max(1.0, deadline - loop.time()))
            if not well:
                healed = False
                self._problem(f"{hands.name} did not get well within {timeout_s:.0f} s: {seen}")
        return healed and not self.ended

    async def end(self) -> None:
        """Stop looking after the nodes, and give up what is under way."""
        tasks = [*self._under_way, *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.release()

    def release(self) -> None:
        """Everything that can be undone at once: pauses, limits, the network."""
        for hands in self._hands:
            hands.release()
        self._relays.heal()

    def describe(self) -> str:
        """What is wrong right now, for the progress bar."""
        now = sorted((fault.kind, fault.nodes) for fault in self._under_way.values())
        return ", ".join(f"{kind} {'+'.join(map(str, nodes))}" for kind, nodes in now) or "calm"

    def _over(self, task: asyncio.Task[None]) -> None:
        fault = self._under_way.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._problem(f"{fault.kind} of {self._names(fault.nodes)}: {error}")

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        self._say(f"problem: {text}")

    def _names(self, nodes: Sequence[NodeId]) -> str:
        return ", ".join(self._hands[node].name for node in nodes)

    # --- one fault ----------------------------------------------------------------------------

    async def _carry_out(self, fault: Fault) -> None:
        """From the first blow until the nodes are well; only then others may become faulty for them."""
        before: dict[NodeId, str] = {}
        for node in fault.nodes if fault.kind in COLD else ():
            status = await self._watch.status(node)
            before[node] = status.tc_id if status is not None else ""
        if not await self._inject(fault):
            self._faulty.difference_update(fault.faulty)
            return
        self.counts[fault.kind] += 1
        self._say(
            f"{fault.number}: {fault.kind} {fault.way} {self._names(fault.nodes)} {fault.lasts_s:.1f} s"
        )
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await self._undo(fault)
        for node in fault.faulty:
            well, seen = await self._await_well(node, before.get(node, ""), WELL_TIMEOUT_S)
            if well:
                self._faulty.discard(node)
            else:  # it keeps its place among the f
                self._problem(f"{fault.kind} of {self._names([node])} (fault {fault.number}): {seen}")

    async def _inject(self, fault: Fault) -> bool:
        """False if it turned out to be impossible."""
        match fault.kind:
            case "kill" | "crash" | "component":
                await asyncio.gather(
                    *(
                        asyncio.to_thread(
                            self._hands[node].kill,
                            node=fault.kind in (KILL, CRASH),
                            component=fault.kind in (COMPONENT, CRASH),
                        )
                        for node in fault.nodes
                    )
                )
            case "pause":
                for node in fault.nodes:
                    self._hands[node].pause(component=fault.way == "component")
            case "disk":
                filled = [self._hands[node].fill_disk() for node in fault.nodes]
                await asyncio.gather(*(self._await_halt(node) for node in fault.nodes))
                return any(filled)
            case "reset":
                self._relays.reset(self._links(fault.nodes, "both"))
            case "partition":
                self._relays.impose(fault.number, self._links(fault.nodes, fault.way), Weather(cut=True))
            case "split":
                self._relays.impose(fault.number, self._between(fault.groups), Weather(cut=True))
            case _:
                self._relays.impose(fault.number, self._links(fault.nodes, "both"), _weather(fault))
        return True

    async def _undo(self, fault: Fault) -> None:
        match fault.kind:
            case "kill" | "crash":
                await asyncio.gather(*(asyncio.to_thread(self._hands[node].start) for node in fault.nodes))
            case "pause" | "disk":
                for node in fault.nodes:
                    self._hands[node].release()
            case "partition" | "split" | "delay":
                pairs = self._relays.lift(fault.number)
                if fault.kind != DELAY and fault.number % 2:  # half of the time what waited is lost
                    self._relays.reset(pairs)
            case _:
                pass

    def _links(self, nodes: Sequence[NodeId], way: str) -> list[Pair]:
        """Ordered pairs between `nodes` and the rest: what goes in, what goes out, or both."""
        inside = set(nodes)
        return [
            (by, to)
            for by, to in self._relays.links
            if (way != "out" and to in inside and by not in inside)
            or (way != "in" and by in inside and to not in inside)
        ]

    @staticmethod
    def _between(groups: Sequence[Sequence[NodeId]]) -> list[Pair]:
        return [
            pair for one, other in product(groups, groups) if one is not other for pair in product(one, other)
        ]

    # --- looking ------------------------------------------------------------------------------

    async def _await_halt(self, node: NodeId) -> None:
        """Until the node says that its disk is full."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HALT_TIMEOUT_S
        while loop.time() < deadline:
            status = await self._watch.status(node)
            if status is not None and status.phase == "halted":
                self.halted += 1
                return
            await asyncio.sleep(0.1)

    async def _await_well(self, node: NodeId, old_tc_id: str, timeout_s: float) -> tuple[bool, str]:
        """Until a node votes, not as `old_tc_id`, and is not behind; (False, what it says) if too late."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        seen = "it does not answer"
        while True:
            status = await self._watch.status(node)
            if status is None:
                seen = "it does not answer"
            elif status.phase != "active":
                place = f"in view {status.view} at height {status.executed}"
                seen = f"it is {status.phase} {place}: {status.verdict}"
            elif status.tc_id == old_tc_id:
                seen = "it did not notice yet that its component is gone"
            else:
                behind = _behind(status)
                if behind <= NEAR_BLOCKS:
                    return True, ""
                seen = f"it is active, but {behind} blocks behind"
            if loop.time() >= deadline:
                return False, seen
            await asyncio.sleep(LOOK_S / 2)

    async def _look(self) -> None:
        """All the time: who is primary, and has a process ended that nobody killed?"""
        while True:
            statuses = await self._watch.statuses()
            for status in statuses:
                if status is not None:
                    self._note(status)
            await self._learn_admissions(statuses)
            for hands in self._hands:
                if not hands.expected_down and await asyncio.to_thread(hands.pid) is None:
                    await self._revive(hands)
            await asyncio.sleep(LOOK_S)

    async def _learn_admissions(self, statuses: Sequence[NodeStatus | None]) -> None:
        """Ask once per configuration, whoever has the newest one."""
        newest = max((s for s in statuses if s is not None), key=lambda s: s.configuration, default=None)
        if newest is not None and newest.configuration > self._admissible[0]:
            found = await self._watch.admissible_at(newest.node, self._min_gap)
            self._admissible = found or self._admissible

    def _note(self, status: NodeStatus) -> None:
        if (status.configuration, status.view) >= self._term:
            self._term, self.primary = (status.configuration, status.view), status.primary
        self._height = max(self._height, status.executed)
        counted, last = self._view_changes[status.node]
        new = status.view_changes - last if status.view_changes >= last else status.view_changes
        self._view_changes[status.node] = (counted + new, status.view_changes)

    @property
    def view_changes(self) -> int:
        """View changes, as the node counted them that saw most."""
        return max(counted for counted, _ in self._view_changes)

    async def _revive(self, hands: Hands) -> None:
        await asyncio.sleep(LOOK_S)
        if hands.expected_down or await asyncio.to_thread(hands.pid) is not None:
            return
        self.ended.append(hands.name)
        self._problem(f"{hands.name} ended by itself: {log_tail(hands.layout.log)[-600:]}")
        try:
            await asyncio.to_thread(hands.start)
        except TepbftError as error:
            self._problem(str(error))
            hands.expected_down = True


def _behind(status: NodeStatus) -> int:
    """Blocks between a node and the most advanced of those it hears."""
    return max((peer.executed for peer in status.peers), default=0) - status.executed


def _weather(fault: Fault) -> Weather:
    """Of a delay."""
    if fault.way == "bandwidth":
        return Weather(bytes_per_s=fault.strength)
    if fault.way == "jitter":
        return Weather(jitter_ms=fault.strength)
    return Weather(delay_ms=fault.strength)
