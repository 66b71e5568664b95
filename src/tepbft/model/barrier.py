"""Actions of the configuration barrier: losing a component, replacing it, beginning c+1 (A8.2, A8.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tepbft.model.checks import Monitor
from tepbft.model.component import Component
from tepbft.model.facts import ROOT, Block, Configuration, Facts, Log
from tepbft.model.mutants import Mutant
from tepbft.model.replica import Replica


class Barrier:
    """The part of the world that knows more than one configuration."""

    facts: Facts
    monitor: Monitor
    mutant: Mutant
    tolerated: int
    components: dict[int, Component]
    owned: list[list[Component]]
    replicas: list[Replica | None]
    coverage: Counter[str]

    def barrier_handlers(self) -> dict[str, Callable[..., bool]]:
        """The actions of this part, by kind."""
        return {
            "learn": self._learn,
            "begin": self._begin,
            "begin_as": self._begin_as,
            "transfer": self._transfer,
            "lose": self._lose,
            "spawn": self._spawn,
        }

    def add_component(self, identity: int, node: int) -> Component:
        """A fresh component of `node`, in no configuration yet."""
        component = self.components[identity] = Component(identity, node)
        self.owned[node].append(component)
        return component

    def admissible(self, configuration: Configuration, block: Block) -> bool:
        """What every node checks before it votes for a CONFIG block, from its configuration alone."""
        component = self.components.get(block.component)
        return (
            component is not None
            and component.node == block.node
            and configuration.members[block.node] != block.component
        )

    def silent_nodes(self) -> int:
        """Correct nodes without a component that is a member: they count against f."""
        return sum(1 for replica in self.replicas if replica is not None and replica.silent)

    def _lose(self, node: int, identity: int) -> bool:
        """A correct node's component dies with all it knew; a fresh one takes its place, cold."""
        replica = self.replicas[node]
        byzantine = sum(1 for found in self.replicas if found is None)
        if replica is None or replica.silent or self.silent_nodes() + byzantine >= self.tolerated:
            return False
        if identity in self.components:
            return False
        self.add_component(identity, node)
        replica.component = identity
        replica.silent = True
        self.coverage["components_lost"] += 1
        return True

    def _spawn(self, node: int, identity: int) -> bool:
        """A Byzantine host starts one more component; only a CONFIG block makes it count."""
        if self.replicas[node] is not None or identity in self.components:
            return False
        self.add_component(identity, node)
        return True

    def _learn(self, node: int, height: int) -> bool:
        """A correct node sees the commit quorum of a CONFIG block, before it can execute it."""
        replica = self.replicas[node]
        if replica is None or height >= replica.barrier:
            return False
        digest = self.facts.chosen.get((replica.cfg, height))
        if digest is None or not self.facts.is_config(digest):
            return False
        replica.barrier = height
        return True

    def _begin(self, node: int) -> bool:
        """Pass the barrier: the CONFIG block is executed, and stable in its own configuration."""
        replica = self.replicas[node]
        if replica is None or replica.following < 0:
            return False
        following = self.facts.configurations[replica.following]
        if replica.stable < following.floor and self.mutant != "barrier_without_stable":
            return False
        self._enter_configuration(replica, following)
        return True

    def _enter_configuration(self, replica: Replica, configuration: Configuration) -> None:
        self.monitor.began(configuration.name, configuration.number)
        replica.begin(configuration.name, configuration.floor)
        was_silent = replica.silent
        replica.silent = configuration.members[replica.node] != replica.component
        self.coverage["configurations_begun"] += 1
        if not replica.silent:
            self.coverage["cold_components_admitted"] += was_silent
            component = self.components[replica.component]
            component.begin(configuration.name, configuration.number, configuration.floor)

    def _transfer(self, node: int, cfg: int, height: int) -> bool:
        """State transfer into a later configuration, by its checkpoint certificate."""
        replica = self.replicas[node]
        configuration = self.facts.configurations.get(cfg)
        if replica is None or configuration is None:
            return False
        if configuration.number <= self.facts.configurations[replica.cfg].number:
            return False
        log: Log | None = self.facts.stable[cfg].get(height)
        if log is None or len(log) <= len(replica.log):
            return False
        self._enter_configuration(replica, configuration)
        replica.log = log
        replica.stable = replica.signed = height
        if not replica.silent:
            self.components[replica.component].advance_floor(height)
        digest = log[-1]
        if self.facts.is_config(digest) and self.facts.blocks[digest].cfg == cfg:
            replica.following = digest
            replica.barrier = height
        self.coverage["transfers_across_configurations"] += 1
        return True

    def _begin_as(self, identity: int, cfg: int) -> bool:
        """A Byzantine host has its component begin any configuration that has a name."""
        component = self.components.get(identity)
        configuration = self.facts.configurations.get(cfg)
        if component is None or configuration is None or cfg == ROOT:
            return False
        if self.replicas[component.node] is not None:
            return False
        return component.begin(configuration.name, configuration.number, configuration.floor)
