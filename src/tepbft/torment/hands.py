"""What is done to one node: kill, stop, starve of disk, and undo. Each process by its own pid."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path

from tepbft.cli.cluster import NodeFolder
from tepbft.cli.processes import KILL_TIMEOUT_S, alive, node_pid, send_signal, start_node, wait_until
from tepbft.errors import TepbftError
from tepbft.storage.segments import written_to
from tepbft.trusted.client import device_pid

STOP_TIMEOUT_S = 10.0
START_ATTEMPTS = 3


def _sizes(folder: Path) -> int:
    """The size of the largest file right in `folder`."""
    largest = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            largest = max(largest, path.stat().st_size)
    return largest


class Hands:
    """One node. Methods block; what is done can be undone by `release`."""

    def __init__(self, folder: NodeFolder) -> None:
        self.folder = folder
        self.layout = folder.layout
        self._stopped: set[int] = set()
        self._limits: dict[int, tuple[int, int]] = {}
        self.expected_down = False
        """Whether it is our doing that no process runs."""

    @property
    def name(self) -> str:
        """`node0`, …"""
        return self.folder.name

    def pid(self) -> int | None:
        """The node's process."""
        return node_pid(self.layout)

    def component(self) -> int | None:
        """The component's process."""
        return device_pid(self.layout.trusted)

    # --- processes ----------------------------------------------------------------------------

    def kill(self, *, node: bool, component: bool) -> None:
        """SIGKILL at the same moment, then wait until they are gone."""
        found = [self.pid() if node else None, self.component() if component else None]
        pids = [pid for pid in found if pid is not None]
        if node:
            self.expected_down = True
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        if not wait_until(lambda: not any(alive(pid) for pid in pids), KILL_TIMEOUT_S):
            raise TepbftError(
                self.name, "it did not end after SIGKILL", "Look for a disk that does not answer."
            )

    def start(self) -> None:
        """Start the node, and wait until its process holds its folder. TepbftError if it does not."""
        for _ in range(START_ATTEMPTS):
            if self.pid() is not None:
                break
            process = start_node(self.layout)
            wait_until(lambda: self.pid() is not None or process.poll() is not None, STOP_TIMEOUT_S)  # noqa: B023
        if self.pid() is None:
            raise TepbftError(self.name, "it does not start", f"Look into {self.layout.log}.")
        self.expected_down = False

    def pause(self, *, component: bool) -> None:
        """SIGSTOP."""
        pid = self.component() if component else self.pid()
        if pid is not None:
            self._stopped.add(pid)
            send_signal(pid, signal.SIGSTOP)

    # --- disk ---------------------------------------------------------------------------------

    def fill_disk(self) -> bool:
        """Let no file of the node be written beyond its journal's records; False if it does not run.

        A limit on the size of files looks to the journal as a full disk does. The database beside
        it is spared (a database that met a full disk waits for a real one to empty): where one of
        its files is the larger, the journal has to reach that size first.
        """
        pid = self.pid()
        segments = sorted((self.layout.store / "journal").glob("*.log"))
        if pid is None or not segments:
            return False
        size = max(written_to(segments[-1]), _sizes(self.layout.store / "state"))
        try:
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
        except (ProcessLookupError, PermissionError):
            return False
        self._limits[pid] = before
        return True

    # --- undo ---------------------------------------------------------------------------------

    def release(self) -> None:
        """Go on after a pause, and give the disk back."""
        for pid in self._stopped:
            send_signal(pid, signal.SIGCONT)
        self._stopped.clear()
        for pid, limits in self._limits.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        self._limits.clear()


def raise_open_files() -> None:
    """As many descriptors as this process may have: a relay needs four per connection."""
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
