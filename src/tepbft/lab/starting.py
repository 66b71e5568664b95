"""Starting a benchmark's cluster; some of its nodes another way than `tepbft up` does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tepbft.cli.cluster import Cluster
from tepbft.cli.creation import Plan, check_plan
from tepbft.cli.lifecycle import raise_cluster
from tepbft.cli.processes import log_tail, node_pid, start_node, wait_until
from tepbft.core.configuration import Parameters
from tepbft.errors import TepbftError
from tepbft.execution.bundle import PREFIX as BUNDLES
from tepbft.lab.options import BUNDLE_OVERHEAD_BYTES, BenchOptions
from tepbft.runtime.layout import NodeLayout

BYZANTINE_MODULE = "tepbft.lab.byzantine_node"
INSIDE_MODULE = "tepbft.lab.in_process"
START_TIMEOUT_S = 30.0


def plan_for(options: BenchOptions, root: Path) -> Plan:
    """The cluster that `options` ask for; everything not named is as `tepbft init` has it."""
    changes: dict[str, Any] = {"strict_sequential": options.strict_sequential}
    if options.block_size is not None:
        changes["block_requests"] = options.block_size
        each = options.bundle * (options.payload + BUNDLE_OVERHEAD_BYTES) + 256
        changes["block_bytes"] = min(4 << 20, max(1 << 20, options.block_size * each))
    if options.checkpoint_interval is not None:
        interval = options.checkpoint_interval
        changes["checkpoint_interval"] = interval
        base = Parameters().snapshot_interval
        changes["snapshot_interval"] = interval * max(1, base // interval)
        changes["window"] = max(Parameters().window, 2 * interval)
    settings = list(options.settings)
    if options.in_flight is not None:
        settings.append(f"in_flight_blocks = {options.in_flight}")
        changes["window"] = max(changes.get("window", Parameters().window), options.in_flight)
    if not options.durable:
        settings.append("durable = false")
    return Plan(
        root=root,
        nodes=options.nodes,
        protocol=options.protocol,
        app=options.app if options.bundle == 1 else f"{BUNDLES}{options.app}",
        scheme=options.scheme,
        clients=options.clients,
        parameters=msgspec.structs.replace(Parameters(), **changes),
        settings=tuple(settings),
    )


def checked_plan(options: BenchOptions, root: Path) -> Plan:
    """`plan_for`; TepbftError with exit code 2 if it cannot become a cluster."""
    plan = plan_for(options, root)
    try:
        check_plan(plan)
    except TepbftError as error:
        raise TepbftError(error.thing, error.reason, error.remedy, exit_code=2) from None
    return plan


def start_cluster(options: BenchOptions, cluster: Cluster) -> None:
    """Bring up the nodes that shall run, each as `options` have it; TepbftError if no writes come of it."""
    layouts = {folder.node: folder.layout for folder in cluster.nodes}
    start_with(BYZANTINE_MODULE, [layouts[node] for node in options.liars], options.strategy)
    if options.in_process:
        start_with(INSIDE_MODULE, [layouts[node] for node in options.correct])
    raised = raise_cluster(cluster, list(options.running) if options.crashed else None)
    if not raised.verdict.writes:
        raise TepbftError(
            "cluster", f"it did not get ready: {raised.verdict.text}", "Look into the nodes' logs."
        )


def start_with(module: str, layouts: Sequence[NodeLayout], *arguments: str) -> None:
    """Start nodes by `python -m module FOLDER arguments…` and wait until each holds its folder: from then
    on `raise_cluster` takes them for nodes that run. TepbftError if one does not."""
    started = [(layout, start_node(layout, module, *arguments)) for layout in layouts]
    for layout, running in started:

        def decided(layout: NodeLayout = layout, running: subprocess.Popen[bytes] = running) -> bool:
            return node_pid(layout) is not None or running.poll() is not None

        if not wait_until(decided, START_TIMEOUT_S) or running.poll() is not None:
            raise TepbftError(
                str(layout.folder), f"it did not start: {log_tail(layout.log)}", f"Look into {layout.log}."
            )


def run_command(usage: str, run: Callable[..., int], count: int) -> int:
    """`run(*arguments)` of the command line, if there are `count` of them; the exit code."""
    arguments = sys.argv[1:]
    if len(arguments) != count:
        print(f"usage: {usage}", file=sys.stderr)
        return 2
    try:
        return run(*arguments)
    except TepbftError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
