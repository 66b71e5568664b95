"""Options of the whole test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: transcripts are written anew instead of compared."""
    parser.addoption(
        "--rewrite",
        action="store_true",
        default=False,
        help="write down what happens in the transcripts of tests/scenarios instead of comparing",
    )
