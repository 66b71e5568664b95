"""Results as a benchmark makes them, without a benchmark."""

from __future__ import annotations

from typing import Any

from tepbft.lab.options import BenchOptions
from tepbft.lab.result import BenchResult


def a_result(options: BenchOptions | None = None, **changes: Any) -> BenchResult:
    """A plausible result of `options`; `changes` replace fields."""
    options = options or BenchOptions()
    tps = options.rate or 8000.0 / options.nodes
    values: dict[str, Any] = {
        "options": options,
        "tps": tps,
        "latency_ms": {"p50": 10.0, "p95": 20.0, "p99": 30.0, "max": 40.0, "mean": 12.0},
        "limit_tps": None if options.scheme == "none" else 40_000 / options.nodes,
        "ratio": None if options.scheme == "none" else tps * options.nodes / 40_000,
        "t_verify_us": 25.0,
        "t_sign_us": 30.0,
        "signed_live": 0,
        "cpu_us_per_tx_per_replica": 40.0,
        "trusted_cpu_us_per_tx_per_replica": 1.5,
        "load_cpu_us_per_tx": 4.0,
        "rss_mb_max": 80.0,
        "rss_series": [(0.0, 70 << 20), (0.5, 75 << 20), (1.0, 80 << 20)],
        "disk_bytes_per_tx": 400.0,
        "messages_per_tx": {"Prepare": 2.0, "Commit": 4.0, "Outcome": 3.0, "Checkpoint": 6.0},
        "bytes_per_tx": {"Prepare": 300.0, "Commit": 200.0, "Outcome": 50.0, "Checkpoint": 100.0},
        "view_changes": 0,
        "view_changes_before": 1 if options.strategy.startswith("primary") else 0,
        "gap_ms": 12.0,
        "replicas_agree": True,
        "committed": int(tps * 3),
        "refused": 0,
        "shed": 0,
        "busy": 0,
        "due": int(options.rate * 3),
        "lost": 0,
        "retransmitted": 0,
        "limited_by_client": False,
        "seconds": 3.0,
        "timeline": [int(tps / 10)] * 30,
        "cores": 2,
        "machine": {"cpu": "a <processor>", "cores": 2, "memory_gib": 8.0, "system": "Linux", "python": "3"},
        "verification": "inline",
        "errors": [],
        "started_at": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
    }
    return BenchResult(**{**values, **changes})
