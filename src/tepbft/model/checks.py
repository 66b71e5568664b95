"""The invariants, checked where something changes that could break them (D1).

Facts are never withdrawn and a node's state changes by its own steps only, so a check
at the changed place after every step is as good as checking everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.model.facts import NULL, ROOT, Facts, Log, NewView
from tepbft.model.replica import NO_BARRIER, Replica


class Violation(Exception):
    """An invariant does not hold. `invariant` is its name in D1."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail = invariant, detail


class Monitor:
    """Sees all facts and all correct nodes; raises Violation."""

    __slots__ = ("begun", "chain", "facts", "reported", "window")

    def __init__(self, facts: Facts, window: int, reported: Sequence[str] = ()) -> None:
        self.facts, self.window = facts, window
        self.reported = frozenset(reported)
        """Invariants to report; empty: all of them. To see what a broken one leads to."""
        self.chain: dict[int, tuple[int, int]] = {}
        """height -> (configuration, digest) as the first correct node executed it"""
        self.begun: dict[int, int] = {0: ROOT}
        """configuration number -> its name, as the first correct node began it"""

    def fail(self, invariant: str, detail: str) -> None:
        """Report a violation, unless another invariant is looked at."""
        if not self.reported or invariant in self.reported:
            raise Violation(invariant, detail)

    def quorum(self, cfg: int, view: int, height: int, digest: int) -> None:
        """A digest has got a commit quorum: I-1, I-7 and I-19."""
        facts = self.facts
        other = facts.chosen.get((cfg, height))
        if other is not None and other != digest:
            self.fail("I-1", f"height {height} has commit quorums for blocks {other} and {digest}")
        executed = self.chain.get(height)
        if executed is not None and executed[0] == cfg and executed[1] != digest:
            self.fail("I-2", f"height {height} was executed with block {executed[1]}, not {digest}")
        for new_views in facts.new_views.values():
            for found in new_views:
                if found.cfg == cfg and found.view > view and found.genuine:
                    self.containment(found, view, height, digest)
        if cfg == ROOT:
            return
        configuration = facts.configurations[cfg]
        if height <= configuration.floor:
            self.fail("I-19", f"height {height} was certified by the configuration after it")
        if facts.chosen.get((configuration.parent, configuration.floor)) != cfg:
            self.fail("I-19", f"a quorum in a configuration that no quorum at {configuration.floor} began")
        self._stable_floor(cfg)

    def _stable_floor(self, cfg: int) -> None:
        configuration = self.facts.configurations[cfg]
        if configuration.floor not in self.facts.stable[configuration.parent]:
            self.fail(
                "I-19",
                f"a correct node left configuration {configuration.number - 1} before its end was stable",
            )

    def containment(self, new_view: NewView, view: int, height: int, digest: int) -> None:
        """I-7: what has a quorum in a lower view is at or below the base, or carried over."""
        if new_view.base < height and new_view.entries.get(height) != digest:
            self.fail(
                "I-7",
                f"view {new_view.view} does not carry block {digest}, which has a quorum at "
                f"({view}, {height})",
            )

    def new_view(self, new_view: NewView) -> None:
        """A NEW-VIEW follows from valid VIEW-CHANGEs: I-7 and I-8."""
        for view, height, digest in self.facts.quorums[new_view.cfg]:
            if view < new_view.view:
                self.containment(new_view, view, height, digest)
        if len(new_view.entries) > self.window:
            self.fail("I-8", f"view {new_view.view} has {len(new_view.entries)} entries")

    def certified_view(self, new_view: NewView) -> None:
        """I-3: a component signs one NEW-VIEW per view, so a view is certified with one summary."""
        for other in self.facts.counted_views[new_view.cfg]:
            same = (other.base, other.entries) == (new_view.base, new_view.entries)
            if other.view == new_view.view and not same:
                self.fail("I-3", f"view {new_view.view} is certified with two summaries")

    def vote(self, replica: Replica, view: int, height: int) -> None:
        """A correct node signed an ORDER statement: I-9, I-18 and I-19."""
        certified = replica.certified
        if view > 0 and (certified is None or certified.view != view or not certified.certified):
            self.fail("I-9", f"node {replica.node} voted in view {view} without its certificate")
        if not replica.stable < height <= replica.stable + self.window:
            self.fail("I-18", f"node {replica.node} voted at {height}, outside its window")
        if height > replica.barrier != NO_BARRIER:
            self.fail("I-19", f"node {replica.node} voted at {height}, above barrier {replica.barrier}")
        if replica.silent:
            self.fail("I-20", f"node {replica.node} voted with a component that is not a member")
        if replica.cfg != ROOT:
            self._stable_floor(replica.cfg)

    def executed(self, node: int, height: int, cfg: int, digest: int) -> None:
        """A correct node executed a block: I-1 and I-2, across configurations."""
        if self.chain.setdefault(height, (cfg, digest)) != (cfg, digest):
            self.fail(
                "I-2", f"node {node} executed block {digest} at {height}, another one {self.chain[height][1]}"
            )

    def began(self, cfg: int, number: int) -> None:
        """A correct node began a configuration: there is one of each number (I-19)."""
        if self.begun.setdefault(number, cfg) != cfg:
            self.fail("I-19", f"two configurations have number {number}")
        self._stable_floor(cfg)

    def certified_checkpoint(self, cfg: int, height: int, log: Log) -> None:
        """f+1 CHECKPOINTs on one log: I-15; a second log at that height breaks I-2."""
        other = self.facts.stable[cfg].get(height)
        if other is not None and other != log:
            self.fail("I-2", f"two checkpoint certificates at {height}: {other} and {log}")

    def constructible(self, replica: Replica, valid: bool) -> None:
        """I-5: a correct node can build a VIEW-CHANGE that every correct node accepts."""
        if not valid:
            self.fail("I-5", f"node {replica.node} cannot build a valid VIEW-CHANGE")


def name_of(facts: Facts, digest: int) -> str:
    """A block in words."""
    if digest == NULL:
        return "NULL"
    block = facts.blocks.get(digest)
    if block is not None and block.node >= 0:
        return f"CONFIG#{digest}(node {block.node} votes with component {block.component})"
    return f"block#{digest}"
