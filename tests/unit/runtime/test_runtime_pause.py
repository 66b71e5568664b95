"""Waiting for something to do."""

from __future__ import annotations

import asyncio

from tepbft.runtime.pause import Pause


async def test_a_wait_ends_when_it_is_woken_and_a_wake_is_not_forgotten() -> None:
    pause = Pause()
    waiting = asyncio.ensure_future(pause.wait(60))
    await asyncio.sleep(0)
    assert not waiting.done()
    pause.wake()
    pause.wake()
    await waiting
    pause.wake()  # while nobody waits
    await asyncio.wait_for(pause.wait(60), 1)
    again = asyncio.ensure_future(pause.wait(60))
    await asyncio.sleep(0.01)
    assert not again.done()  # two wakes end one wait
    again.cancel()


async def test_a_wait_ends_by_time_also_after_a_longer_one_that_was_woken() -> None:
    pause, loop = Pause(), asyncio.get_running_loop()
    pause.wake()
    await pause.wait(30)
    began_s = loop.time()
    await pause.wait(0.02)
    assert 0.01 <= loop.time() - began_s < 5


async def test_a_task_that_is_cancelled_while_it_waits_leaves_the_pause_usable() -> None:
    pause = Pause()
    waiting = asyncio.ensure_future(pause.wait(60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    pause.wake()
    await asyncio.wait_for(pause.wait(60), 1)
