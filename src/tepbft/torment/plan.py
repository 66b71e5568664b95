"""What goes wrong, when and to whom: a schedule that follows from the seed alone.

Pure. Fault number k is drawn from a generator of its own, so what the cluster does in the
meantime does not shift later draws; only who is primary, and who is faulty already, decide
on whom it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tepbft.core.quorum import quorums
from tepbft.errors import TepbftError
from tepbft.types import NodeId

KILL, PAUSE, PARTITION, SPLIT, DELAY, RESET, DISK, COMPONENT, CRASH = (
    "kill",
    "pause",
    "partition",
    "split",
    "delay",
    "reset",
    "disk",
    "component",
    "crash",
)
KINDS: dict[str, str] = {
    KILL: "SIGKILL for nodes, then a restart; their components survive",
    PAUSE: "SIGSTOP for a node or its component, SIGCONT later",
    PARTITION: "up to f nodes cut off from the others, both ways or one way",
    SPLIT: "the network falls apart so that no quorum is left anywhere, then heals",
    DELAY: "links of up to f nodes slow down, jitter, or have little bandwidth",
    RESET: "connections between nodes break and are made anew",
    DISK: "a node's journal cannot grow: its disk is full",
    COMPONENT: "SIGKILL for a trusted component: it starts cold and has to be admitted",
    CRASH: "SIGKILL for a node together with its trusted component",
}
_WEIGHTS = {
    KILL: 4, PAUSE: 3, PARTITION: 3, SPLIT: 1, DELAY: 2, RESET: 1, DISK: 2, COMPONENT: 2, CRASH: 2,
}  # fmt: skip
COLD = (COMPONENT, CRASH)
"""Faults that cost a component its identity."""
HARMLESS = (RESET,)
"""Faults that make no node faulty."""
_LASTS_S = {
    KILL: (0.3, 5.0), PAUSE: (0.3, 4.0), PARTITION: (1.0, 8.0), SPLIT: (0.5, 4.0), DELAY: (2.0, 8.0),
    RESET: (0.0, 0.0), DISK: (1.0, 6.0), COMPONENT: (0.0, 0.0), CRASH: (0.3, 5.0),
}  # fmt: skip
MAX_ADMISSION_BLOCKS = 300
"""Blocks that a cold component may have to wait for its admission: each one makes the next one of
the same node wait twice as long (A8.3), until such a node is spared."""
_PRIMARY_SHARE = 0.5


@dataclass(frozen=True)
class Situation:
    """What a draw depends on besides the seed."""

    n: int
    faulty: frozenset[NodeId]
    primary: NodeId
    admission_blocks: tuple[int, ...]
    """Per node: blocks until the cluster would admit a new component of it."""


@dataclass(frozen=True)
class Fault:
    """One fault to carry out."""

    number: int
    kind: str
    nodes: tuple[NodeId, ...]
    """Who is faulty; for a split all nodes, group after group; for a reset whose connections break."""
    lasts_s: float
    way: str = ""
    """partition: both, in, out; pause: node, component; delay: latency, jitter, bandwidth."""
    strength: float = 0.0
    """delay: milliseconds, or bytes per second."""
    groups: tuple[tuple[NodeId, ...], ...] = ()
    """split: who still reaches whom."""

    @property
    def faulty(self) -> tuple[NodeId, ...]:
        """The nodes that count against f while it lasts."""
        return () if self.kind in HARMLESS else self.nodes


def check_kinds(only: Sequence[str]) -> tuple[str, ...]:
    """The kinds to draw from; TepbftError for a name that is none. All of them if empty."""
    for name in only:
        if name not in KINDS:
            raise TepbftError(
                "--only", f"there is no fault {name!r}", f"Faults: {', '.join(KINDS)}.", exit_code=2
            )
    return tuple(kind for kind in KINDS if not only or kind in only)


class Schedule:
    """Draws fault after fault."""

    def __init__(self, seed: int, kinds: Sequence[str], mean_pause_s: float) -> None:
        self._seed = seed
        self._kinds = tuple(kinds)
        self._mean_pause_s = mean_pause_s
        self._number = 0

    def pause_s(self) -> float:
        """How long to wait before the next draw."""
        return Random(f"{self._seed}/pause/{self._number}").uniform(0.2, 2.0) * self._mean_pause_s

    def draw(self, situation: Situation) -> Fault | None:
        """The next fault; None if the situation leaves no room for the one that was drawn."""
        self._number += 1
        rng = Random(f"{self._seed}/fault/{self._number}")
        kind = rng.choices(self._kinds, [_WEIGHTS[kind] for kind in self._kinds])[0]
        lasts_s = rng.uniform(*_LASTS_S[kind])
        if kind == SPLIT:
            return self._split(rng, situation, lasts_s)
        victims = self._victims(rng, situation, kind)
        if not victims:
            return None
        way, strength = _manner(rng, kind)
        return Fault(self._number, kind, victims, lasts_s, way, strength)

    def _victims(self, rng: Random, situation: Situation, kind: str) -> tuple[NodeId, ...]:
        room = quorums(situation.n).f - len(situation.faulty)
        wanted = rng.choice((1, 1, 1, 2, 2, 3)) if kind not in COLD else 1
        order = list(range(situation.n))
        rng.shuffle(order)
        if rng.random() < _PRIMARY_SHARE:
            order.sort(key=lambda node: node != situation.primary)
        if kind in COLD:
            order = [node for node in order if situation.admission_blocks[node] <= MAX_ADMISSION_BLOCKS]
        order = [node for node in order if node not in situation.faulty]
        if kind in HARMLESS:
            return tuple(order[:wanted])
        return tuple(order[: min(wanted, room)])

    def _split(self, rng: Random, situation: Situation, lasts_s: float) -> Fault:
        """Groups below the commit quorum. It has to wait until nothing else is wrong."""
        order = list(range(situation.n))
        rng.shuffle(order)
        largest = quorums(situation.n).commit - 1
        groups: list[tuple[NodeId, ...]] = []
        while order:
            size = rng.randint(max(1, largest // 2), largest)
            groups.append(tuple(order[:size]))
            order = order[size:]
        nodes = tuple(node for group in groups for node in group)
        return Fault(self._number, SPLIT, nodes, lasts_s, groups=tuple(groups))


def _manner(rng: Random, kind: str) -> tuple[str, float]:
    """(way, strength) of a fault."""
    if kind == PARTITION:
        return rng.choice(("both", "both", "in", "out")), 0.0
    if kind == PAUSE:
        return rng.choice(("node", "node", "component")), 0.0
    if kind == DELAY:
        way = rng.choice(("latency", "jitter", "bandwidth"))
        return way, rng.uniform(20_000, 200_000) if way == "bandwidth" else rng.choice((50.0, 300.0, 1500.0))
    return "", 0.0
