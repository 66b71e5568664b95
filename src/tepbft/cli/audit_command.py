"""`audit`: does a node's store say what the chain's rules and signatures say it must?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from tepbft.audit import AuditReport, audit_store
from tepbft.audit.report import Progress
from tepbft.cli.cluster import open_node
from tepbft.cli.output import FAILED, OK, emit, page, progress, table
from tepbft.execution.loader import load_application

_SHOWN = 50


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def audit_folder(folder: Path, notify: Progress = _quiet) -> AuditReport:
    """Audit the store of one node's folder against the genesis that lies there."""
    layout, genesis = open_node(folder)
    return audit_store(layout.store, genesis, load_application(genesis.app), progress=notify)


def _show(report: AuditReport, folder: Path) -> None:
    console = page()
    rows = [
        ("blocks executed again", f"{report.heights_checked} (above height {report.from_height})"),
        ("up to height", report.to_height),
        ("final up to height", report.committed_height),
        ("records read", report.records),
        ("findings", len(report.findings)),
    ]
    console.print(table(f"audit of {folder}", ["what", ">count"], rows))
    if report.findings:
        findings = [
            (finding.where, "-" if finding.height is None else finding.height, finding.what)
            for finding in report.findings[:_SHOWN]
        ]
        console.print(table("findings", ["where", ">height", "what"], findings))
        if len(report.findings) > _SHOWN:
            console.print(f"… and {len(report.findings) - _SHOWN} more (--json lists them)")
    for skipped in report.skipped:
        console.print(f"[yellow]not checked:[/yellow] {escape(skipped)}", soft_wrap=True)
    if report.ok:
        console.print("[green]ok[/green]: nothing wrong in what was checked", soft_wrap=True)
    else:
        console.print(
            "[red]damaged[/red]: do not start the node on this store. Move the store folder away "
            "and start it: it fetches the ledger from its peers",
            soft_wrap=True,
        )


def audit(
    folder: Annotated[Path, typer.Argument(metavar="DIR/nodeK", help="A node's folder.", show_default=False)],
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output.")
    ] = False,
) -> None:
    """Check a node's whole ledger: bytes, signatures, certificates, and every block executed again.

    Nothing is changed. It is complete on a stopped node; beside a running one it says what it left out.
    Exit code 0 if nothing is wrong, 1 if something is.

    [bold]Examples[/bold]

      tepbft audit ledger/node0
      tepbft audit ledger/node0 --json
    """
    with progress(enabled=not json) as bar:
        task = bar.add_task("Audit", total=None)
        report = audit_folder(
            folder,
            lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total),
        )
    if json:
        emit(msgspec.to_builtins(report))
    else:
        _show(report, folder)
    raise typer.Exit(OK if report.ok else FAILED)


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(audit)
