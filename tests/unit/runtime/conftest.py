"""Tests with sockets run on asyncio's own loop and on uvloop, which nodes use where they can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

WITH_SOCKETS = ("test_runtime_peers", "test_runtime_clients")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Loop factories by name, for one test."""
    if item.path.stem in WITH_SOCKETS:
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}
