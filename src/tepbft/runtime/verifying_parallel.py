"""Ways to verify the signatures of a batch: in the calling thread, in several threads, in processes.

All are the same port and give the same answer on every input. They fork and join inside `verify`, so
that the node core, which calls it in the middle of a step, knows nothing of them and stays deterministic.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.crypto.port import RequestVerifier
from tepbft.runtime.verifying_worker import (
    decode_answer,
    encode_batch,
    encode_setup,
    receive_frame,
    send_frame,
)

MIN_PART_REQUESTS = 32
"""Smaller parts are not worth a thread's or a process's attention: this many signatures take about 1 ms."""
START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0
"""A worker that is silent for so long is given up: it does some 100,000 signatures in this time."""
_FAILURES = (OSError, EOFError, ValueError)
"""What talking to a worker that is gone, stands still or talks nonsense raises."""
log = structlog.get_logger("tepbft.verifying")


class NodeVerifier(RequestVerifier, Protocol):
    """A verifier of requests that may hold threads or processes."""

    def mode(self) -> str:
        """How it works at the moment, for `status`: `inline`, `3 threads`, `6 workers`."""
        ...

    def close(self) -> None:
        """End what it holds. `verify` is not called any more."""
        ...


def spans(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` requests in up to `parts` contiguous parts (start, end) of about the same size, at least
    `MIN_PART_REQUESTS` each; always one or more."""
    parts = max(1, min(parts, count // MIN_PART_REQUESTS))
    edges = [count * number // parts for number in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _check_lengths(digests: Sequence[bytes], requests: Sequence[Request]) -> None:
    if len(digests) != len(requests):  # parts of unequal lists could look equal
        raise ValueError(f"{len(digests)} digests for {len(requests)} requests")


class InlineVerifier:
    """The scheme's own verifier, in the calling thread."""

    def __init__(self, scheme: RequestVerifier) -> None:
        self.known = scheme.known
        self.verify = scheme.verify

    def mode(self) -> str:
        """See `NodeVerifier`."""
        return "inline"

    def close(self) -> None:
        """See `NodeVerifier`."""


class ThreadedVerifier:
    """The scheme's verifier in `threads` threads, of which the calling one is one: for a scheme whose
    library releases the GIL, and few threads, as what is left between two signatures holds it."""

    def __init__(self, scheme: RequestVerifier, threads: int) -> None:
        self.known = scheme.known
        self._scheme = scheme
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="verify")

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """See `RequestVerifier`. Small batches stay in the calling thread; so does all of it where the
        system has no thread to give."""
        first, *others = spans(len(requests), self._threads)
        if not others:
            return self._scheme.verify(digests, requests)
        _check_lengths(digests, requests)
        verify, submit = self._scheme.verify, self._pool.submit
        try:
            pending = [submit(verify, digests[start:end], requests[start:end]) for start, end in others]
        except RuntimeError:
            return verify(digests, requests)
        bad = verify(digests[: first[1]], requests[: first[1]])
        for (start, _), part in zip(others, pending, strict=True):
            bad += [start + index for index in part.result()]
        return bad

    def mode(self) -> str:
        """See `NodeVerifier`."""
        return f"{self._threads} threads"

    def close(self) -> None:
        """See `NodeVerifier`."""
        self._pool.shutdown()


class _Worker:
    """One process and the way to it."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tepbft.runtime.verifying_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's ^C is for the node alone, from the first moment
                cwd="/",
            )
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()

    def tell(self, content: bytes, deadline_s: float) -> None:
        """Send it something; one of `_FAILURES` if it is of no use any more."""
        self._sock.settimeout(max(0.0, deadline_s - time.monotonic()))
        send_frame(self._sock, content)

    def answer(self, count: int, deadline_s: float) -> list[int]:
        """Its answer to a batch of `count`; one of `_FAILURES` if it is of no use any more."""
        self._sock.settimeout(max(0.0, deadline_s - time.monotonic()))
        return decode_answer(receive_frame(self._sock), count)

    def close(self) -> None:
        """It ends by itself, if nothing is wrong with it."""
        self._sock.close()

    def end(self, patience_s: float) -> None:
        """Wait for its end, and bring it about if it does not come."""
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
            return
        self.process.kill()
        self.process.wait()


class WorkerVerifier:
    """The scheme's verifier in spawned processes, while the calling thread waits: for more cores than
    threads can use.

    A worker that dies, stands still or answers nonsense is dropped, with a warning; what it was asked is
    verified inline, and the node goes on with the others, inline when fewer than two are left. Nothing is
    started anew: what killed a worker (want of memory, somebody's mistake) is for a person to look at, and
    a restart of the node brings them back. Processes are started and ready when the constructor returns.
    Make it after the process was confined: they inherit what it gave up.
    """

    def __init__(
        self, scheme: RequestVerifier, name: str, clients: Sequence[RegisteredClient], count: int
    ) -> None:
        self.known = scheme.known
        self._scheme = scheme
        self._workers: list[_Worker] = []
        try:
            self._start(encode_setup(name, clients), count)
        except BaseException:
            self.close()
            raise

    def _start(self, setup: bytes, count: int) -> None:
        try:
            for _ in range(count):
                self._workers.append(_Worker())
        except OSError as error:
            log.warning("verification_worker_not_started", reason=str(error), started=len(self._workers))
        nothing = encode_batch([], [])
        deadline_s = time.monotonic() + START_TIMEOUT_S
        for worker in list(self._workers):
            try:
                worker.tell(setup, deadline_s)
                worker.tell(nothing, deadline_s)
            except _FAILURES as error:
                self._drop(worker, error)
        for worker in list(self._workers):
            try:
                worker.answer(0, deadline_s)
            except _FAILURES as error:
                self._drop(worker, error)

    def _drop(self, worker: _Worker, error: BaseException) -> None:
        self._workers.remove(worker)
        worker.end(0.0)
        pid, reason = worker.process.pid, str(error) or type(error).__name__
        log.warning("verification_worker_lost", pid=pid, reason=reason, left=len(self._workers))

    @property
    def pids(self) -> list[int]:
        """The processes that are there."""
        return [worker.process.pid for worker in self._workers]

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """See `RequestVerifier`. Small batches stay in the calling thread."""
        parts = spans(len(requests), len(self._workers))
        if len(parts) < 2:
            return self._scheme.verify(digests, requests)
        _check_lengths(digests, requests)
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        asked: list[_Worker | None] = []
        for worker, (start, end) in zip(list(self._workers), parts, strict=False):
            try:
                worker.tell(encode_batch(digests[start:end], requests[start:end]), deadline_s)
            except _FAILURES as error:
                self._drop(worker, error)
                asked.append(None)
            else:
                asked.append(worker)
        bad: list[int] = []
        for asked_worker, (start, end) in zip(asked, parts, strict=True):
            found = self._collect(asked_worker, end - start, deadline_s)
            if found is None:
                found = self._scheme.verify(digests[start:end], requests[start:end])
            bad += [start + index for index in found]
        return bad

    def _collect(self, worker: _Worker | None, count: int, deadline_s: float) -> list[int] | None:
        """The answer of a worker; None if there is none."""
        if worker is None:
            return None
        try:
            return worker.answer(count, deadline_s)
        except _FAILURES as error:
            self._drop(worker, error)
            return None

    def mode(self) -> str:
        """See `NodeVerifier`."""
        return f"{len(self._workers)} workers" if len(self._workers) > 1 else "inline"

    def close(self) -> None:
        """See `NodeVerifier`."""
        for worker in self._workers:
            worker.close()
        deadline_s = time.monotonic() + 2.0
        for worker in self._workers:
            worker.end(max(0.0, deadline_s - time.monotonic()))
        self._workers.clear()
