"""What a benchmark shall do, and whether that makes sense."""

from __future__ import annotations

from msgspec import Struct

from tepbft.cli.creation import MAX_CLIENTS, MIN_NODES, PROTOCOLS
from tepbft.core.quorum import quorums
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import TepbftError
from tepbft.lab.byzantine import PRIMARY, STRATEGIES
from tepbft.lab.workload import APPLICATIONS
from tepbft.types import MAX_NODES, MAX_OPERATION_BYTES

MOST_PIPELINE, LEAST_PIPELINE, WAITING_S = 256, 16, 0.32
"""By default clients keep as many requests waiting as the limit lets through in `WAITING_S`, within these
bounds for each: enough for full blocks, and not so many that nodes would decline them."""
SATURATING = 64
"""Closed loops with fewer requests under way wait most of the time."""
MAX_SECONDS = 24 * 3600
BUNDLE_OVERHEAD_BYTES = 16
"""What one more operation adds to a bundle beside its payload, at most."""


class BenchOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One benchmark. None means: as a cluster has it by default."""

    nodes: int = 3
    protocol: str = "tep"
    scheme: str = "secp256k1"
    app: str = "kv"
    payload: int = 100
    """Bytes of an operation. Operations are what is counted: requests too, but in bundles."""
    clients: int = 32
    pipeline: int | None = None
    """Requests that a closed-loop client keeps outstanding; default 1 for a single client, else 128 with
    up to five nodes and fewer with more."""
    rate: float = 0
    """Operations per second that are due (open loop); 0: as many as are answered (closed loop)."""
    seconds: float = 10
    warmup_s: float = 3
    drain_s: float = 15
    transactions: int | None = None
    """End the window after about so many operations instead of `seconds` (closed loop)."""
    block_size: int | None = None
    in_flight: int | None = None
    checkpoint_interval: int | None = None
    bundle: int = 1
    """Operations under one signature: above 1 the application is `bundle:APP`."""
    byzantine: str = ""
    """`K:STRATEGY` (`lab.byzantine`): the last K backups that run are Byzantine; of a strategy whose
    name begins with `primary_`, node 0 and the last K-1."""
    crashed: int = 0
    """Nodes that are stopped before the load begins."""
    strict_sequential: bool = False
    in_process: bool = False
    """The trusted component inside the node's process (a measurement only: it protects nothing there)."""
    durable: bool = True
    kill_primary_after_s: float | None = None
    """Seconds into the window after which the primary is killed."""
    generators: int = 1
    """Load processes."""
    seed: int = 1
    settings: tuple[str, ...] = ()
    """Lines of TOML for every node.toml."""

    def outstanding_per_client(self, limit_per_s: float | None) -> int:
        """`pipeline`, or its default where signatures let so many requests through in a second (None: there
        is no such limit)."""
        if self.pipeline is not None:
            return self.pipeline
        if self.clients == 1:
            return 1
        share = MOST_PIPELINE if limit_per_s is None else int(limit_per_s * WAITING_S / self.clients)
        return max(LEAST_PIPELINE, min(MOST_PIPELINE, share))

    @property
    def saturating(self) -> bool:
        """True if the load is meant to keep the cores busy."""
        return not self.rate and self.clients * self.outstanding_per_client(None) >= SATURATING

    @property
    def byzantine_nodes(self) -> int:
        """K of `byzantine`; 0 if there are none."""
        count, _, _ = self.byzantine.partition(":")
        return int(count) if count.isascii() and count.isdecimal() else 0

    @property
    def strategy(self) -> str:
        """STRATEGY of `byzantine`."""
        return self.byzantine.partition(":")[2]

    @property
    def running(self) -> tuple[int, ...]:
        """Nodes that are started: the last `crashed` are not."""
        return tuple(range(self.nodes - self.crashed))

    @property
    def liars(self) -> tuple[int, ...]:
        """The Byzantine nodes."""
        first = self.byzantine_nodes > 0 and self.strategy.startswith(PRIMARY)
        backups = self.byzantine_nodes - first
        return ((0,) if first else ()) + self.running[len(self.running) - backups :]

    @property
    def correct(self) -> tuple[int, ...]:
        """Nodes that run and are not Byzantine."""
        return tuple(node for node in self.running if node not in self.liars)


def _usage(thing: str, reason: str, remedy: str) -> TepbftError:
    return TepbftError(thing, reason, remedy, exit_code=2)


def check_options(options: BenchOptions, strategies: tuple[str, ...] = STRATEGIES) -> None:
    """Refuse (TepbftError, exit code 2) what cannot be measured, before anything is started."""
    if not MIN_NODES <= options.nodes <= MAX_NODES:
        raise _usage("--nodes", f"{options.nodes} is outside {MIN_NODES}..{MAX_NODES}", "Take 3, 5, 7, 9, …")
    for flag, value, known in (
        ("--protocol", options.protocol, PROTOCOLS),
        ("--scheme", options.scheme, tuple(SCHEMES)),
        ("--app", options.app, APPLICATIONS),
    ):
        if value not in known:
            raise _usage(flag, f"{value!r} is not known", f"Choose: {', '.join(known)}.")
    for flag, number, low, high in (
        ("--payload", options.payload, 1, MAX_OPERATION_BYTES),
        ("--clients", options.clients, 1, MAX_CLIENTS),
        ("--pipeline", options.outstanding_per_client(None), 1, 1024),
        ("--seconds", options.seconds, 0.1, MAX_SECONDS),
        ("--warmup", options.warmup_s, 0, MAX_SECONDS),
        ("--bundle", options.bundle, 1, 1024),
        ("--generators", options.generators, 1, options.clients),
        ("--rate", options.rate, 0, 10_000_000),
    ):
        if not low <= number <= high:
            raise _usage(flag, f"{number:g} is outside {low:g}..{high:g}", "Choose a number within.")
    request_bytes = options.bundle * (options.payload + BUNDLE_OVERHEAD_BYTES)
    if options.bundle > 1 and request_bytes > MAX_OPERATION_BYTES:
        raise _usage(
            "--bundle",
            f"{options.bundle} operations of {options.payload} bytes make more than {MAX_OPERATION_BYTES}",
            "Take fewer in a bundle, or a smaller --payload.",
        )
    _check_faults(options, strategies)


def _check_faults(options: BenchOptions, strategies: tuple[str, ...]) -> None:
    sizes = quorums(options.nodes)
    strategy = options.strategy
    if options.byzantine:
        if not options.byzantine_nodes or not strategy:
            raise _usage("--byzantine", f"{options.byzantine!r} is not K:STRATEGY", "For example 1:silent.")
        if strategy not in strategies:
            raise _usage("--byzantine", f"{strategy!r} is not known", f"Choose: {', '.join(strategies)}.")
    if options.crashed < 0 or options.crashed + options.byzantine_nodes > sizes.f:
        raise _usage(
            "--crashed and --byzantine",
            f"{options.crashed} + {options.byzantine_nodes} nodes are faulty, and {options.nodes} nodes "
            f"survive {sizes.f}",
            "Take fewer faulty nodes, or more nodes.",
        )
    if options.kill_primary_after_s is not None and options.crashed + options.byzantine_nodes + 1 > sizes.f:
        raise _usage("--kill-primary", "with it more than f nodes are faulty", "Take fewer faulty nodes.")
    if options.kill_primary_after_s is not None and not 0 < options.kill_primary_after_s < options.seconds:
        raise _usage("--kill-primary", "it is outside the measured window", "Take a time below --seconds.")
    if options.transactions is not None and (options.rate > 0 or options.transactions < 1):
        raise _usage("--transactions", "it goes with a closed loop, and is at least 1", "Leave out --rate.")
