"""The trusted component of the model: HB-USIG without keys and counters that nobody compares (A2)."""

from __future__ import annotations

from tepbft.model.mutants import Mutant

UNBOUND = -1
"""Configuration of a component that has not begun any."""


class Component:
    """One component. It refuses by returning False, and never looks at certificates.

    `number` is the configuration's number, which never falls; `cfg` its name, which stands for
    the digest bound into every statement. `registers` maps height -> digest, for `lock_view` only.
    """

    __slots__ = (
        "cfg",
        "checkpoints",
        "floor",
        "id",
        "installed",
        "lock_view",
        "node",
        "number",
        "order_seq",
        "registers",
        "seq",
        "view",
    )

    def __init__(self, identity: int, node: int) -> None:
        self.id, self.node = identity, node
        self.seq = 0
        self.number = self.cfg = UNBOUND
        self._clear(0)

    def _clear(self, floor: int) -> None:
        self.view = self.lock_view = 0
        self.floor = floor
        self.installed = 0
        self.registers: dict[int, int] = {}
        self.order_seq: dict[int, int] = {}
        self.checkpoints: dict[int, int] = {}

    def order(self, view: int, height: int, digest: int, window: int, mutant: Mutant) -> bool:
        """Sign a vote for `digest` at (`view`, `height`). True if there is a new statement."""
        if not self.floor < height <= self.floor + window:
            return False
        if view < self.view and mutant != "late":
            return False
        self.seq += 1
        if view < self.lock_view:
            return True  # only the mutant gets here
        if view > self.lock_view:
            self.registers, self.order_seq = {}, {}
            self.lock_view = view
        elif height in self.registers:
            return False
        self.view = max(self.view, view)
        self.registers[height] = digest
        self.order_seq[height] = self.seq
        return True

    def depart(self, to: int) -> bool:
        """Sign a VIEW-CHANGE for `to`; the registers stay."""
        if to <= self.view:
            return False
        self.view = to
        self.seq += 1
        return True

    def install(self, view: int, mutant: Mutant) -> bool:
        """Sign the NEW-VIEW of `view`; only one (A-57)."""
        if view < self.view or (view <= self.installed and mutant != "dupnv"):
            return False
        self.view = self.installed = view
        self.seq += 1
        return True

    def checkpoint(self, height: int) -> bool:
        """Sign a CHECKPOINT; heights only rise."""
        if self.checkpoints and height <= max(self.checkpoints):
            return False
        self.seq += 1
        self.checkpoints[height] = self.seq
        return True

    def enter(self, view: int) -> None:
        """Sign nothing below `view` any more."""
        self.view = max(self.view, view)

    def advance_floor(self, height: int) -> None:
        """Forget the registers up to `height`."""
        if height > self.floor:
            self.floor = height
            self.registers = {h: d for h, d in self.registers.items() if h > height}

    def begin(self, cfg: int, number: int, floor: int) -> bool:
        """Begin a configuration with a higher number: view 0, empty registers."""
        if number <= self.number:
            return False
        self.cfg, self.number = cfg, number
        self._clear(floor)
        return True

    def forget(self) -> None:
        """Lose the registers, keep the identity: what must never happen (mutant `amnesia`)."""
        floor, view = self.floor, self.view
        self._clear(floor)
        self.view = view
