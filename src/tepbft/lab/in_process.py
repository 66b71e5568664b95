"""A node with its trusted component inside its own process: what the process boundary costs, measured.

    python -m tepbft.lab.in_process FOLDER

It protects nothing: whoever takes over the node has the component's key. It exists for experiments, and
nothing but a benchmark starts it. The component is the same, restored from its sealed state; only the way
to it is a function call instead of a socket.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tepbft.lab.starting import INSIDE_MODULE, run_command
from tepbft.runtime.process import run_node
from tepbft.trusted.device import open_platform, start_component
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Identity, TcAnswer, TcRequest


class InsideDevice:
    """What a connection to a component does (`runtime.core.Device`), without a connection."""

    outlives_host = False

    def __init__(self, component: HbUsig) -> None:
        self._component = component
        self._answers: list[TcAnswer] = []

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

    def ask(self, requests: list[TcRequest]) -> None:
        """Carry out requests in order."""
        self._answers = [self._component.call(request) for request in requests]

    def answers(self) -> list[TcAnswer]:
        """What came of them."""
        return self._answers

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


def run(folder: str) -> int:
    """Run the node of `folder`, as `runtime.process.run_node` does; its exit code."""
    return run_node(Path(folder), launcher_for=InsideLauncher)


if __name__ == "__main__":
    sys.exit(run_command(f"python -m {INSIDE_MODULE} FOLDER", run, 1))
