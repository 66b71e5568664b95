"""How long one signature takes while the cluster is under load, which is when it matters.

    python -m tepbft.lab.companion SCHEME NODES

The speed of a shared machine changes within seconds, and what was measured before and after a run need
not hold in between; nor are its cores equally fast. So a process verifies a few signatures ten times a
second beside the nodes, on one core after the other, all of which they keep busy, and takes about a
hundredth of one. It says `ready`, begins and ends with a line on standard input, and then prints the
microseconds of each sample.

A sample is the median of several short parts, each by the clock of the thread, after as many signatures
that do not count: so neither waiting for a core nor caches that others filled are taken for verification.
Every part is of other signatures, as nodes meet them (`lab.calibrate`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import harmonic_mean, median
from types import TracebackType

import msgspec

from tepbft.core.requests import Hashed
from tepbft.lab.calibrate import BATCH, Workbench

INTERVAL_S = 0.15
WARM, PARTS, PART = 14, 3, 6
"""Signatures before a sample that do not count; parts of a sample, and signatures of a part."""
SIGNATURES = WARM + PARTS * PART
TIMEOUT_S = 30.0


def sample(bench: Workbench, opened: Hashed, begin: int = 0) -> float:
    """Microseconds of one core per signature, here and now: `SIGNATURES` of them from `begin` on."""
    requests, digests = opened
    warm_to = begin + WARM
    bench.verify(requests[begin:warm_to], digests[begin:warm_to])
    parts = []
    for first in range(warm_to, warm_to + PARTS * PART, PART):
        part = requests[first : first + PART], digests[first : first + PART]
        started = time.thread_time_ns()
        bench.verify(*part)
        parts.append((time.thread_time_ns() - started) / PART / 1000)
    return median(parts)


def main() -> int:
    """The process; exit code 0."""
    bench = Workbench(sys.argv[1], int(sys.argv[2]))
    opened = bench.open(bench.sign())
    sample(bench, opened)
    print("ready", flush=True)
    samples: list[float] = []
    if sys.stdin.buffer.readline():
        places = itertools.cycle(range(0, BATCH - SIGNATURES + 1, SIGNATURES))
        for core, begin in zip(itertools.cycle(sorted(os.sched_getaffinity(0))), places, strict=False):
            if select.select([sys.stdin], [], [], INTERVAL_S)[0]:
                break
            os.sched_setaffinity(0, {core})
            samples.append(sample(bench, opened, begin))
    print(msgspec.json.encode(samples).decode(), flush=True)
    return 0


class Companion:
    """The process, from outside; an async context manager. Without it (`scheme` is None) or if it
    fails, `end` finds nothing: what was measured before and after the run has to do."""

    def __init__(self, scheme: str | None, nodes: int) -> None:
        self._arguments = (scheme, str(nodes)) if scheme is not None else None
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Companion:
        if self._arguments is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                *self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            await self._line()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                return await self._process.stdout.readline()
        return b""

    def _tell(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(b"\n")

    def begin(self) -> None:
        """The window begins."""
        self._tell()

    async def end(self) -> list[float]:
        """The window is over: microseconds per signature of every sample in it."""
        if self._process is None:
            return []
        self._tell()
        try:
            return msgspec.json.decode(await self._line(), type=list[float])
        except msgspec.MsgspecError:
            return []


def mean_us(samples: Sequence[float], otherwise: float) -> float:
    """What the limit takes: the harmonic mean over the window, since throughput is a mean of rates;
    `otherwise` without samples."""
    return harmonic_mean(samples) if samples else otherwise


if __name__ == "__main__":
    sys.exit(main())
