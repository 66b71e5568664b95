"""`demo`: five nodes, twenty thousand signed transactions, a murdered primary, and the proof afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.markup import escape

from tepbft.cli.cluster import open_cluster
from tepbft.cli.creation import Plan, create_cluster
from tepbft.cli.demo_app import APP_NAME
from tepbft.cli.demo_run import Demo, Result
from tepbft.cli.lifecycle import raise_cluster
from tepbft.cli.output import FAILED, OK, emit, page, say, table, warn
from tepbft.cli.processes import kill, kill_started, node_pid
from tepbft.cli.signals import terminate_as_interrupt
from tepbft.errors import TepbftError
from tepbft.runtime.layout import ClusterLayout
from tepbft.trusted.client import device_pid

MAX_TRANSACTIONS = 10_000_000
MAX_DEMO_CLIENTS = 256


def kill_everything(root: Path) -> None:
    """End every process of the cluster in `root`, by pid. For throwing a cluster away: nothing is sealed."""
    kill_started()
    for layout in ClusterLayout(root).nodes():
        with contextlib.suppress(TepbftError):
            for pid in (node_pid(layout), device_pid(layout.trusted)):
                if pid is not None:
                    kill(pid)


@contextlib.contextmanager
def demo_folder(folder: Path | None, keep: bool) -> Iterator[Path]:
    """A folder for the demo's cluster; its processes are ended afterwards, and it is removed unless kept."""
    root = folder.absolute() if folder is not None else Path(tempfile.mkdtemp(prefix="tepbft-demo-"))
    if folder is not None and root.exists() and any(root.iterdir()):
        raise TepbftError(str(root), "the folder is not empty", "Name a new or empty one.", exit_code=2)
    try:
        yield root
    finally:
        kill_everything(root)
        if keep:
            say(f"Kept: {escape(str(root))} (start it again: tepbft up {escape(str(root))})")
        else:
            shutil.rmtree(root, ignore_errors=True)


def show(result: Result) -> None:
    """What happened, for a person."""

    def mark(good: bool) -> str:
        return "[green]yes[/green]" if good else "[red]no[/red]"

    rows: list[tuple[str, str]] = [
        ("nodes", f"{result.nodes}, f = {(result.nodes - 1) // 2}"),
        ("committed", f"{result.committed:,} of {result.expected:,} requests ({result.failed} failed)"),
        ("of these notarized", f"{result.notarized} files of this program's own source"),
        ("of these refused by the bank", f"{result.refused:,} (insufficient funds: agreed outcomes too)"),
        ("killed half-way", f"{result.killed} (the primary) and its trusted component"),
        ("view changes", str(result.view_changes)),
        ("longest time without an outcome", f"{result.unavailable_ms:,.0f} ms"),
        ("came back with a new component", mark(result.readmitted)),
        ("all replicas agree", mark(result.replicas_agree)),
        ("audit of a whole chain", mark(result.audit_ok)),
        ("receipt verified offline", mark(result.receipt_ok)),
        ("throughput", f"{result.tps:,.0f} transactions per second"),
        ("latency", f"{result.p50_ms:,.1f} ms median, {result.p99_ms:,.1f} ms at 99 %"),
    ]
    console = page()
    console.print(table("tepbft demo", ["what", "outcome"], rows))
    for problem in result.problems:
        console.print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where (default: a temporary folder).")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the cluster's folder afterwards.")] = False,
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes: 2f+1.", min=3, max=64)] = 5,
    transactions: Annotated[
        int, typer.Option(help="Signed SmallBank transactions.", min=100, max=MAX_TRANSACTIONS)
    ] = 20_000,
    clients: Annotated[int, typer.Option(help="Clients.", min=1, max=MAX_DEMO_CLIENTS)] = 32,
    in_flight: Annotated[int, typer.Option(help="Requests in flight per client.", min=1, max=128)] = 16,
    seed: Annotated[int, typer.Option(help="Which transactions.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Only the line of JSON on standard output.")] = False,
) -> None:
    """See it survive: a cluster under load loses its primary and that node's trusted component.

    Five nodes execute 20,000 signed bank transactions of 32 clients and notarize this program's own
    source. Half-way the primary and its trusted component are killed with SIGKILL. The others go on;
    the node comes back, with a new component that the others admit, and catches up. Then all replicas
    are compared, one chain is audited from its first block, and a receipt is verified offline.

    The last line on standard output is one JSON object with the figures. Exit code 0 if everything held.

    [bold]Examples[/bold]

      tepbft demo
      tepbft demo --nodes 7 --transactions 50000 --keep --dir my-demo
    """
    with terminate_as_interrupt(), demo_folder(directory, keep) as root:
        say(f"Making {nodes} nodes in {escape(str(root))} …")
        create_cluster(Plan(root=root, nodes=nodes, app=APP_NAME, clients=clients + 1))
        cluster = open_cluster(root)
        raised = raise_cluster(cluster)
        if not raised.verdict.writes:
            raise TepbftError(
                "demo", f"the cluster did not get ready: {raised.verdict.text}", "Look into node.log."
            )
        run = Demo(cluster, transactions=transactions, clients=clients, in_flight=in_flight, seed=seed)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(run.load())
        run.settle(result)
    record: dict[str, Any] = result.record()
    if not json:
        show(result)
    emit(record)
    if not result.good:
        warn("something did not hold: see above")
    raise typer.Exit(OK if result.good else FAILED)


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(demo)
