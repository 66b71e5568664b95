"""A few key figures, appended with commit, date and machine: does the program get slower?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tepbft.errors import TepbftError
from tepbft.lab.bench import run_bench
from tepbft.lab.options import BenchOptions
from tepbft.lab.result import BenchResult
from tepbft.lab.usage import current_commit, machine

HISTORY_FILE = Path("bench/history.ndjson")
SHOWN = 20

KEY_FIGURES: dict[str, BenchOptions] = {
    "signed": BenchOptions(seconds=10, warmup_s=3),
    "unsigned": BenchOptions(scheme="none", seconds=10, warmup_s=3, clients=64, generators=2),
    "one client": BenchOptions(clients=1, seconds=10, warmup_s=3),
}
"""Throughput of three nodes with signatures and without, and the latency of one request at a time."""


class KeyFigure(Struct, frozen=True, kw_only=True):
    """One of them."""

    tps: float
    ratio: float | None
    p50_ms: float
    p99_ms: float
    cpu_us: float
    limited: bool = False


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the history."""

    at: str
    commit: str
    machine: dict[str, Any]
    figures: dict[str, KeyFigure]

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def key_figure(result: BenchResult) -> KeyFigure:
    """What the history keeps of a run; TepbftError if the run did not hold."""
    if not result.replicas_agree or result.errors:
        raise TepbftError(
            "benchmark", "; ".join(result.errors) or "the replicas do not agree", "Nothing was added."
        )
    return KeyFigure(
        tps=result.tps,
        ratio=result.ratio,
        p50_ms=result.latency_ms["p50"],
        p99_ms=result.latency_ms["p99"],
        cpu_us=result.cpu_us_per_tx_per_replica,
        limited=result.limited_by_client,
    )


def measure_entry(
    path: Path, tell: Callable[[str], None], bench: Callable[[BenchOptions], BenchResult] = run_bench
) -> Entry:
    """Measure all key figures, then add them as one line."""
    figures = {}
    for name, options in KEY_FIGURES.items():
        tell(f"Measuring: {name}")
        figures[name] = key_figure(bench(options))
    entry = Entry(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=current_commit(),
        machine=machine(),
        figures=figures,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(entry) + b"\n")
    return entry


def read_history(path: Path) -> list[Entry]:
    """All entries, oldest first; TepbftError for a line that is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Entry))
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise TepbftError(f"{path}, line {number}", f"it is damaged ({error})", "Remove it.") from None
    return found


def recent_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of the newest entries."""
    columns = ["when", "commit", ">signed", ">/ limit", ">unsigned", ">one client, p50", ">p99"]
    rows = []
    for entry in entries[-SHOWN:]:
        signed, unsigned, one = (entry.figures.get(name) for name in KEY_FIGURES)
        rows.append(
            [
                entry.at[:16].replace("T", " "),
                entry.commit[:8],
                _per_second(signed),
                f"{signed.ratio:.0%}" if signed and signed.ratio is not None else "–",
                _per_second(unsigned),
                f"{one.p50_ms:.1f} ms" if one else "–",
                f"{one.p99_ms:.1f} ms" if one else "–",
            ]
        )
    return columns, rows


def _per_second(figure: KeyFigure | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.tps:,.0f}/s" + (" †" if figure.limited else "")
