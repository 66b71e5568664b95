"""Quantities that are drawn and listed, each read off the record of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Result = Mapping[str, Any]
"""A `BenchResult`, as JSON has it."""


@dataclass(frozen=True)
class Metric:
    """One quantity."""

    label: str
    unit: str
    read: Callable[[Result], float | None]
    digits: int = 0

    @property
    def axis(self) -> str:
        """Label with unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    def text(self, value: float | None) -> str:
        """A value for a table."""
        return "–" if value is None else f"{value:,.{self.digits}f}"


@dataclass(frozen=True)
class Spread:
    """A quantity over the repeats of a point."""

    middle: float
    low: float
    high: float
    count: int


def _nodes_that_ran(result: Result) -> int:
    options = result["options"]
    return int(options["nodes"]) - int(options["crashed"])


def _machine_load(result: Result) -> float:
    per_tx_us = result["cpu_us_per_tx_per_replica"] * _nodes_that_ran(result) + result["load_cpu_us_per_tx"]
    return float(per_tx_us * result["tps"] / 1e6 / result["cores"] * 100)


ORDERING = ("Prepare", "Commit", "Outcome")


def _ordering_messages(result: Result) -> float:
    """The request itself, and what the paper's formula counts."""
    return 1.0 + float(sum(result["messages_per_tx"].get(kind, 0.0) for kind in ORDERING))


def _other_messages(result: Result) -> float:
    return float(sum(count for kind, count in result["messages_per_tx"].items() if kind not in ORDERING))


def _shed(result: Result) -> float | None:
    due = result["due"]
    return 100 * max(0.0, 1 - float(result["committed"]) / due) if due else None


def _latency(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["latency_ms"][name])


def _plain(name: str) -> Callable[[Result], float | None]:
    def read(result: Result) -> float | None:
        value: float | None = result[name]
        return value

    return read


METRICS: dict[str, Metric] = {
    "tps": Metric("throughput", "requests/s", _plain("tps")),
    "due": Metric("due", "requests/s", lambda result: result["options"]["rate"] or None),
    "limit_tps": Metric("limit", "requests/s", _plain("limit_tps")),
    "ratio": Metric("share of limit", "", _plain("ratio"), 2),
    "p50": Metric("median latency", "ms", _latency("p50"), 1),
    "p99": Metric("latency at 99 %", "ms", _latency("p99"), 1),
    "mean": Metric("mean latency", "ms", _latency("mean"), 1),
    "cpu_us": Metric("CPU per request, node", "µs", _plain("cpu_us_per_tx_per_replica"), 1),
    "tc_us": Metric("of it component", "µs", _plain("trusted_cpu_us_per_tx_per_replica"), 1),
    "cores_per_node": Metric(
        "CPU of node + component",
        "cores",
        lambda result: result["cpu_us_per_tx_per_replica"] * result["tps"] / 1e6,
        3,
    ),
    "machine": Metric("machine used", "%", _machine_load),
    "rss_mb": Metric("resident memory", "MiB", _plain("rss_mb_max"), 1),
    "disk_bytes": Metric("disk per request and node", "bytes", _plain("disk_bytes_per_tx")),
    "gap_ms": Metric("longest gap", "ms", _plain("gap_ms")),
    "view_changes": Metric("view changes", "", _plain("view_changes")),
    "before": Metric("before the window", "", lambda result: result.get("view_changes_before") or None),
    "messages": Metric("messages per request", "", _ordering_messages, 1),
    "other_messages": Metric("checkpoints, status etc.", "", _other_messages, 1),
    "shed": Metric("not answered in time", "%", _shed, 1),
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "tps": ("due", "tps", "limit_tps", "ratio", "cpu_us", "machine"),
    "p50_p99": ("due", "p50", "mean", "p99"),
    "cores_per_node": ("tps", "cores_per_node", "machine", "cpu_us", "tc_us"),
    "rss_mb": ("tps", "rss_mb"),
    "cpu_us": ("tps", "cpu_us", "tc_us"),
    "disk_bytes": ("disk_bytes",),
    "gap_ms": ("gap_ms", "view_changes", "before", "p99"),
    "messages": ("messages", "other_messages"),
    "shed": ("due", "tps", "shed"),
    "timeline": ("tps", "cpu_us", "disk_bytes", "p50", "p99"),
    "rss_series": ("rss_mb",),
}
"""What stands in the table under a figure of a metric."""


def spread(name: str, results: list[Result]) -> Spread | None:
    """Median and extremes over repeats; None if no run has the quantity."""
    values = [value for result in results if (value := METRICS[name].read(result)) is not None]
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))
