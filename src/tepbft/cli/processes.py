"""Starting, finding and ending the processes of a cluster, each by its own pid.

A node runs in a session of its own, so that closing the terminal or Ctrl-C in
the command does not reach it. Nothing is ever ended by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tepbft.errors import TepbftError
from tepbft.runtime.layout import NodeLayout

NODE_MODULE = "tepbft.runtime.process"
STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 5
_POLL_S = 0.02
_started: list[subprocess.Popen[bytes]] = []
"""Nodes that this process started: one that has not written its pid file yet is known all the same."""


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Poll until `condition` holds; False if it did not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def alive(pid: int) -> bool:
    """True while the process runs; a zombie does not."""
    if not _exists(pid):
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return _exists(pid)  # the system does not tell, or somebody buried the zombie just now
    return state not in (b"Z", b"X")


def _command_line(pid: int) -> list[str]:
    """Arguments of a process; empty where the system does not tell."""
    try:
        return [os.fsdecode(part) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []


def read_pid(path: Path) -> int | None:
    """The pid in a file; None if there is none that could be one."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() and 1 < int(text) < 1 << 31 else None


def node_pid(layout: NodeLayout) -> int | None:
    """The pid of the node that runs on this folder; None if none does.

    A pid file may be older than the process that now has its number: the command line decides.
    """
    pid = read_pid(layout.pid)
    if pid is None or not alive(pid):
        return None
    arguments = _command_line(pid)
    if arguments and not any("tepbft" in argument for argument in arguments):
        return None
    return pid


def start_node(layout: NodeLayout, module: str = NODE_MODULE, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a node in the background: a session of its own, its output appended to its log. `module` is
    what runs; it takes the folder as its first argument, and `arguments`."""
    descriptor = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(layout.folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=layout.folder,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    _started[:] = [*(other for other in _started if other.poll() is None), process]
    return process


def log_tail(path: Path) -> str:
    """The last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return "no log"
    return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:]) or "an empty log"


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal one process; nothing happens if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill(pid: int) -> None:
    """SIGKILL, and wait until the process is gone."""
    send_signal(pid, signal.SIGKILL)
    if not wait_until(lambda: not alive(pid), KILL_TIMEOUT_S):
        raise TepbftError(
            f"process {pid}", "it did not end after SIGKILL", "Look for a disk that does not answer."
        )


def kill_started() -> None:
    """SIGKILL the nodes that this process started, and wait for them."""
    for process in _started:
        if process.poll() is None:
            process.kill()
            process.wait(KILL_TIMEOUT_S)
    _started.clear()


def stop_nodes(layouts: Iterable[NodeLayout], timeout_s: float = STOP_TIMEOUT_S) -> list[NodeLayout]:
    """SIGTERM all, wait, SIGKILL what is left. Returns those that had to be killed: safe, as a node
    that crashes loses nothing, but worth a word."""
    running = [(layout, pid) for layout in layouts if (pid := node_pid(layout)) is not None]
    for _, pid in running:
        send_signal(pid, signal.SIGTERM)
    wait_until(lambda: not any(alive(pid) for _, pid in running), timeout_s)
    stubborn = [(layout, pid) for layout, pid in running if alive(pid)]
    for _, pid in stubborn:
        kill(pid)
    return [layout for layout, _ in stubborn]
