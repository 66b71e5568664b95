"""Counters that the network layer keeps: per message type, link and direction (B7)."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

Direction = Literal["sent", "received"]


class Traffic:
    """Counts and bytes per (direction, link, message type), and what was refused.

    Links are `node0`, `node1`, … and `clients`. Message types are those of our own codecs
    and codes are our own words, so both tables are bounded.
    """

    def __init__(self) -> None:
        self._cells: defaultdict[tuple[Direction, str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._refused: defaultdict[tuple[str, str], int] = defaultdict(int)

    def count(self, direction: Direction, link: str, kind: str, size: int) -> None:
        """One message of `size` bytes."""
        cell = self._cells[direction, link, kind]
        cell[0] += 1
        cell[1] += size

    def refuse(self, link: str, code: str) -> None:
        """Something inadmissible arrived."""
        self._refused[link, code] += 1

    def messages(self) -> list[tuple[Direction, str, str, int, int]]:
        """(direction, link, message type, count, bytes), sorted."""
        return sorted((*key, cell[0], cell[1]) for key, cell in self._cells.items())

    def refusals(self) -> list[tuple[str, str, int]]:
        """(link, code, count), sorted."""
        return sorted((*key, count) for key, count in self._refused.items())

    def refused_total(self) -> dict[str, int]:
        """Count per code over all links."""
        totals: dict[str, int] = {}
        for _, code, count in self.refusals():
            totals[code] = totals.get(code, 0) + count
        return totals
