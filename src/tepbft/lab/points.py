"""The vocabulary of experiments: what is measured where, and how it is drawn. Plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from tepbft.lab.options import BenchOptions

SATURATION, HALF = "at saturation", "at half of it"
LINES, BARS, TIMELINE, GROWTH = "lines", "bars", "timeline", "growth"
"""Kinds of figures: over a number; over names; answers over time; resources over transactions."""


class Point(Struct, frozen=True, kw_only=True):
    """One benchmark of an experiment."""

    name: str
    """Distinct within the experiment."""
    series: str
    x: float | str
    options: BenchOptions
    share: float = 0
    """Above 0: requests are due at this share of the throughput that the point `of` has measured."""
    of: str = ""


class Figure(Struct, frozen=True, kw_only=True):
    """One plot of an experiment, with the numbers under it."""

    title: str
    metric: str
    """A name in `metrics.METRICS`."""
    x_label: str
    rows: str = ""
    """What tells the rows of the table apart, where that is not on the x axis."""
    kind: str = LINES
    series: tuple[str, ...] = ()
    """Only these; empty: all."""
    log_x: bool = False
    log_y: bool = False
    limit: bool = False
    """Draw what signatures alone would allow."""
    due: bool = False
    """Draw the line on which everything that is due is answered."""


class Experiment(Struct, frozen=True, kw_only=True):
    """A question, the points that answer it, and the figures that show the answer."""

    name: str
    title: str
    question: str
    paper: str
    """What it reproduces, or that the paper has nothing of the kind."""
    points: tuple[Point, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing the figures with others."""
    source: str = ""
    """Not empty: it draws other quantities of that experiment's runs, and has no runs of its own."""

    def point(self, name: str) -> Point:
        """The point of that name."""
        return next(point for point in self.points if point.name == name)


class Scale:
    """How long a point takes, how many there are, and what all have in common."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.seconds, self.warmup_s = (3.0, 1.0) if quick else (10.0, 3.0)

    def options(self, **changes: Any) -> BenchOptions:
        """The options of a point."""
        base = BenchOptions(seconds=self.seconds, warmup_s=self.warmup_s, drain_s=10)
        return msgspec.structs.replace(base, **changes)

    def pick(self, all_of: Iterable[Any], quick: Iterable[Any]) -> tuple[Any, ...]:
        """The values of a sweep."""
        return tuple(quick if self.quick else all_of)


def saturated(name: str, title: str, x: float | str, options: BenchOptions) -> tuple[Point, Point]:
    """Two points: as many requests as are answered, and half as many."""
    first = Point(name=name, series=f"{title} {SATURATION}".strip(), x=x, options=options)
    half = Point(
        name=f"{name}-half", series=f"{title} {HALF}".strip(), x=x, options=options, share=0.5, of=name
    )
    return first, half
