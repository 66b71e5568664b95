"""The network: when, how often and whether a message arrives.

Partitions are sets of directed links that are down. Delivery in reverse order is a
delay that shrinks as time passes: what was sent last inside the window arrives first.
"""

from __future__ import annotations

from random import Random

from tepbft.sim.coverage import Coverage
from tepbft.sim.profiles import WorldConfig
from tepbft.sim.schedule import Schedule
from tepbft.types import Millis, NodeId

VIEW_CHANGE_MESSAGES = ("ReqVc", "ViewChange", "NewView", "NvAck", "NewViewCertificate")
MAX_CUTS = 4
Link = tuple[NodeId, NodeId]


class Network:
    """Directed links between hosts, and between clients (numbered -1, -2, …) and hosts."""

    def __init__(self, config: WorldConfig, coverage: Coverage, schedule: Schedule) -> None:
        self._config, self._coverage, self._allow = config, coverage, schedule.allow
        self._rng = Random(f"{config.seed}/network")
        self._laggards = {(host, name): odds for host, name, odds in config.laggards}
        self._cuts: list[tuple[Millis, dict[Link, None]]] = []
        self._isolated: dict[NodeId, Millis] = {}
        self._reversed: dict[Link, Millis] = {}
        self.blocked: dict[Link, None] = {}
        """Links that a scenario keeps down by hand, until it removes them."""
        self.healed = False

    def heal(self) -> None:
        """From now on every message arrives in time, once."""
        self.healed = True
        self._cuts.clear()
        self._isolated.clear()
        self._reversed.clear()

    # --- faults -----------------------------------------------------------------------------------

    def cut(self, links: dict[Link, None], until: Millis) -> None:
        """These links are down until then. At most `MAX_CUTS` overlap."""
        if len(self._cuts) < MAX_CUTS:
            self._cuts.append((until, links))
            self._coverage.count("partitions")

    def reverse(self, link: Link, until: Millis) -> None:
        """What is sent over the link until then arrives after it, last first."""
        self._reversed[link] = until
        self._coverage.count("reversed")

    def _is_cut(self, sender: NodeId, to: NodeId, now: Millis) -> bool:
        link = (sender, to)
        if link in self.blocked:
            return True
        if self._isolated and (self._isolated.get(sender, 0) > now or self._isolated.get(to, 0) > now):
            return True
        if not self._cuts:
            return False
        self._cuts = [cut for cut in self._cuts if cut[0] > now]
        return any(link in links for _, links in self._cuts)

    # --- routing ----------------------------------------------------------------------------------

    def arrivals(self, sender: NodeId, to: NodeId, name: str, now: Millis) -> tuple[Millis, ...]:
        """Virtual times at which a message between two hosts arrives: none, one or more."""
        if self.healed:
            if self.blocked and (sender, to) in self.blocked:
                return ()
            return (now + self._rng.randint(1, 3),)
        config, rng = self._config, self._rng
        strikes = config.isolate and name in VIEW_CHANGE_MESSAGES and rng.random() < config.isolate
        free = self._isolated.get(sender, 0) <= now
        if strikes and free and self._allow(now, "isolation", sender, name):
            self._isolated[sender] = now + rng.randint(1, config.cut_ms)
            self._coverage.count("isolations")
        if self._is_cut(sender, to, now):
            return ()
        if config.loss and rng.random() < config.loss and self._allow(now, "loss", sender, to, name):
            return ()
        if self._laggards:
            odds = self._laggards.get((to, name))
            if odds is not None and rng.random() < odds and self._allow(now, "loss", sender, to, name):
                return ()
        at = now + self._delay(sender, to, now)
        twice = config.duplication and rng.random() < config.duplication
        if twice and self._allow(now, "duplication", sender, to, name):
            self._coverage.count("duplicated")
            return at, at + self._delay(sender, to, now)
        return (at,)

    def _delay(self, sender: NodeId, to: NodeId, now: Millis) -> Millis:
        config, rng = self._config, self._rng
        if self._reversed:
            until = self._reversed.get((sender, to), 0)
            if until > now:
                return 2 * (until - now)
        low, high = config.delay_ms
        delay = low + int((high - low + 1) * rng.random())
        if config.tail and rng.random() < config.tail:
            delay += int(config.tail_ms * rng.random())
        return delay

    def client_arrival(self, sender: NodeId, to: NodeId, now: Millis) -> Millis | None:
        """When a message between a client and a host arrives; None if it is lost."""
        if self.healed:
            return now + self._rng.randint(1, 3)
        lost = self._config.client_loss and self._rng.random() < self._config.client_loss
        if lost and self._allow(now, "loss", sender, to, "a message"):
            return None
        if self._isolated and self._isolated.get(max(sender, to), 0) > now:
            return None
        return now + self._delay(sender, to, now)
