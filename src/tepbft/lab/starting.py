"""Starting a benchmark's cluster; some of its nodes another way than `tepbft up` does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from tepbft.cli.cluster import Cluster
from tepbft.cli.lifecycle import raise_cluster
from tepbft.cli.processes import log_tail, node_pid, start_node, wait_until
from tepbft.errors import TepbftError
from tepbft.lab.options import BenchOptions
from tepbft.runtime.layout import NodeLayout

BYZANTINE_MODULE = "tepbft.lab.byzantine_node"
INSIDE_MODULE = "tepbft.lab.in_process"
START_TIMEOUT_S = 30.0


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
