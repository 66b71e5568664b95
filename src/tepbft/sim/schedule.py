"""The faults of a run, numbered as they happen, so that a shrinker can leave some out.

Every injected fault (a lost message, a crash, a partition, a clock that jumps, …) asks
`allow` first. Numbers are given in order, to suppressed faults as well: a run in which
only the faults of `keep` happen has at most that many.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tepbft.types import Millis

MAX_REMEMBERED = 50_000
"""Faults of one run that are kept for a report; later ones happen but are not listed."""


class Fault(NamedTuple):
    """One fault that happened."""

    number: int
    at_ms: Millis
    kind: str
    """`loss`, `duplication`, `isolation`, `reverse`, or a name of `faults.FAULTS`."""
    fields: tuple[Any, ...]

    def __str__(self) -> str:
        return f"#{self.number} at {self.at_ms} ms: {_describe(self.kind, self.fields)}"


class Schedule:
    """What may happen (`keep`; None for everything) and what did."""

    __slots__ = ("asked", "happened", "keep")

    def __init__(self, keep: frozenset[int] | None = None) -> None:
        self.keep = keep
        self.asked = 0
        self.happened: list[Fault] = []

    def allow(self, at_ms: Millis, kind: str, *fields: Any) -> bool:
        """Give the fault that is about to happen its number; False if it must not happen."""
        number = self.asked
        self.asked = number + 1
        if self.keep is not None and number not in self.keep:
            return False
        if len(self.happened) < MAX_REMEMBERED:
            self.happened.append(Fault(number, at_ms, kind, fields))
        return True


def _end(number: int) -> str:
    return f"host {number}" if number >= 0 else f"client {-1 - number}"


def _describe(kind: str, fields: tuple[Any, ...]) -> str:
    match kind:
        case "loss":
            return f"{fields[2]} from {_end(fields[0])} to {_end(fields[1])} is lost"
        case "duplication":
            return f"{fields[2]} from {_end(fields[0])} to {_end(fields[1])} arrives twice"
        case "isolation":
            return f"host {fields[0]} is cut off as it sends a {fields[1]}"
        case "reverse":
            return f"what host {fields[0]} sends to host {fields[1]} arrives last first, until {fields[2]} ms"
        case "partition":
            return f"links down until {fields[1]} ms ({fields[0]}): {' '.join(fields[2:]) or 'none'}"
        case "blackout":
            return "every process crashes, now or as a client gets its next outcome"
        case "storm":
            return "clocks leap ahead: " + ", ".join(f"host {host} by {jump} ms" for host, jump in fields)
        case "clock" | "wall":
            return f"host {fields[0]}: {fields[1]}"
    names = {
        "crash": "the process crashes within the next effects",
        "trap": "the process crashes at the next effect of one kind",
        "cold": "the trusted component dies; a new one starts",
        "warm": "the trusted component is sealed and restored",
        "full": "the disk is full for a while",
        "wipe": "the disk is lost",
    }
    return f"host {fields[0]}: {names.get(kind, kind)}"
