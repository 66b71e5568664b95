"""Where in the protocol a message stands: the words on an arrow of a diagram."""

from __future__ import annotations

from typing import Any

Place = tuple[int, int, int]
"""(configuration, view, height); -1 where a message has none."""


def place_of(message: Any) -> Place:
    """Configuration, view and height that a protocol message is about."""
    about = message
    for name in ("head", "certificate", "block", "header"):
        inner = getattr(message, name, None)
        if inner is not None:
            about = inner
            break
    return (
        _first(message, about, "cfg"),
        _first(message, about, "view", "to", "target"),
        _first(message, about, "height", "base", "executed", "above"),
    )


def _first(message: Any, about: Any, *names: str) -> int:
    for source in (message, about):
        for name in names:
            value = getattr(source, name, None)
            if isinstance(value, int):
                return value
    return -1
