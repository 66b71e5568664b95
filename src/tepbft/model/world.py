"""One action at a time: whether it is enabled, what it does, what is checked after it.

An action is a tuple, its kind first; `World.apply` carries it out and says False if it is
not enabled. It draws nothing at random: a schedule is a list of actions, and any list of
actions is a schedule, which is what makes shrinking simple.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tepbft.core.quorum import quorums
from tepbft.model import rules
from tepbft.model.barrier import Barrier
from tepbft.model.checks import Monitor
from tepbft.model.component import Component
from tepbft.model.departures import Departures
from tepbft.model.facts import NULL, ROOT, Block, Configuration, Facts
from tepbft.model.replica import Replica
from tepbft.model.setup import Action, Setup


class World(Departures, Barrier):
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
            "floor": self._floor,
            "forget": self._forget,
            **self.departure_handlers(),
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
            self.check_departure(replica)
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
        self.advance_stable(replica, height)
        self.check_departure(replica)
        return True

    def advance_stable(self, replica: Replica, height: int) -> None:
        """Move a correct node's window, and its component's floor if it is a member."""
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
