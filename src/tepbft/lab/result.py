"""What a benchmark found. The JSON keys are a contract: scripts and reports read them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tepbft.lab.options import BenchOptions


class BenchResult(Struct, frozen=True, kw_only=True):
    """Figures of one run, over the measured window."""

    options: BenchOptions
    tps: float
    """Operations per second whose outcome f+1 nodes reported alike: those of a bundle count one by one,
    here and below."""
    latency_ms: dict[str, float]
    """p50, p95, p99, max, mean. Open loop: from when the request was due."""
    limit_tps: float | None
    """cores / (n * t_verify), with t_sign added for the share of requests that clients signed during the
    run; None for `none`."""
    ratio: float | None
    """tps / limit_tps."""
    t_verify_us: float
    """Under the load of the run where that saturates the cores, otherwise before and after it."""
    t_verify_around_us: float = 0.0
    """Before and after the run, with every core busy verifying."""
    t_verify_range_us: list[float] = []
    """Least and greatest sample of `t_verify_us` under load: a wide range says that the machine changed
    its speed; zeros where it was not measured under load."""
    t_sign_us: float
    signed_live: int
    cpu_us_per_tx_per_replica: float
    """CPU time of correct nodes and their trusted components, per operation and node."""
    trusted_cpu_us_per_tx_per_replica: float
    """The trusted components' part of it."""
    load_cpu_us_per_tx: float
    rss_mb_max: float
    rss_series: list[tuple[float, int]]
    disk_bytes_per_tx: float
    """Growth of one correct node's store per operation."""
    messages_per_tx: dict[str, float]
    """Sent by all correct nodes together, by type, to nodes and clients."""
    bytes_per_tx: dict[str, float]
    view_changes: int
    """In the window and the drain."""
    view_changes_before: int = 0
    """Between the start and the window."""
    gap_ms: float
    """The longest time in the window without any answer."""
    replicas_agree: bool
    """Whether all correct nodes came to report one head, executed and stable."""
    byzantine_nodes: list[int] = msgspec.field(default_factory=list)
    committed: int
    refused: int
    shed: int
    busy: int
    """Requests that were repeated after a BUSY."""
    due: int
    lost: int
    """Operations that were still without an answer when the drain ended."""
    retransmitted: int
    """Requests that were repeated because nobody answered."""
    limited_by_client: bool
    """True: the load could not be generated fast enough. `tps` is then no peak of the cluster."""
    seconds: float
    timeline: list[int]
    """Answers per 100 ms, from the beginning of the window."""
    cores: int
    machine: dict[str, Any]
    stolen_share: float = 0.0
    """Share of all processors' time in the window that a hypervisor gave to others: throughput and `ratio`
    are lower by it."""
    verification: str
    extension: bool = False
    """Whether the nodes used the compiled extension."""
    errors: list[str]
    started_at: str
    commit: str

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found
