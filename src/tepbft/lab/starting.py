"""Nodes that are not started as `tepbft up` does it: another module runs them, for a measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from tepbft.cli.processes import log_tail, node_pid, start_node, wait_until
from tepbft.errors import TepbftError
from tepbft.runtime.layout import NodeLayout

START_TIMEOUT_S = 30.0


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
