"""What a person sees and what a machine reads, kept apart.

With `--json` standard output carries one JSON object per line and nothing else;
prose, progress and errors for people always go to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tepbft.errors import TepbftError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes of every command."""


def prose() -> Console:
    """The console on standard error: prose, warnings, progress."""
    return Console(stderr=True, highlight=False)


def page() -> Console:
    """The console on standard output: what a person asked to see."""
    return Console(highlight=False)


def emit(record: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line of prose on standard error; `text` may carry rich markup."""
    prose().print(text, soft_wrap=True)


def warn(text: str) -> None:
    """A warning on standard error; `text` is plain."""
    prose().print(f"[yellow]Warning:[/yellow] {escape(text)}", soft_wrap=True)


def error_record(error: TepbftError) -> dict[str, Any]:
    """The JSON form of an error."""
    return {"error": {"thing": error.thing, "reason": error.reason, "remedy": error.remedy}}


def show_error(error: TepbftError) -> None:
    """What is wrong, why, and what to do about it: on standard error, without a traceback."""
    console = prose()
    console.print(f"[red]Error:[/red] [bold]{escape(error.thing)}[/bold]", soft_wrap=True)
    console.print(f"  why:  {escape(error.reason)}", soft_wrap=True)
    console.print(f"  then: {escape(error.remedy)}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain values; columns whose name starts with `>` are aligned right."""
    built = Table(
        title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        side: JustifyMethod = "right" if name.startswith(">") else "left"
        built.add_column(name.lstrip(">"), justify=side, overflow="fold")
    for row in rows:
        built.add_row(*(cell if isinstance(cell, str) else str(cell) for cell in row))
    return built


def progress(*, enabled: bool = True) -> Progress:
    """A progress bar on standard error that vanishes when done; silent where nobody watches."""
    console = prose()
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    )


def short(hexadecimal: str, digits: int = 8) -> str:
    """The start of a long hexadecimal name, for a table."""
    return hexadecimal[:digits]
