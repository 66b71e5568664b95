"""What processes have used, as the operating system counts it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path

from msgspec import Struct

from tepbft.runtime import verifying_worker

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(Struct, frozen=True):
    """Of one process: CPU seconds so far (user and system), resident bytes now."""

    cpu_s: float
    rss_bytes: int


def usage(pid: int) -> Usage | None:
    """None once the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE)


def verifying_workers(pid: int) -> list[int]:
    """The processes that verify signatures for a node; its other children are not its work."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_bytes().split()]
    return [child for child in found if _runs(child, verifying_worker.__name__)]


def _runs(pid: int, module: str) -> bool:
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def node_usage(pid: int) -> Usage | None:
    """Of a node with its workers; None once the node is gone."""
    own = usage(pid)
    if own is None:
        return None
    found = [own, *(of for worker in verifying_workers(pid) if (of := usage(worker)) is not None)]
    return Usage(sum(each.cpu_s for each in found), sum(each.rss_bytes for each in found))


def folder_bytes(folder: Path) -> int:
    """Bytes that the files below a folder occupy on disk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue  # it was replaced meanwhile
    return total


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor_time(stat: Path = Path("/proc/stat")) -> tuple[int, int]:
    """Of all processors since the machine started, in ticks: time that passed, and of it time that the
    hypervisor gave to others although there was work here; (0, 0) where the system does not say."""
    try:
        kind, *fields = stat.read_text(encoding="ascii").partition("\n")[0].split()
        ticks = [int(field) for field in fields[:8]]  # what follows is contained in these
    except (OSError, ValueError):
        return 0, 0
    return (sum(ticks), ticks[7]) if kind == "cpu" and len(ticks) == 8 else (0, 0)


def machine() -> dict[str, object]:
    """What a reader of figures must know about where they were taken."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory_kb = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        memory_kb = 0
    return {
        "cpu": model or platform.processor(),
        "cores": cores(),
        "memory_gib": round(memory_kb / (1 << 20), 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def current_commit() -> str:
    """The commit of this source tree; empty outside one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.decode("ascii", "replace").strip() if found.returncode == 0 else ""
