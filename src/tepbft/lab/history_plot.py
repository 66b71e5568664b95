"""The history as a picture: three plots side by side, one point per entry."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.axes import Axes

from tepbft.lab.figures import COLOURS, draw
from tepbft.lab.history import Entry
from tepbft.lab.page import CSS

_PLOTS = (
    ("signed", "ratio", "Signed: throughput / limit", ""),
    ("signed", "tps", "Signed: throughput", "requests/s"),
    ("unsigned", "tps", "Unsigned: throughput", "requests/s"),
    ("one client", "p50_ms", "One client: median latency", "ms"),
)


def _plot(entries: Sequence[Entry], figure: str, metric: str, title: str, unit: str) -> str:
    pairs = [
        (number, float(value))
        for number, entry in enumerate(entries)
        if figure in entry.figures and (value := getattr(entry.figures[figure], metric)) is not None
    ]

    def onto(axes: Axes) -> None:
        axes.set_title(title)
        axes.plot([x for x, _ in pairs], [y for _, y in pairs], marker="o", color=COLOURS[0])
        axes.set_ylim(bottom=0)
        axes.set_ylabel(unit)
        stride = max(1, len(entries) // 10)
        ticks = list(range(0, len(entries), stride))
        axes.set_xticks(ticks, [f"{entries[i].commit[:7]}\n{entries[i].at[5:10]}" for i in ticks], fontsize=8)

    return draw(onto, f"history-{figure.replace(' ', '-')}-{metric}")


def render_history(entries: Sequence[Entry], *, html: bool) -> str:
    """An HTML page, or one SVG with the plots beneath each other."""
    plots = [_plot(entries, *plot) for plot in _PLOTS]
    if html:
        figures = "".join(f"<figure>{svg}</figure>" for svg in plots)
        machines = sorted({str(entry.machine.get("cpu", "unknown")) for entry in entries})
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Key figures</title>'
            f"<style>{CSS}</style></head><body><main><h1>Key figures over time</h1>"
            f"<p>Three nodes on one machine ({escape('; '.join(machines))}). Absolute figures move with the "
            f'machine; the share of the limit does not.</p><div class="figures">{figures}</div>'
            "</main></body></html>\n"
        )
    height = 400
    parts = [
        svg.replace("<svg", f'<svg x="0" y="{number * height}" width="640" height="{height - 10}"', 1)
        for number, svg in enumerate(plots)
    ]
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" width="640" height="{height * len(plots)}">'
        f"{''.join(parts)}</svg>\n"
    )
