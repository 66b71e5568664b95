"""A run with less trouble in it: what a shrinker has left out, as one word that a command line takes.

`no-loss,no-crash,honest-2,clients=1,keep=3+17`: no losses, no crashes, host 2 follows the
protocol, one client, and of the numbered faults only 3 and 17 happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tepbft.errors import TepbftError
from tepbft.sim.ports import Strategy
from tepbft.sim.profiles import WorldConfig

OFF: dict[str, dict[str, Any]] = {
    "loss": {"loss": 0.0},
    "laggards": {"laggards": ()},
    "client_loss": {"client_loss": 0.0},
    "duplication": {"duplication": 0.0},
    "reverse": {"reverse": 0.0},
    "isolate": {"isolate": 0.0},
    "tail": {"tail": 0.0},
    "batch": {"batch": 0.0},
    "lost_installs": {"lost_installs": 0.0},
    "session_changes": {"session_changes": 0.0},
    "clock_rate": {"clock_rate": 0.0},
    "clock_offset": {"clock_offset_ms": 0},
    "wall_skew": {"wall_skew_ms": 0},
}
"""Kinds of trouble that a field of the world's settings turns off; faults drawn by weight come on top."""
NUMBERS = {"clients": 1, "requests": 1, "late_requests": 0, "pipeline": 1, "keys": 1, "heal_ms": 100}
"""Numbers that may be made smaller, and how small."""
MAX_TEXT = 100_000


@dataclass(frozen=True)
class Reduction:
    """What is left out. Empty: nothing."""

    without: tuple[str, ...] = ()
    """Kinds of trouble: names of `OFF` and of `faults.FAULTS`."""
    honest: tuple[int, ...] = ()
    """Byzantine hosts that follow the protocol instead."""
    numbers: tuple[tuple[str, int], ...] = ()
    """Smaller numbers, by names of `NUMBERS`."""
    keep: frozenset[int] | None = None
    """The only numbered faults that happen; None for all."""

    def __bool__(self) -> bool:
        return bool(self.without or self.honest or self.numbers or self.keep is not None)

    def __str__(self) -> str:
        words = [f"no-{name}" for name in self.without]
        words += [f"honest-{host}" for host in self.honest]
        words += [f"{name}={value}" for name, value in self.numbers]
        if self.keep is not None:
            words.append("keep=" + "+".join(str(number) for number in sorted(self.keep)))
        return ",".join(words)

    def apply(
        self, config: WorldConfig, strategies: Sequence[type[Strategy]]
    ) -> tuple[WorldConfig, list[type[Strategy]]]:
        """The reduced world and the behaviour of the Byzantine hosts that are left."""
        changes: dict[str, Any] = {}
        for name in self.without:
            changes.update(OFF.get(name, {}))
        changes["weights"] = tuple(pair for pair in config.weights if pair[0] not in self.without)
        for name, value in self.numbers:
            changes[name] = min(value, getattr(config, name))
        changes["byzantine"] = tuple(host for host in config.byzantine if host not in self.honest)
        behave = zip(config.byzantine, strategies, strict=False)
        return replace(config, **changes), [how for host, how in behave if host not in self.honest]


def trouble_of(config: WorldConfig) -> list[str]:
    """Kinds of trouble that a world has, in a fixed order: what `Reduction.without` could take away."""
    found = [name for name, off in OFF.items() if any(getattr(config, f) != v for f, v in off.items())]
    return found + [name for name, _ in config.weights]


def parse_reduction(text: str) -> Reduction:
    """The reduction that `str` wrote; TepbftError (exit code 2) for anything else."""
    without: list[str] = []
    honest: list[int] = []
    numbers: list[tuple[str, int]] = []
    keep: frozenset[int] | None = None
    for word in text[:MAX_TEXT].split(","):
        name, equals, value = word.partition("=")
        try:
            if name == "keep" and equals:
                keep = frozenset(int(number) for number in value.split("+") if number)
            elif equals and name in NUMBERS:
                numbers.append((name, max(NUMBERS[name], int(value))))
            elif word.startswith("honest-"):
                honest.append(int(word.removeprefix("honest-")))
            elif word.startswith("no-"):
                without.append(word.removeprefix("no-"))
            elif word:
                raise ValueError(word)
        except ValueError:
            raise TepbftError(
                f"--shrunk {text[:80]!r}",
                f"{word[:40]!r} is not understood",
                "Use it as a failed run printed it.",
                exit_code=2,
            ) from None
    return Reduction(tuple(without), tuple(honest), tuple(numbers), keep)
