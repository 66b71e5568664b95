"""Waiting until there is something to do, for one task: less than an event and a timer cost each time."""

from __future__ import annotations

import asyncio


class Pause:
    """One task waits, anybody wakes it. A wake while nobody waits ends the next wait at once."""

    __slots__ = ("_alarm", "_alarm_s", "_waiter", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = 0.0
        """When `_alarm` ends a wait. It outlasts waits that end before: most do."""

    def wake(self) -> None:
        """There is something to do."""
        if not self._woken:
            self._woken = True
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until somebody wakes this, or for that long; perhaps less."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        if self._alarm is None or until_s < self._alarm_s:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm, self._alarm_s = loop.call_at(until_s, self._ring), until_s
        if not self._woken:
            self._waiter = loop.create_future()
            await self._waiter
        self._woken = False

    def _ring(self) -> None:
        self._alarm = None
        self.wake()
