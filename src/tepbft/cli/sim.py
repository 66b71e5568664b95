"""`sim`: seeds of the deterministic simulator, the hunt for planted defects, and pictures of runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn

from tepbft.cli.client_commands import write_file
from tepbft.cli.output import FAILED, OK, emit, page, progress, say, table
from tepbft.errors import TepbftError
from tepbft.sim.campaign import (
    LAST_SEED,
    Hunt,
    Report,
    Seeds,
    campaign_of_one,
    hunt_mutant,
    run_campaign,
)
from tepbft.sim.job import Job, run_job
from tepbft.sim.mutants import MUTANTS
from tepbft.sim.reduction import parse_reduction
from tepbft.sim.show import render_html, render_svg
from tepbft.sim.tracefile import read_trace, write_trace
from tepbft.sim.workers import broken, make_workers

DEFAULT_SEEDS = "0..99"
_SHOWN_FAILURES = 10
_SEEDS = re.compile(r"(\d{1,18})(?:(\.\.)(\d{1,18})?)?")

group = typer.Typer(name="sim", invoke_without_command=True, no_args_is_help=False)


def parse_seeds(text: str) -> tuple[int, int]:
    """`A..B` (both included), `A..` (without end) or `A`."""
    found = _SEEDS.fullmatch(text.strip())
    if found is None:
        raise TepbftError(
            f"--seeds {text}", "it is not a range of seeds", "Write A..B, such as 0..999.", exit_code=2
        )
    first = int(found[1])
    last = int(found[3]) if found[3] else (LAST_SEED if found[2] else first)
    if last < first:
        raise TepbftError(f"--seeds {text}", "it is empty", "Write the smaller seed first.", exit_code=2)
    return first, last


def _usage(thing: str, reason: str, remedy: str) -> TepbftError:
    return TepbftError(thing, reason, remedy, exit_code=2)


# --- what a person sees -------------------------------------------------------------------------------


@contextmanager
def _bar(description: str, total: int | None, enabled: bool) -> Iterator[tuple[Progress, Any]]:
    bar = progress(enabled=enabled)
    bar.columns = (*bar.columns, TextColumn("{task.fields[rate]}"))
    with bar:
        yield bar, bar.add_task(description, total=total, rate="")


def _show_coverage(report: Report) -> None:
    missed = report.missed
    floors = report.floors
    rows = []
    for name, count in report.coverage.items():
        if not count and name not in floors:
            continue
        floor = str(floors.get(name, ""))
        rows.append((name, f"{count:,}", f"[red]{floor}[/red]" if name in missed else floor))
    console = page()
    console.print(table("what it exercised", ["counter", ">count", ">at least"], rows))
    nothing = [name for name, count in report.coverage.items() if not count and name not in floors]
    if nothing:
        console.print(f"never: {', '.join(nothing)}", soft_wrap=True)


def _show_report(report: Report) -> None:
    console = page()
    _show_coverage(report)
    console.print(
        f"{report.seeds:,} seeds of {report.job.node_count} nodes, faults {report.job.faults.name}, "
        f"{report.elapsed_s:.1f} s: {report.seeds_per_second:.1f} seeds/s; "
        f"{report.view_changes:,} view changes, {report.view_changes_per_minute:,.0f} per core minute; "
        f"{report.job.signatures} signatures; trace hash {report.trace_hash}",
        soft_wrap=True,
    )
    for failure in report.failures[:_SHOWN_FAILURES]:
        console.print(
            f"\n[red]{escape(failure.check)}[/red] in seed {failure.seed} at {failure.at_ms} ms: "
            f"{escape(failure.detail)}",
            soft_wrap=True,
        )
        console.print(f"  again:  {escape(failure.replay)}", soft_wrap=True)
        if failure.shrunk:
            console.print(f"  shrunk: {escape(failure.shrunk)}", soft_wrap=True)
        for line in failure.schedule:
            console.print(f"    {escape(line)}", soft_wrap=True)
    if report.violations > _SHOWN_FAILURES:
        console.print(f"\n… {report.violations} violations in all (--json lists more)")
    for name, (found, required) in report.missed.items():
        console.print(f"[yellow]too little[/yellow]: {name} {found}, at least {required} expected")
    if report.error is not None:
        console.print(f"[red]broken[/red]: {escape(str(report.error))}", soft_wrap=True)
    if report.interrupted:
        console.print("[yellow]interrupted[/yellow]: this is what was found so far")
    elif report.exit_code == OK:
        console.print("[green]ok[/green]: nothing was violated")


def _finish(report: Report, json: bool) -> typer.Exit:
    if json:
        emit(report.record())
    else:
        _show_report(report)
    return typer.Exit(report.exit_code)


# --- the three ways to run ----------------------------------------------------------------------------


def _campaign(job: Job, seeds: Seeds, workers: str | None, json: bool, shrink: bool) -> typer.Exit:
    with _bar("seeds", seeds.count, not json) as (bar, task):

        def watch(report: Report) -> None:
            found = f"{report.seeds_per_second:.1f} seeds/s, {report.violations} violations"
            bar.update(task, completed=report.seeds, rate=found)

        report = run_campaign(job, seeds, make_workers(workers), watch)
    if report.failed and shrink and not json:
        say(f"{report.violations} violations; making the first of them small …")
    _explain(report, shrink)
    return _finish(report, json)


def _explain(report: Report, shrink: bool) -> None:
    """Shrink what failed; Ctrl-C then means: as it is, please."""
    try:
        report.explain(shrink=shrink and not report.interrupted)
    except KeyboardInterrupt:
        report.interrupted = True
        report.failures.clear()
        report.explain(shrink=False)


def _one(job: Job, seed: int, trace: Path | None, json: bool, shrink: bool) -> typer.Exit:
    try:
        run = write_trace(job, seed, trace) if trace is not None else run_job(job, seed)
    except TepbftError:
        raise
    except Exception as error:
        raise broken(seed, error) from error
    if trace is not None and not json:
        say(f"Written: {escape(str(trace))} (draw it: tepbft sim show {escape(str(trace))} -o run.html)")
    if job.mutant is not None and json:
        hunt = Hunt(job.mutant, None if run.result.ok else run, 1, job)
        emit(hunt.record() | {"trace_hash": run.result.trace_hash})
        return typer.Exit(OK if run.result.ok else FAILED)
    report = campaign_of_one(job, run)
    _explain(report, shrink and trace is None)
    return _finish(report, json)


def _hunt(job: Job, seeds: Seeds, workers: str | None, json: bool) -> typer.Exit:
    with _bar(f"hunting {job.mutant}", seeds.count, not json) as (bar, task):
        hunt = hunt_mutant(job, seeds, make_workers(workers), lambda done: bar.update(task, completed=done))
    if json:
        emit(hunt.record())
        return typer.Exit(FAILED if hunt.caught is not None else OK)
    console = page()
    if hunt.caught is None:
        console.print(f"[yellow]{hunt.mutant} survived[/yellow] {hunt.seeds_run} seeds")
        return typer.Exit(OK)
    violation = hunt.caught.result.violations[0]
    console.print(
        f"[green]{hunt.mutant} is caught[/green] by {escape(str(violation))}, in seed "
        f"{hunt.caught.result.seed}, the {hunt.seeds_run}. that was run",
        soft_wrap=True,
    )
    console.print(f"  again: {escape(job.command(hunt.caught.result.seed))}", soft_wrap=True)
    return typer.Exit(FAILED)


def _list_mutants(json: bool) -> None:
    found = [
        {"name": name, "check": mutant.check, "budget_seeds": mutant.budget_seeds}
        for name, mutant in MUTANTS.items()
    ]
    if json:
        emit({"mutants": found})
    else:
        rows = [(m["name"], m["check"], m["budget_seeds"]) for m in found]
        page().print(table("planted defects", ["name", "caught by", ">within seeds"], rows))


def _seeds(job: Job, seeds: str | None, minutes: float | None) -> Seeds:
    limit_s = 60 * minutes if minutes is not None else None
    if seeds is not None:
        first, last = parse_seeds(seeds)
    elif job.mutant is not None:
        first, last = 0, int(MUTANTS[job.mutant].budget_seeds) - 1
    else:
        first, last = parse_seeds("0.." if minutes is not None else DEFAULT_SEEDS)
    if last == LAST_SEED and limit_s is None:
        raise _usage("--seeds A..", "it has no end", "Say when to stop: --minutes M, or --seeds A..B.")
    return Seeds(first, last, limit_s)


# --- the command --------------------------------------------------------------------------------------

Protocol = Annotated[str, typer.Option(help="Which protocol.")]
Nodes = Annotated[int | None, typer.Option("--nodes", help="Nodes: 2f+1 (default: 3).")]
SeedRange = Annotated[
    str | None, typer.Option("--seeds", metavar="A..B", help="Seeds, both included (default: 0..99).")
]
OneSeed = Annotated[int | None, typer.Option("--seed", metavar="S", help="One seed alone.", min=0)]
Faults = Annotated[
    str | None, typer.Option("--faults", metavar="PROFILE", help="What goes wrong (default: everything).")
]
Mutant = Annotated[
    str | None, typer.Option("--mutant", metavar="NAME", help="Plant this defect in the code first.")
]
Strategies = Annotated[
    str | None,
    typer.Option("--strategies", metavar="A,B", help="How Byzantine hosts may behave (default: all)."),
]
Minutes = Annotated[
    float | None, typer.Option("--minutes", metavar="M", help="Stop after so long.", min=0.01)
]
WorkersOption = Annotated[
    str | None,
    typer.Option("--workers", metavar="W|dask://HOST:PORT", help="Processes (default: one per core)."),
]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Write the events of --seed here.")
]
Signatures = Annotated[str, typer.Option(help="stub (fast) or real.")]
Shrunk = Annotated[
    str | None,
    typer.Option("--shrunk", metavar="TEXT", help="Leave trouble out, as a failed run printed it."),
]
Shrink = Annotated[bool, typer.Option(help="Make failing runs small.")]
ListMutants = Annotated[
    bool, typer.Option("--list-mutants", help="The planted defects, and what must catch them.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]


@group.callback()
def sim(
    context: typer.Context,
    protocol: Protocol = "tep",
    nodes: Nodes = None,
    seeds: SeedRange = None,
    seed: OneSeed = None,
    faults: Faults = None,
    mutant: Mutant = None,
    strategies: Strategies = None,
    minutes: Minutes = None,
    workers: WorkersOption = None,
    trace: TraceFile = None,
    signatures: Signatures = "stub",
    shrunk: Shrunk = None,
    shrink: Shrink = True,
    list_mutants: ListMutants = False,
    json: Json = False,
) -> None:
    """Run seeds of the simulator: a seed decides every delay, loss, crash, clock and lie.

    Exit codes: 0 nothing found, 1 an invariant is violated (or the planted defect is caught), 2 wrong
    usage, 3 the campaign itself is broken (it exercised too little, or a worker was lost).

    [bold]Examples[/bold]

      tepbft sim --nodes 3 --seeds 0..999
      tepbft sim --nodes 5 --faults byzantine --minutes 10 --seeds 5000..
      tepbft sim --seed 17 --trace run.jsonl
      tepbft sim show run.jsonl -o run.html
      tepbft sim --list-mutants
    """
    if context.invoked_subcommand is not None:
        return
    if list_mutants:
        _list_mutants(json)
        return
    if seed is not None and (seeds is not None or minutes is not None):
        raise _usage("--seed", "it runs one seed alone", "Leave --seeds and --minutes away.")
    if trace is not None and seed is None:
        raise _usage("--trace", "a trace is of one seed", "Name it: --seed S.")
    job = _job(Job(protocol, nodes, faults, None, mutant, signatures), strategies, shrunk)
    if seed is not None:
        raise _one(job, seed, trace, json, shrink)
    chosen = _seeds(job, seeds, minutes)
    if mutant is not None:
        raise _hunt(job, chosen, workers, json)
    raise _campaign(job, chosen, workers, json, shrink)


def _job(job: Job, strategies: str | None, shrunk: str | None) -> Job:
    """The job with what has to be read first; every name in it is known."""
    if strategies is not None:
        job = replace(job, strategies=tuple(name for name in strategies.split(",") if name))
    job.check()
    return job if shrunk is None else replace(job, reduction=parse_reduction(shrunk))


@group.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace (sim --trace).", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="out.svg or out.html (default: FILE.svg)."),
    ] = None,
    from_ms: Annotated[int, typer.Option("--from", metavar="MS", help="Begin here.", min=0)] = 0,
    to_ms: Annotated[int | None, typer.Option("--to", metavar="MS", help="End here.", min=0)] = None,
) -> None:
    """Draw a trace as a sequence diagram: a lane per node, an arrow per message.

    An HTML page can hide message types; it needs nothing from anywhere else, nor does the SVG.

    [bold]Examples[/bold]

      tepbft sim show run.jsonl -o run.svg
      tepbft sim show run.jsonl -o run.html --from 1000 --to 2500
    """
    target = output if output is not None else file.with_name(file.name + ".svg")
    if target.suffix not in (".svg", ".html"):
        raise _usage(str(target), "pictures are .svg or .html", "Name it so.")
    if to_ms is not None and to_ms < from_ms:
        raise _usage("--to", "it is before --from", "Name a later moment.")
    found = read_trace(file)
    render = render_svg if target.suffix == ".svg" else render_html
    write_file(target, render(found, from_ms, to_ms).encode())
    say(f"Drawn: {escape(str(target))}")


def register(app: typer.Typer) -> None:
    """Add this group to the command line."""
    app.add_typer(group, name="sim")
