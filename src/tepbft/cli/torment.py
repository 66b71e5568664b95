"""`torment`: break a running cluster in every way that it promises to survive, and check that it did."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tepbft.cli.cluster import open_cluster
from tepbft.cli.output import FAILED, OK, emit, page, progress, say, table, warn
from tepbft.torment.plan import KINDS, check_kinds
from tepbft.torment.run import Options, Result, torment

MAX_MINUTES = 7 * 24 * 60
MAX_CLIENTS = 64


def show(result: Result) -> None:
    """What was done, and what came of it, for a person."""

    def mark(good: bool) -> str:
        return "[green]yes[/green]" if good else "[red]no[/red]"

    console = page()
    rows = [(kind, KINDS[kind], count) for kind, count in result.faults.items()]
    console.print(table("faults", ["fault", "what happened", ">times"], rows))
    outcome = [
        ("operations", f"{result.operations:,}, {result.acknowledged:,} of them acknowledged"),
        ("acknowledged and lost", f"{result.lost}"),
        ("took effect more than once", f"{result.twice}"),
        ("one chain on all nodes", f"{mark(not result.forked)} ({result.blocks:,} blocks compared)"),
        ("linearizable", "[yellow]undecided[/yellow]" if result.undecided else mark(result.linearizable)),
        ("healed by itself", mark(result.healed)),
        ("longest time without an outcome", f"{result.unavailable_ms:,.0f} ms"),
        ("views changed", f"{result.view_changes:,}"),
        ("seed", f"{result.options.seed}"),
    ]
    console.print(table("outcome", ["what", "found"], outcome))
    for problem in result.problems:
        console.print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)


def torment_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a running kv cluster.", show_default=False)
    ],
    minutes: Annotated[float, typer.Option(help="How long.", min=0.05, max=MAX_MINUTES)] = 5.0,
    seed: Annotated[
        int | None, typer.Option(help="Which faults, in which order (default: a new one, which is told).")
    ] = None,
    clients: Annotated[
        int, typer.Option(help="Clients; each needs a key of its own.", min=1, max=MAX_CLIENTS)
    ] = 4,
    only: Annotated[str, typer.Option(metavar="KIND,…", help=f"Only these faults: {', '.join(KINDS)}.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell every fault.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Only the line of JSON on standard output.")] = False,
) -> None:
    """Break a running cluster, up to f nodes at a time, under load; heal it; check what it promised.

    Nodes and trusted components are killed and stopped, links are cut and slowed by relays between the
    nodes, disks are full. At the end: nothing acknowledged is lost or done twice, all disks hold one
    chain, the clients' history is linearizable, and every node has come back without help.

    The nodes restart at the beginning and at the end. The cluster is up afterwards, with its settings as
    they were; its ledger keeps what the load wrote, under keys that begin with "torment/".

    The last line on standard output is one JSON object. Exit code 0 if everything held.

    [bold]Examples[/bold]

      tepbft torment ledger --minutes 10 --seed 7
      tepbft torment ledger --only kill,crash --clients 8
    """
    kinds = check_kinds([word for word in only.replace(" ", "").split(",") if word])
    chosen = secrets.randbelow(1 << 31) if seed is None else seed
    seconds = minutes * 60
    if seed is None:
        say(f"Seed: {chosen}")
    with progress(enabled=not json) as bar:
        task = bar.add_task("Starting", total=round(seconds))
        result = torment(
            open_cluster(directory),
            Options(minutes, chosen, clients, kinds),
            lambda done, what: bar.update(task, completed=round(done), description=what[:60]),
            lambda text: say(escape(text)) if verbose else bar.update(task, description=text[:60]),
        )
    if not json:
        show(result)
    emit(result.record())
    if not result.good:
        warn(f"something did not hold (seed {chosen}): see above")
    raise typer.Exit(OK if result.good else FAILED)


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(name="torment")(torment_command)
