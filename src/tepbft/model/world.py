"""One action at a time: whether it is enabled, what it does, what is checked after it.

An action is a tuple, its kind first; `World.apply` carries it out and says False if it is
not enabled. It draws nothing at random: a schedule is a list of actions, and any list of
actions is a schedule, which is what makes shrinking simple.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tepbft.core.quorum import quorums
from tepbft.model import rules
from tepbft.model.barrier import Barrier
from tepbft.model.checks import Monitor
from tepbft.model.component import Component
from tepbft.model.facts import NULL, ROOT, Block, Configuration, Facts, NewView, ViewChange
from tepbft.model.mutants import Mutant
from tepbft.model.replica import NO_BARRIER, Replica

Action = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """The bounds of one walk."""

    nodes: int = 3
    byzantine: tuple[int, ...] = (0,)
    window: int = 3
    heights: int = 4
    views: int = 4
    """Highest view of a configuration."""
    steps: int = 160
    barrier: bool = False
    configurations: int = 3
    mutant: Mutant = ""
    reported: tuple[str, ...] = ()
    """Invariants to report; empty: all."""


class World(Barrier):
    """Facts, components, correct nodes; and the monitor that watches them."""

    def __init__(self, setup: Setup) -> None:
        n = setup.nodes
        self.setup = setup
        self.mutant = setup.mutant
        sizes = quorums(n)
        self.commit_quorum = sizes.commit
        self.certificate_quorum = sizes.certificate
        self.needed = max(1, sizes.certificate - len(setup.byzantine))
        """Correct nodes that a certificate needs: Byzantine ones sign whatever helps them."""
        self.tolerated = sizes.f
        self.facts = Facts(Configuration(ROOT, 0, ROOT, 0, tuple(range(n))))
        self.monitor = Monitor(self.facts, setup.window, setup.reported)
        self.components: dict[int, Component] = {}
        self.owned: list[list[Component]] = [[] for _ in range(n)]
        self.replicas: list[Replica | None] = []
        for node in range(n):
            self.add_component(node, node).begin(ROOT, 0, 0)
            self.replicas.append(None if node in setup.byzantine else Replica(node, node))
        if setup.mutant == "clone":
            for node in setup.byzantine:
                self.add_component(n + node, node).begin(ROOT, 0, 0)
        self.labels = 0
        self.coverage: Counter[str] = Counter()
        self._handlers: dict[str, Callable[..., bool]] = {
            "propose": self._propose,
            "vote": self._vote,
            "execute": self._execute,
            "checkpoint": self._checkpoint,
            "stable": self._stable,
            "depart": self._depart,
            "depart_as": self._depart_as,
            "install": self._install,
            "fabricate": self._fabricate,
            "ack": self._acknowledge,
            "enter": self._enter,
            "floor": self._floor,
            "forget": self._forget,
            **self.barrier_handlers(),
        }

    def apply(self, action: Action) -> bool:
        """Carry out one action. False if it is not enabled; Violation if an invariant breaks."""
        return self._handlers[action[0]](*action[1:])

    def counts(self, component: Component) -> bool:
        """True if the component is a member of the configuration that it signs for."""
        facts = self.facts
        configuration = facts.configurations.get(component.cfg)
        if configuration is None:
            return False
        if configuration.members[component.node] == component.id or self.mutant == "clone":
            return True
        if self.mutant != "two_members" or component.cfg == ROOT:
            return False
        return facts.configurations[configuration.parent].members[component.node] == component.id

    # --- ordering -----------------------------------------------------------------------------

    def _propose(self, identity: int, view: int, height: int, digest: int, node: int, new: int) -> bool:
        component = self.components.get(identity)
        if component is None or not self.counts(component):
            return False
        facts, cfg = self.facts, component.cfg
        configuration = facts.configurations[cfg]
        if configuration.primary(view) != component.node:
            return False
        replica = self.replicas[component.node]
        if replica is not None and not self._votes_in(replica, component, view, height, digest):
            return False
        block = facts.blocks.get(digest)
        if digest != NULL and block is None:
            block = Block(cfg, height, node, new)
            if node >= 0 and not self.admissible(configuration, block):
                return False
        if digest != NULL and block is not None and (block.cfg, block.height) != (cfg, height):
            return False
        if not component.order(view, height, digest, self.setup.window, self.mutant):
            return False
        if block is not None and digest not in facts.blocks:
            facts.blocks[digest] = block
            self.labels = max(self.labels, digest)
            if block.node >= 0:
                facts.add_configuration(digest, block)
        if replica is not None and facts.is_config(digest):
            replica.closing = min(replica.closing, height)
        facts.add_prepare(cfg, view, height, digest)
        self._count(component, replica, view, height, digest)
        return True

    def _vote(self, identity: int, view: int, height: int, digest: int) -> bool:
        component = self.components.get(identity)
        if component is None or not self.counts(component):
            return False
        facts, cfg = self.facts, component.cfg
        if facts.configurations[cfg].primary(view) == component.node:
            return False
        if not facts.is_prepared(cfg, view, height, digest):
            return False
        replica = self.replicas[component.node]
        if replica is not None and not self._votes_in(replica, component, view, height, digest):
            return False
        if not component.order(view, height, digest, self.setup.window, self.mutant):
            return False
        self._count(component, replica, view, height, digest)
        return True

    def _votes_in(self, replica: Replica, component: Component, view: int, height: int, digest: int) -> bool:
        """P-checks of a correct node: its view, its window, the new view's entries, the barrier."""
        if replica.silent or component.id != replica.component or component.cfg != replica.cfg:
            return False
        if not replica.active or view != replica.view or view != replica.certified_view:
            return False
        if not replica.stable < height <= replica.stable + self.setup.window:
            return False
        if height > replica.barrier and self.mutant != "vote_above_barrier":
            return False
        floor = self.facts.configurations[replica.cfg].floor
        return rules.allowed(replica.certified, floor, height, digest)

    def _count(
        self, component: Component, replica: Replica | None, view: int, height: int, digest: int
    ) -> None:
        facts, cfg = self.facts, component.cfg
        if replica is not None:
            self.monitor.vote(replica, view, height)
            self._check_departure(replica)
        key = (cfg, view, height, digest)
        before = facts.votes.get(key, 0)
        after = before | 1 << component.node
        if after == before:
            return
        facts.votes[key] = after
        if after.bit_count() != self.commit_quorum:
            return
        self.monitor.quorum(cfg, view, height, digest)
        self._cover_quorum(cfg, view, height, digest)
        facts.chosen.setdefault((cfg, height), digest)
        facts.quorums[cfg].append((view, height, digest))

    def _cover_quorum(self, cfg: int, view: int, height: int, digest: int) -> None:
        facts, coverage = self.facts, self.coverage
        if (cfg, height) not in facts.chosen:
            coverage["heights_with_quorum"] += 1
            coverage["heights_with_quorum_in_later_configuration"] += cfg != ROOT
            if facts.is_config(digest):
                coverage["config_quorums"] += 1
                coverage["second_config_quorums"] += any(
                    facts.is_config(found) for _, _, found in facts.quorums[cfg]
                )
            else:
                coverage["void_quorums"] += any(
                    facts.is_config(found) and at < height for _, at, found in facts.quorums[cfg]
                )
        coverage["quorums_above_view_0"] += view > 0

    # --- execution and checkpoints ------------------------------------------------------------

    def _execute(self, node: int) -> bool:
        replica = self.replicas[node]
        if replica is None:
            return False
        facts, height = self.facts, len(replica.log) + 1
        if replica.following >= 0:
            return False  # the CONFIG block was the last one of this configuration
        cfg = replica.cfg
        digest = facts.chosen.get((cfg, height))
        if digest is None and self.mutant == "old_votes_count" and cfg != ROOT:
            digest = facts.chosen.get((facts.configurations[cfg].parent, height))
        if digest is None:
            certified = facts.stable[cfg].get(replica.stable)
            if certified is None or len(certified) < height:
                return False
            replica.log = certified  # state transfer
            digest = certified[-1]
            self.coverage["state_transfers"] += 1
        else:
            self.monitor.executed(node, height, cfg, digest)
            replica.log = (*replica.log, digest)
        if facts.is_config(digest) and facts.blocks[digest].cfg == cfg:
            replica.following = digest
            replica.barrier = min(replica.barrier, len(replica.log))
        return True

    def _checkpoint(self, node: int) -> bool:
        replica = self.replicas[node]
        if replica is None or replica.silent:
            return False
        log, cfg, facts = replica.log, replica.cfg, self.facts
        if len(log) <= replica.signed:
            return False
        component = self.components[replica.component]
        if component.cfg != cfg or not component.checkpoint(len(log)):
            return False
        replica.signed = len(log)
        key = (cfg, log)
        facts.checkpoints[key] = facts.checkpoints.get(key, 0) | 1 << node
        if facts.checkpoints[key].bit_count() == self.needed:
            self.monitor.certified_checkpoint(cfg, len(log), log)
            facts.stable[cfg].setdefault(len(log), log)
            self.coverage["stable_checkpoints"] += 1
        return True

    def _stable(self, node: int, height: int) -> bool:
        replica = self.replicas[node]
        if replica is None or height <= replica.stable or height not in self.facts.stable[replica.cfg]:
            return False
        self._advance_stable(replica, height)
        self._check_departure(replica)
        return True

    def _advance_stable(self, replica: Replica, height: int) -> None:
        replica.stable = height
        component = self.components[replica.component]
        if not replica.silent and component.cfg == replica.cfg:
            component.advance_floor(height)

    def _floor(self, identity: int, height: int) -> bool:
        component = self.components.get(identity)
        if component is None or self.replicas[component.node] is not None or height <= component.floor:
            return False
        component.advance_floor(height)
        return True

    def _forget(self, node: int) -> bool:
        """Mutant `amnesia`: a correct node's component restarts under its identity, empty."""
        replica = self.replicas[node]
        if replica is None:
            return False
        self.components[replica.component].forget()
        return True

    # --- view change --------------------------------------------------------------------------

    def departure(self, replica: Replica, to: int) -> ViewChange:
        """The VIEW-CHANGE of a correct node, as its component would attest it now."""
        component = self.components[replica.component]
        prepares: dict[int, int] = {}
        if component.lock_view == replica.certified_view:
            prepares = {h: d for h, d in component.registers.items() if h > replica.stable}
        return self.view_change(component, to, replica.stable, replica.certified, prepares)

    def view_change(
        self,
        component: Component,
        to: int,
        checkpoint: int,
        certified: NewView | None,
        prepares: dict[int, int],
    ) -> ViewChange:
        """A VIEW-CHANGE with what the component attests, and content of the host's choice."""
        registers = component.registers
        truncated: tuple[int, ...] = ()
        if self.mutant == "trunc" and checkpoint in component.checkpoints:
            since = component.checkpoints[checkpoint]
            truncated = tuple(h for h in registers if component.order_seq[h] < since)
            registers = {h: d for h, d in registers.items() if h not in truncated}
            prepares = {h: d for h, d in prepares.items() if h not in truncated}
        return ViewChange(
            component.node,
            component.id,
            component.cfg,
            to,
            component.lock_view,
            component.floor,
            dict(registers),
            checkpoint,
            certified,
            prepares,
            truncated,
        )

    def _check_departure(self, replica: Replica) -> None:
        """I-5, after a step that changed what a departure would contain."""
        if not replica.silent and self.mutant != "amnesia":
            message = self.departure(replica, replica.view + 1)
            found = rules.evidence(self.facts, message, self.setup.window, self.mutant)
            self.monitor.constructible(replica, found is not None)

    def _keep_departure(self, component: Component, message: ViewChange) -> bool:
        found = rules.evidence(self.facts, message, self.setup.window, self.mutant)
        if found is None or not component.depart(message.to):
            return False
        message.evidence = found
        table = self.facts.view_changes.setdefault((message.cfg, message.to), {})
        table.setdefault(message.node, []).append(message)
        return True

    def _depart(self, node: int, to: int) -> bool:
        replica = self.replicas[node]
        if replica is None or replica.silent or to <= replica.view:
            return False
        component = self.components[replica.component]
        if not self._keep_departure(component, self.departure(replica, to)):
            self.monitor.constructible(replica, self.mutant == "amnesia")
            return False
        replica.view, replica.active = to, False
        return True

    def _depart_as(
        self, identity: int, to: int, view: int, index: int, checkpoint: int, prepares: Sequence[int]
    ) -> bool:
        """A Byzantine host has its component depart; it shows NEW-VIEW `index` of `view`."""
        component = self.components.get(identity)
        if component is None or self.replicas[component.node] is not None or not self.counts(component):
            return False
        known = self.facts.new_views.get((component.cfg, view), [])
        if view > 0 and index >= len(known):
            return False
        certified = known[index] if view > 0 else None
        listed = dict(zip(prepares[::2], prepares[1::2], strict=True))
        return self._keep_departure(component, self.view_change(component, to, checkpoint, certified, listed))

    def _install(self, identity: int, view: int, picks: Sequence[tuple[int, int]]) -> bool:
        """The primary of `view` merges the VIEW-CHANGEs `picks` = [(node, index)]."""
        component = self.components.get(identity)
        if component is None or not self.counts(component):
            return False
        cfg, facts = component.cfg, self.facts
        if facts.configurations[cfg].primary(view) != component.node:
            return False
        replica = self.replicas[component.node]
        if replica is not None and not (
            replica.component == identity
            and replica.cfg == cfg
            and replica.view == view
            and not replica.active
            and view not in replica.acknowledged
        ):
            return False
        table = facts.view_changes.get((cfg, view), {})
        messages = [table[node][index] for node, index in picks if index < len(table.get(node, ()))]
        if len(messages) != self.certificate_quorum or not component.install(view, self.mutant):
            return False
        base, entries = rules.merge(messages, self.mutant)
        found = NewView(cfg, view, base, entries)
        self.monitor.new_view(found)
        known = facts.new_views.setdefault((cfg, view), [])
        known.append(found)
        self._cover_new_view(found)
        if replica is not None:
            replica.acknowledged[view] = len(known) - 1
            self._back(found, component.node)
        return True

    def _cover_new_view(self, found: NewView) -> None:
        facts, coverage = self.facts, self.coverage
        for view, height, digest in facts.quorums[found.cfg]:
            if view < found.view and found.entries.get(height) == digest:
                coverage["quorums_proposed_again"] += 1
        coverage["config_blocks_proposed_again"] += any(facts.is_config(d) for d in found.entries.values())
        coverage["gaps_filled"] += NULL in found.entries.values()

    def _fabricate(self, identity: int, view: int, entries: Sequence[int]) -> bool:
        """Mutant `noack`: a Byzantine primary invents a new view; nobody correct acknowledges it."""
        component = self.components.get(identity)
        if component is None or component.view > view:
            return False
        cfg = component.cfg
        if self.facts.configurations[cfg].primary(view) != component.node:
            return False
        found = NewView(cfg, view, 0, dict(enumerate(entries, 1)), genuine=False)
        self.facts.new_views.setdefault((cfg, view), []).append(found)
        return True

    def _back(self, found: NewView, node: int) -> None:
        found.backers |= 1 << node
        if not found.certified and found.backers.bit_count() >= self.needed:
            found.certified = True
            self.monitor.certified_view(found)
            self.facts.counted_views[found.cfg].append(found)
            self.coverage["certified_views"] += 1

    def _acknowledge(self, node: int, view: int, index: int) -> bool:
        replica = self.replicas[node]
        if replica is None or replica.silent or view < replica.view or view <= replica.certified_view:
            return False
        known = self.facts.new_views.get((replica.cfg, view), [])
        if index >= len(known) or not known[index].genuine or view in replica.acknowledged:
            return False
        replica.view, replica.active = view, False
        replica.acknowledged[view] = index
        self.components[replica.component].enter(view)
        self._back(known[index], node)
        return True

    def _enter(self, node: int, view: int, index: int) -> bool:
        replica = self.replicas[node]
        if replica is None or view < replica.view or view <= replica.certified_view:
            return False
        known = self.facts.new_views.get((replica.cfg, view), [])
        if index >= len(known) or not known[index].certified:
            return False
        found = known[index]
        replica.view, replica.active, replica.certified = view, True, found
        replica.closing = NO_BARRIER
        component = self.components[replica.component]
        if not replica.silent and component.cfg == replica.cfg:
            component.enter(view)
        if found.base > replica.stable and self.mutant != "nobasecp":
            self._advance_stable(replica, found.base)  # or it could not satisfy V5 (A6.3)
        self._check_departure(replica)
        return True
