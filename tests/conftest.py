"""Options of the whole test suite."""

from __future__ import annotations

import os
import re
import signal

import pytest

# A shell starts what goes to the background with interrupts ignored, and processes inherit that: tests that
# interrupt one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run side by side, and stop and start clusters: none may take the ports of one that is stopped.
_WORKER = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
_SHARE = 12_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ["TEPBFT_PORTS"] = f"{20_000 + _WORKER * _SHARE}-{20_000 + (_WORKER + 1) * _SHARE - 1}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: transcripts are written anew instead of compared."""
    parser.addoption(
        "--rewrite",
        action="store_true",
        default=False,
        help="write down what happens in the transcripts of tests/scenarios instead of comparing",
    )
