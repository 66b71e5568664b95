"""Actions of the view change: leaving, merging, acknowledging, entering (A3.4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence

from tepbft.model import rules
from tepbft.model.checks import Monitor
from tepbft.model.component import Component
from tepbft.model.facts import NULL, Facts, NewView, ViewChange
from tepbft.model.mutants import Mutant
from tepbft.model.replica import NO_BARRIER, Replica
from tepbft.model.setup import Setup


class Departures(ABC):
    """The part of the world that changes views."""

    setup: Setup
    facts: Facts
    monitor: Monitor
    mutant: Mutant
    needed: int
    certificate_quorum: int
    components: dict[int, Component]
    replicas: list[Replica | None]
    coverage: Counter[str]

    @abstractmethod
    def counts(self, component: Component) -> bool:
        """True if the component is a member of the configuration that it signs for."""

    @abstractmethod
    def advance_stable(self, replica: Replica, height: int) -> None:
        """Move a correct node's window."""

    def departure_handlers(self) -> dict[str, Callable[..., bool]]:
        """The actions of this part, by kind."""
        return {
            "depart": self._depart,
            "depart_as": self._depart_as,
            "install": self._install,
            "fabricate": self._fabricate,
            "ack": self._acknowledge,
            "enter": self._enter,
        }

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

    def check_departure(self, replica: Replica) -> None:
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
            self.advance_stable(replica, found.base)  # or it could not satisfy V5 (A6.3)
        self.check_departure(replica)
        return True
