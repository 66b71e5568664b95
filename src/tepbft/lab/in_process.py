"""A node with its trusted component inside its own process: what the process boundary costs, measured.

    python -m tepbft.lab.in_process FOLDER

It protects nothing: whoever takes over the node has the component's key. It exists for experiments, and
nothing but a benchmark starts it. The component is the same, restored from its sealed state; only the way
to it is a function call instead of a socket.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tepbft.cli.processes import log_tail, node_pid, start_node, wait_until
from tepbft.errors import TepbftError
from tepbft.runtime import process
from tepbft.runtime.layout import NodeLayout
from tepbft.trusted.device import open_platform, start_component
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Identity, TcAnswer, TcRequest

MODULE = "tepbft.lab.in_process"
START_TIMEOUT_S = 30.0


class InsideDevice:
    """What a connection to a component does (`runtime.core.Device`), without a connection."""

    def __init__(self, component: HbUsig) -> None:
        self._component = component

    def identity(self) -> Identity:
        """Who it is."""
        return self._component.identity()

    def provision(
        self, chain_id: bytes, node: int, cfg: int, cfg_digest: bytes, floor: int, window: int
    ) -> None:
        """Bind a fresh component; a no-op on one that is bound to the same."""
        self._component.provision(chain_id, node, cfg, cfg_digest, floor, window)

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request."""
        return self._component.call(request)

    def call_many(self, requests: list[TcRequest]) -> list[TcAnswer]:
        """Carry out requests in order."""
        return [self._component.call(request) for request in requests]

    def close(self) -> None:
        """The component ends with the process."""


class InsideLauncher:
    """Stands where a node has the helper that starts its component's process."""

    def __init__(self, folder: Path) -> None:
        self._device = InsideDevice(start_component(folder, open_platform(folder)))

    def open_device(self) -> InsideDevice:
        """The component; always the same one."""
        return self._device

    def close(self) -> None:
        """Nothing is sealed: the cluster is thrown away."""


def start_inside(layouts: Sequence[NodeLayout]) -> None:
    """Start nodes of this kind and wait until each holds its folder; TepbftError if one does not."""
    started: list[tuple[NodeLayout, subprocess.Popen[bytes]]] = []
    for layout in layouts:
        started.append((layout, start_node(layout, MODULE)))
    for layout, running in started:

        def decided(layout: NodeLayout = layout, running: subprocess.Popen[bytes] = running) -> bool:
            return node_pid(layout) is not None or running.poll() is not None

        if not wait_until(decided, START_TIMEOUT_S) or running.poll() is not None:
            raise TepbftError(
                str(layout.folder), f"it did not start: {log_tail(layout.log)}", f"Look into {layout.log}."
            )


def main() -> int:
    """The node of a folder, in the foreground."""
    vars(process)["Launcher"] = InsideLauncher  # the one place where a node makes its way to a component
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
