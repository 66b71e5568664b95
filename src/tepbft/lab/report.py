"""The report: one HTML page with everything in it, made from raw results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from tepbft.errors import TepbftError
from tepbft.lab.experiments import catalogue
from tepbft.lab.figures import Place, quantities, render
from tepbft.lab.findings import findings
from tepbft.lab.metrics import COLUMNS, METRICS, spread
from tepbft.lab.page import CSS, METHOD
from tepbft.lab.paper_experiments import RATE_LABEL, missing_protocols
from tepbft.lab.points import Experiment, Figure
from tepbft.lab.records import Record, file_of, latest, read_records

BUSY_BELOW = 0.8
"""A share of the cores below which a run at saturation was not alone, or could not fill them."""


class Measured:
    """The records of one experiment, in the order of its points. Full runs count before quick ones."""

    def __init__(self, folder: Path, name: str) -> None:
        records = latest(read_records(file_of(folder, name))).values()
        self.quick = not any(record.result for record in records if not record.quick)
        chosen = [record for record in records if record.quick == self.quick]
        self.experiment: Experiment = catalogue(self.quick)[name]
        self.errors = [record for record in chosen if record.result is None]
        self.results = [record.result for record in chosen if record.result is not None]
        self.records = chosen
        self.places = self._places(chosen)
        self.repeats = max((len(place.results) for place in self.places), default=0)

    def _places(self, records: Sequence[Record]) -> list[Place]:
        """Places in the order of the catalogue; points that it no longer has come last."""
        order = {point.name: number for number, point in enumerate(self.experiment.points)}
        found: dict[str, Place] = {}
        for record in sorted(records, key=lambda one: (order.get(one.point, len(order)), one.repeat)):
            place = found.setdefault(record.point, Place(record.series, record.x))
            if record.result is not None:
                place.results.append(record.result)
        return list(found.values())


def render_report(folder: Path) -> str:
    """The page for the results in a folder; TepbftError if there are none."""
    names = [name for name, experiment in catalogue().items() if not experiment.source]
    measured = {name: Measured(folder, name) for name in names if file_of(folder, name).exists()}
    measured = {name: found for name, found in measured.items() if found.records}
    if not measured:
        raise TepbftError(str(folder), "there are no results in it", "Run: tepbft lab run all --quick")
    sections, contents = [], []
    for name, experiment in catalogue().items():
        found = measured.get(experiment.source or name)
        if found is None:
            continue
        shown = catalogue(found.quick)[name]
        sections.append(_section(shown, found))
        contents.append(f'<li><a href="#{name}">{escape(shown.title)}</a></li>')
    absent = [catalogue()[name].title for name in names if name not in measured]
    results = [result for found in measured.values() for result in found.results]
    parts = [
        _head(),
        "<h1>tepbft, measured</h1>",
        _about(measured, results),
        f"<nav><h2>Contents</h2><ol>{''.join(contents)}</ol></nav>",
        _summary(measured),
        f'<section id="method"><h2>Method</h2>{METHOD}</section>',
        _not_there(absent),
        *sections,
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _head() -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tepbft, measured</title><style>{CSS}</style></head><body><main>"
    )


def _about(measured: dict[str, Measured], results: Sequence[dict[str, Any]]) -> str:
    """When, where, how much."""
    if not results:
        return "<p>No run succeeded.</p>"
    first = min(str(result["started_at"]) for result in results)
    last = max(str(result["started_at"]) for result in results)
    machines = sorted({_machine(result) for result in results})
    commits = sorted({str(result["commit"]) or "unknown" for result in results})
    quick = [name for name, found in measured.items() if found.quick]
    errors = sum(len(found.errors) for found in measured.values())
    rows = [
        ("runs", f"{len(results):,} that held, {errors} that failed, from {first} to {last}"),
        ("machine" if len(machines) == 1 else "machines", "; ".join(machines)),
        ("commit", ", ".join(commits)),
        ("page made", datetime.now(UTC).isoformat(timespec="seconds")),
    ]
    share = _machine_share(results)
    if share is not None and share < BUSY_BELOW:
        rows.append(
            (
                "careful",
                f"At saturation nodes and load got {share:.0%} of the cores. Either something else ran on "
                "this machine, and all figures are too low; or it has more cores than this load can use.",
            )
        )
    if quick:
        rows.append(("quick runs", f"short windows and few points: {', '.join(quick)}"))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<table class="about">{cells}</table>'


def _machine_share(results: Sequence[dict[str, Any]]) -> float | None:
    """How much of the machine closed-loop runs used: nearly all of it, on few cores that are free."""
    closed = [result for result in results if not result["options"]["rate"]]
    shares = [
        value / 100
        for result in closed
        if result["options"]["clients"] > 1 and (value := METRICS["machine"].read(result)) is not None
    ]
    return median(shares) if shares else None


def _machine(result: dict[str, Any]) -> str:
    found = result["machine"]
    return (
        f"{found.get('cpu') or 'unknown processor'}, {found.get('cores')} cores, "
        f"{found.get('memory_gib')} GiB, {found.get('system')}, Python {found.get('python')}"
    )


def _summary(measured: dict[str, Measured]) -> str:
    """The first sentence of every experiment, with a link to it."""
    rows = []
    for name, experiment in catalogue().items():
        found = measured.get(experiment.source or name)
        said = findings(name, found.places) if found is not None else []
        if found is not None and said:
            link = f'<a href="#{name}">{escape(catalogue(found.quick)[name].title)}</a>'
            rows.append(f"<tr><td>{link}</td><td>{escape(said[0])}</td></tr>")
    return f'<section id="summary"><h2>In short</h2><table class="summary">{"".join(rows)}</table></section>'


def _not_there(absent: Sequence[str]) -> str:
    missing = missing_protocols()
    lines = []
    if missing:
        lines.append(
            f"<p>The paper compares TEP-BFT with {escape(', '.join(missing))}. These protocols do not exist "
            "here yet; once they do they appear in its experiments. Nothing on this page stands for them.</p>"
        )
    if absent:
        lines.append(f"<p>Not measured: {escape('; '.join(absent))}.</p>")
    lines.append(
        "<p>Not reproduced: the paper's comparison of 4, 8, 16 and 32 cores, and of enclaves with plain "
        "machines; both need its hardware.</p>"
    )
    return f'<section id="absent"><h2>What is not here</h2>{"".join(lines)}</section>'


def _section(experiment: Experiment, found: Measured) -> str:
    figures = "".join(
        _figure(experiment, number, figure, found) for number, figure in enumerate(experiment.figures)
    )
    said = "".join(f"<li>{escape(line)}</li>" for line in findings(experiment.name, found.places))
    notes = "".join(f"<li>{escape(note)}</li>" for note in experiment.notes)
    failed = "".join(
        f"<li>{escape(record.point)}: {escape((record.error or {}).get('reason', ''))}</li>"
        for record in found.errors
    )
    return "\n".join(
        [
            f'<section id="{experiment.name}"><h2>{escape(experiment.title)}</h2>',
            f'<p class="question">{escape(experiment.question)}</p>',
            f'<p class="paper">{escape(experiment.paper)}. {_setting(experiment, found)}</p>',
            f'<ul class="answer">{said}</ul>' if said else "",
            f'<div class="figures">{figures}</div>',
            f'<ul class="notes">{notes}</ul>' if notes else "",
            f'<div class="failed"><b>Points that failed</b><ul>{failed}</ul></div>' if failed else "",
            "</section>",
        ]
    )


def _setting(experiment: Experiment, found: Measured) -> str:
    """What all runs have in common."""
    if not found.results:
        return ""
    options = [result["options"] for result in found.results]
    common = []
    for key, show in (
        ("nodes", "{} nodes"),
        ("scheme", "signatures: {}"),
        ("app", "load: {}"),
        ("payload", "{} bytes per operation"),
        ("block_size", "requests per block: up to {}"),
        ("clients", "clients: {}"),
    ):
        values = {str(one.get(key)) for one in options if one.get(key) is not None}
        if len(values) == 1:
            common.append(show.format(values.pop()))
    windows = {f"{result['seconds']:.0f}" for result in found.results}
    if len(windows) == 1:
        common.append(f"windows of {windows.pop()} s")
    common.append(f"{found.repeats} repeats" if found.repeats > 1 else "one repeat, so no error bars")
    return escape("Here: " + ", ".join(common) + ".")


def _figure(experiment: Experiment, number: int, figure: Figure, found: Measured) -> str:
    places = [
        place
        for place in found.places
        if place.results and (not figure.series or place.series in figure.series)
    ]
    if not places:
        return f"<figure><figcaption>{escape(figure.title)}: nothing was measured.</figcaption></figure>"
    svg = render(figure, places, f"{experiment.name}-{number}")
    return f"<figure>{svg}{_table(figure, places)}</figure>"


_LIMITED = ' <abbr title="the load, not the cluster, was the limit: no peak">†</abbr>'
_DISTURBED = ' <abbr title="others had much of the processors\' time: lower than it could be">‡</abbr>'


def _table(figure: Figure, places: Sequence[Place]) -> str:
    """The numbers of a figure: medians, and the extremes where there are repeats."""
    columns = [
        name
        for name in COLUMNS[figure.metric]
        if any(spread(name, place.results) for place in places)
        and not (name == "due" and figure.x_label == RATE_LABEL)  # it is the first column already
    ]
    several = 1 < len({place.series for place in places}) < len(places)
    head = (["series"] if several else []) + [figure.rows or figure.x_label]
    head += [METRICS[name].axis for name in columns]
    drawn = [name for name, _, _ in quantities(figure.metric)]
    lines = ["<tr>" + "".join(f"<th>{escape(text)}</th>" for text in head) + "</tr>"]
    for place in places:
        cells = [f"<td>{escape(place.series)}</td>"] if several else []
        mark = (_LIMITED if place.limited else "") + (_DISTURBED if place.disturbed else "")
        cells.append(f"<td>{escape(place.at)}{mark}</td>")
        for name in columns:
            value = spread(name, place.results)
            text = METRICS[name].text(value.middle if value else None)
            if value is not None and value.count > 1 and name in drawn:
                low, high = METRICS[name].text(value.low), METRICS[name].text(value.high)
                text += f'<span class="range"> {low}…{high}</span>'
            cells.append(f'<td class="n">{text}</td>')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    notes = ""
    if any(place.limited for place in places):
        notes += (
            "<p>† limited by the load generator (ringed where there are points): no peak of the cluster.</p>"
        )
    if any(place.disturbed for place in places):
        notes += "<p>‡ a hypervisor gave others 5 % of the processors' time or more: measure it again.</p>"
    return f"<table>{''.join(lines)}</table>{notes}"
