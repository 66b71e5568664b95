"""The application port: what a user implements, in about ten lines.

An application is deterministic: no clock, no randomness, no files; everything it
knows comes from the operation and the context. It raises `OperationRefused` to
decline, which is an outcome that is ordered and provable like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tepbft.errors import OperationRefused

__all__ = ["Application", "Context", "OperationRefused"]


class Context(Protocol):
    """What an operation may read and change. Reads see the operation's own writes."""

    height: int
    """Height of the block that is executed."""
    timestamp_ms: int
    """Agreed time of the block, Unix milliseconds; never goes back."""
    seed: bytes
    """32 bytes that nobody could choose before the block's parent was agreed; for derived randomness."""
    client: bytes
    """Identity (16 bytes) of the client that signed the operation."""

    def get(self, key: bytes) -> bytes | None:
        """Value under `key`, or None."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove `key`, if it is there."""
        ...

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """At most `limit` pairs with start <= key < end, in key order."""
        ...


class Application(Protocol):
    """Deterministic state machine. Construct without arguments; keep no state of your own."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out one operation and return its result. Raise `OperationRefused` to decline:
        its message becomes the result, and none of the operation's writes take effect."""
        ...
