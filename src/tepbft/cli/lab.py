"""`lab`: experiments, their report, and the history of a few key figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tepbft.cli.client_commands import write_file
from tepbft.cli.output import FAILED, OK, emit, page, prose, say, table, warn
from tepbft.cli.signals import terminate_as_interrupt
from tepbft.errors import TepbftError
from tepbft.lab.campaign import Campaign, Step
from tepbft.lab.experiments import catalogue, choose
from tepbft.lab.history import HISTORY_FILE, measure_entry, read_history, recent_rows
from tepbft.lab.records import Record

DEFAULT_FOLDER = Path("lab-results")
FULL_REPEATS = 3

group = typer.Typer(
    no_args_is_help=True,
    help="Experiments: those of the paper and others, their report, and the history of key figures.",
    rich_markup_mode="rich",
)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes >= 2 else f"about {round(seconds / 5) * 5} s"


@group.command(name="list")
def list_command(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output.")
    ] = False,
) -> None:
    """The experiments: what they ask, what they reproduce, how many points they have."""
    short, full = catalogue(quick=True), catalogue()
    if json:
        for name, experiment in full.items():
            emit(
                {
                    "name": name,
                    "title": experiment.title,
                    "question": experiment.question,
                    "paper": experiment.paper,
                    "points": len(experiment.points),
                    "quick_points": len(short[name].points),
                }
            )
        return
    rows = [
        (
            name,
            f"{experiment.question} [dim]{escape(experiment.paper)}[/dim]",
            f"{len(short[name].points)} / {len(experiment.points)}"
            if experiment.points
            else f"as {experiment.source}",
        )
        for name, experiment in full.items()
    ]
    page().print(table("experiments", ["name", "question", ">points, quick / full"], rows))


@group.command(name="run")
def run_command(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|all", help="See: tepbft lab list", show_default=False)
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points, short windows, one repeat.")] = False,
    repeats: Annotated[
        int | None, typer.Option(metavar="R", help="Runs of every point (default: 3; quick: 1).", min=1)
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="OUT", help="Where the raw results go.")
    ] = DEFAULT_FOLDER,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per point on standard output.")
    ] = False,
) -> None:
    """Run an experiment, or all: every point is a fresh cluster of its own.

    Raw results are lines of JSON in OUT/EXPERIMENT.ndjson. Points that are there already are skipped, so
    a run that was interrupted goes on where it was; at most the point that it was at is lost. A point that
    fails is recorded with its reason and tried again next time; the exit code is 1 then.

    Leave the machine alone meanwhile: everything shares its cores.

    [bold]Examples[/bold]

      tepbft lab run all --quick && tepbft lab report
      tepbft lab run failover --repeats 5
    """
    campaign = Campaign(
        choose(experiment, quick), directory, quick, repeats or (1 if quick else FULL_REPEATS)
    )
    steps = campaign.steps()
    if not steps:
        say(f"Everything is there: {escape(str(directory))}. Draw it: tepbft lab report")
        return
    say(f"{len(steps)} points, {_duration(campaign.expected_s(steps))}. Results: {escape(str(directory))}")
    with terminate_as_interrupt():
        _carry_out(campaign, steps, json)
    for record in campaign.failed:
        warn(f"{record.experiment} {record.point}: {(record.error or {}).get('reason', '')}")
    if not json:
        say("Draw it: tepbft lab report" + ("" if directory == DEFAULT_FOLDER else f" --dir {directory}"))
    raise typer.Exit(FAILED if campaign.failed else OK)


def _line(record: Record) -> str:
    """What became of a point, for a person."""
    where = f"{record.experiment} {record.point}"
    if record.result is None:
        return f"{where}: failed, {(record.error or {}).get('reason', '')}"
    latency = record.result["latency_ms"]
    limited = " (limited by the load)" if record.result["limited_by_client"] else ""
    return (
        f"{where}: {record.result['tps']:,.0f} requests/s{limited}, median {latency['p50']:,.1f} ms, "
        f"{record.took_s:.0f} s"
    )


def _carry_out(campaign: Campaign, steps: Sequence[Step], json: bool) -> None:
    """With a bar over the points where somebody watches, and a line per point."""
    console = prose()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("Beginning", total=len(steps))
        names = iter([f"{step.experiment.name} {step.point.name}" for step in steps[1:]])
        at = f"{steps[0].experiment.name} {steps[0].point.name}"

        def tell(text: str) -> None:
            bar.update(task, description=escape(f"{at}: {text}"[:70]))

        campaign.tell = tell
        for record in campaign.run(steps):
            at = next(names, at)
            bar.advance(task)
            bar.console.print(escape(_line(record)), soft_wrap=True)
            if json:
                emit(
                    {
                        "experiment": record.experiment,
                        "point": record.point,
                        "repeat": record.repeat,
                        "took_s": record.took_s,
                        "result": record.result,
                        "error": record.error,
                    }
                )


@group.command(name="report")
def report_command(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="OUT", help="Where the raw results are.")
    ] = DEFAULT_FOLDER,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: OUT/report.html.")
    ] = None,
) -> None:
    """Draw the results: one page of HTML that needs nothing from anywhere else.

    [bold]Examples[/bold]

      tepbft lab report
      tepbft lab report --dir lab-results -o report.html
    """
    from tepbft.lab.report import render_report  # the drawing library takes a second to load

    target = output if output is not None else directory / "report.html"
    write_file(target, render_report(directory).encode())
    say(f"Drawn: {escape(str(target))}")


@group.command(name="history")
def history_command(
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The history.")] = HISTORY_FILE,
    add: Annotated[
        bool, typer.Option("--add", help="Measure first, and add the figures (two minutes).")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Draw it: out.svg or out.html.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output.")
    ] = False,
) -> None:
    """A few key figures over time: with which commit, when, and on which machine.

    [bold]Examples[/bold]

      tepbft lab history --add               measure, add, and show
      tepbft lab history -o history.html     draw
    """
    if output is not None and output.suffix not in (".svg", ".html"):
        raise TepbftError(str(output), "pictures are .svg or .html", "Name it so.", exit_code=2)
    if add:
        with terminate_as_interrupt():
            measure_entry(file, say)
    entries = read_history(file)
    if not entries:
        raise TepbftError(str(file), "there is no history in it", "Begin one: tepbft lab history --add")
    if json:
        for entry in entries:
            emit(entry.record())
    else:
        columns, rows = recent_rows(entries)
        page().print(table("key figures (†: limited by the load)", columns, rows))
    if output is not None:
        from tepbft.lab.history_plot import render_history

        write_file(output, render_history(entries, html=output.suffix == ".html").encode())
        say(f"Drawn: {escape(str(output))}")


def register(app: typer.Typer) -> None:
    """Add this group to the command line."""
    app.add_typer(group, name="lab")
