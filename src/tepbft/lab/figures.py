"""Plots as SVG text, drawn by matplotlib without a display: for pages that need nothing from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tepbft.lab.metrics import METRICS, Result, Spread, spread
from tepbft.lab.points import BARS, GROWTH, TIMELINE, Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#8c6d1f", "#56b4e9", "#444444")
"""Distinct for colour-blind readers too; series differ in their markers as well."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LIMIT_COLOUR, GRID_COLOUR, INK = "#999999", "#e6e6e6", "#222222"
SIZE_INCHES = (6.0, 3.7)
TIMELINE_S = 0.1
MANY_BARS = 6
"""More have their names at an angle."""
VISIBLE_LIMIT = 1.5
"""A limit so many times above the highest bar is not drawn: the bars would vanish."""
AFTER_S = 2.0
"""How much of the drain a timeline shows."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 10,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "errorbar.capsize": 3,
}


MUCH_STOLEN = 0.05
"""Share of the processors' time, from which on a point is marked."""


@dataclass
class Place:
    """One point of a figure: the runs that were made there."""

    series: str
    x: float | str
    results: list[Result] = field(default_factory=list)

    @property
    def at(self) -> str:
        """`x`, for a person."""
        return f"{self.x:,g}" if isinstance(self.x, float | int) else self.x

    @property
    def limited(self) -> bool:
        """Whether the load, not the cluster, was the limit in some run."""
        return any(result["limited_by_client"] for result in self.results)

    @property
    def disturbed(self) -> bool:
        """Whether others had much of the processors' time in some run."""
        return any(result.get("stolen_share", 0.0) >= MUCH_STOLEN for result in self.results)


def draw(onto: Callable[[Axes], None], salt: str) -> str:
    """An `<svg>` element that `onto` fills. `salt` keeps the names inside apart from those of others."""
    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
        axes = canvas.subplots()
        onto(axes)
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:  # below the axes: in them it would lie over a line sooner or later
            canvas.legend(handles, labels, loc="outside lower center", ncols=min(3, len(handles)))
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), salt)


def render(figure: Figure, places: Sequence[Place], salt: str) -> str:
    """The figure as an `<svg>` element."""
    kind = {BARS: _bars, TIMELINE: _timeline, GROWTH: _growth}.get(figure.kind, _lines)

    def onto(axes: Axes) -> None:
        axes.set_title(figure.title)
        kind(axes, figure, places)

    return draw(onto, salt)


def _inline(svg: str, salt: str) -> str:
    """Only the element, its names prefixed so that several can stand in one page, its size left to it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{salt}-", svg)
    head, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest


def _by_series(places: Sequence[Place]) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(place.series, []).append(place)
    return found


def quantities(metric: str) -> tuple[tuple[str, str, str], ...]:
    """What is drawn: (quantity, what the legend adds, line style) of a metric; the latency is drawn twice."""
    if metric == "p50_p99":
        return (("p50", "median", "-"), ("p99", "99 %", "--"))
    return ((metric, "", "-"),)


def _errors(spreads: Sequence[Spread]) -> list[list[float]] | None:
    """Lengths of the error bars: from the smallest to the largest of the repeats."""
    if all(found.count < 2 for found in spreads):
        return None
    return [[s.middle - s.low for s in spreads], [s.high - s.middle for s in spreads]]


def _lines(axes: Axes, figure: Figure, places: Sequence[Place]) -> None:
    series = _by_series(places)
    for number, (name, points) in enumerate(series.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for metric, suffix, style in quantities(figure.metric):
            pairs = [(place, found) for place in points if (found := spread(metric, place.results))]
            if not pairs:
                continue
            label = ", ".join(
                part for part in (name if len(series) > 1 or not suffix else "", suffix) if part
            )
            axes.errorbar(
                [float(place.x) for place, _ in pairs],
                [found.middle for _, found in pairs],
                yerr=_errors([found for _, found in pairs]),
                label=label or name,
                color=colour,
                linestyle=style,
                marker=marker,
                markersize=5,
                linewidth=1.6,
                markerfacecolor=colour if style == "-" else "white",
            )
            for place, found in pairs:
                if place.limited:
                    axes.plot(
                        [float(place.x)], [found.middle], marker="o", markersize=12, color="#c00000",
                        fillstyle="none", linestyle="none",
                    )  # fmt: skip
    _references(axes, figure, series)
    _scales(axes, figure, sorted({float(place.x) for place in places}))


def _references(axes: Axes, figure: Figure, series: dict[str, list[Place]]) -> None:
    """The limit that signatures set, what was due, and the formulas."""
    if figure.due:
        reference = max(series.values(), key=len)
        xs = sorted(float(place.x) for place in reference)
        axes.plot(xs, xs, color=INK, linewidth=0.9, linestyle=":", label="all that is due")
    if figure.limit:
        drawn: set[tuple[tuple[float, float], ...]] = set()
        for points in series.values():
            line = [(float(p.x), found.middle) for p in points if (found := spread("limit_tps", p.results))]
            if not line or tuple(line) in drawn:
                continue
            axes.plot(
                *zip(*line, strict=True),
                color=LIMIT_COLOUR,
                linewidth=3.0,
                alpha=0.55,
                label=None if drawn else "limit by signatures",
            )
            drawn.add(tuple(line))
    if figure.metric == "messages":
        xs = sorted({float(place.x) for points in series.values() for place in points})
        faults = [(x - 1) // 2 for x in xs]
        ours = [4 * f * f + 4 * f + 2 for f in faults]
        papers = [2 * f * f + 5 * f + 2 for f in faults]
        axes.plot(xs, ours, color=LIMIT_COLOUR, linewidth=3, alpha=0.6, label="4f² + 4f + 2")
        axes.plot(xs, papers, color=INK, linewidth=1, linestyle=":", label="2f² + 5f + 2 (the paper's)")


def _short(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def _scales(axes: Axes, figure: Figure, xs: Sequence[float]) -> None:
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel("latency [ms]" if figure.metric == "p50_p99" else METRICS[figure.metric].axis)
    if figure.log_x and min(xs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xticks(list(xs), [_short(x) for x in xs], rotation=40 if len(xs) > 6 else 0)
    _value_axis(axes, figure.log_y)


def _value_axis(axes: Axes, logarithmic: bool) -> None:
    if logarithmic:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / max(low, 1e-12) < 20:  # less than a decade or so: a scale of one label says little
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        elif high / max(low, 1e-12) < 1000:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _bars(axes: Axes, figure: Figure, places: Sequence[Place]) -> None:
    names = list(dict.fromkeys(place.at for place in places))
    drawn = quantities(figure.metric)
    width = 0.7 / len(drawn)
    for number, (metric, suffix, _) in enumerate(drawn):
        pairs = [(place, found) for place in places if (found := spread(metric, place.results))]
        offset = (number - (len(drawn) - 1) / 2) * width
        axes.bar(
            [names.index(place.at) + offset for place, _ in pairs],
            [found.middle for _, found in pairs],
            width * 0.92,
            yerr=_errors([found for _, found in pairs]),
            color=COLOURS[number],
            label=suffix or METRICS[metric].label,
        )
    if figure.limit:
        top = VISIBLE_LIMIT * axes.get_ylim()[1]
        limits = [(place, found) for place in places if (found := spread("limit_tps", place.results))]
        limits = [(place, found) for place, found in limits if found.middle <= top]
        at = [names.index(place.at) for place, _ in limits]
        axes.hlines(
            [found.middle for _, found in limits],
            [x - 0.42 for x in at],
            [x + 0.42 for x in at],
            color=INK,
            linewidth=2,
            label="limit by signatures",
        )
    many = len(names) > MANY_BARS
    axes.set_xticks(range(len(names)), names, rotation=40 if many else 0, ha="right" if many else "center")
    axes.set_xlabel(figure.x_label)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("latency [ms]" if figure.metric == "p50_p99" else METRICS[figure.metric].axis)
    _value_axis(axes, figure.log_y)


def _timeline(axes: Axes, figure: Figure, places: Sequence[Place]) -> None:
    """Answers per second over time; the first repeat of each point."""
    for number, place in enumerate(places):
        if not place.results:
            continue
        result = place.results[0]
        shown = int((result["seconds"] + AFTER_S) / TIMELINE_S)
        rates = [count / TIMELINE_S for count in result["timeline"][:shown]]
        times = [slot * TIMELINE_S for slot in range(len(rates))]
        axes.step(times, rates, where="post", color=COLOURS[number % len(COLOURS)], linewidth=1.4,
                  label=place.series)  # fmt: skip
        killed = result["options"].get("kill_primary_after_s")
        if killed is not None and number == 0:
            axes.axvline(killed, color="#c00000", linewidth=1, linestyle="--", label="the primary is killed")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel("answers per second")
    axes.set_yscale("symlog", linthresh=100)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


GROWTH_STEPS = 100


def _growth(axes: Axes, figure: Figure, places: Sequence[Place]) -> None:
    """Throughput or memory over the number of transactions executed so far."""
    for number, place in enumerate(places):
        for repeat, result in enumerate(place.results):
            curve = growth_curve(result, figure.metric)
            axes.plot(
                [done for done, _ in curve],
                [value for _, value in curve],
                color=COLOURS[number % len(COLOURS)],
                alpha=1 if repeat == 0 else 0.4,
                linewidth=1.6,
                label=place.series if repeat == 0 else None,
            )
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel("requests/s" if figure.metric == "timeline" else METRICS["rss_mb"].axis)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def growth_curve(result: Result, metric: str) -> list[tuple[float, float]]:
    """(transactions so far, value) in at most `GROWTH_STEPS` steps."""
    slots = [int(count) for count in result["timeline"]][: max(1, int(result["seconds"] / TIMELINE_S))]
    sums = [0]
    for count in slots:
        sums.append(sums[-1] + count)
    if metric == "rss_series":
        return [
            (float(sums[min(len(slots), int(at / TIMELINE_S))]), size / (1 << 20))
            for at, size in result["rss_series"]
        ]
    stride = max(5, -(-len(slots) // GROWTH_STEPS))
    found = []
    for start in range(0, len(slots) - stride + 1, stride):
        done = sums[start + stride]
        found.append((float(done), (done - sums[start]) / (stride * TIMELINE_S)))
    return found
