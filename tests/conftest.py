"""Options of the whole test suite."""

from __future__ import annotations

import signal

import pytest

# A shell starts what goes to the background with interrupts ignored, and processes inherit that: tests that
# interrupt one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: transcripts are written anew instead of compared."""
    parser.addoption(
        "--rewrite",
        action="store_true",
        default=False,
        help="write down what happens in the transcripts of tests/scenarios instead of comparing",
    )
