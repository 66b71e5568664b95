"""How a node sets up its interpreter: the event loop, and when garbage is looked for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable


def tame_garbage_collection() -> None:
    """What lives by now lives for good; what comes and goes with requests is freed by its references.
    So cycles are looked for seldom: the default would walk the whole pool every few blocks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
