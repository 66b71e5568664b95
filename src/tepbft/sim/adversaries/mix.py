"""All attacks at once, with weights that a run draws, switched on and off over time (D4)."""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.sim.adversaries.toolkit import Attacker, Composite
from tepbft.sim.ports import Power, Strategy
from tepbft.types import Millis

LOW, HIGH = 0.002, 0.6
BURNING = 0.1
"""Factor on the weight of what uses up the component: a liar that excludes itself is useless (D4 iv)."""


class RandomMix(Composite):
    """Draws a weight per attack, on a wide logarithmic scale, and who plays anew every so often.

    Some runs are nearly honest with rare lies; in others a few attacks dominate. The host behind is a
    correct node while nothing plays, and so stays able: it is voted for, and it leads.
    """

    name = "mix"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        rng = power.rng
        self._weights = [self._draw(strategy) for strategy in self.all]
        self._change_ms: Millis = rng.choice((100, 300, 1000))
        self._until_ms: Millis = 0
        self._playing: list[Strategy] = []

    def _draw(self, strategy: Strategy) -> float:
        weight = LOW * (HIGH / LOW) ** self.power.rng.random()
        if isinstance(strategy, Attacker) and strategy.burns:
            weight *= BURNING
        return float(weight)

    def playing(self) -> Sequence[Strategy]:
        """See `Composite`."""
        now, rng = self.power.now_ms, self.power.rng
        if now >= self._until_ms:
            self._until_ms = now + rng.randint(self._change_ms // 2, 2 * self._change_ms)
            self._playing = [
                strategy
                for strategy, weight in zip(self.all, self._weights, strict=True)
                if rng.random() < weight
            ]
        return self._playing
