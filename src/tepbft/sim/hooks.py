"""Which checkers want to be told what: a hook that nobody overrides costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tepbft.sim.ports import Checker

Hook = Callable[..., Any]


class Hooks:
    """Bound methods of the checkers, by the name of the hook."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        def those(name: str) -> list[Hook]:
            plain = getattr(Checker, name)
            return [getattr(c, name) for c in checkers if getattr(type(c), name) is not plain]

        self.on_statement = those("on_statement")
        self.on_request = those("on_request")
        self.on_records = those("on_records")
        self.on_executed = those("on_executed")
        self.on_step = those("on_step")
        self.on_notice = those("on_notice")
        self.on_message = those("on_message")
        self.on_start = those("on_start")
        self.on_outcome = those("on_outcome")
        self.on_interval = those("on_interval")
        self.on_end = those("on_end")
