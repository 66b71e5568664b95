"""Signals that unwind a command, so that what it started is ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came. A class of its own: after a plain KeyboardInterrupt that passes through an
    `exec` of source (dataclasses and attrs generate methods so), `python -m` ends by SIGINT, whatever exit
    code was asked for."""


def _interrupt(_number: int, _frame: object) -> None:
    raise Interrupted


def exit_code_survives_interrupt() -> None:
    """Ctrl-C raises `Interrupted`, for as long as this process lives. Where SIGINT is ignored (a job in the
    background of a shell) it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
