"""What an application sees of the state while one operation runs.

Keys of an application live under the prefix `a` of the state. The writes of an
operation go to a table of their own, which joins the block's only if the
operation is not refused. Bounds keep a block's write-set, and so its records and
snapshots, below what storage and transfer accept; to exceed one is a refusal, the
same on every replica.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tepbft.errors import OperationRefused
from tepbft.execution.overlay import Overlay, SortedView
from tepbft.types import MAX_CHUNK_BYTES, Height

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = MAX_CHUNK_BYTES - 4096
"""A key and a value together must fit into one snapshot chunk."""
MAX_OPERATION_WRITES = 4096
"""Distinct keys that one operation may change."""
MAX_BLOCK_WRITE_BYTES = 32 << 20
"""Keys and values that the operations of one block may write, overwritten ones included."""


class BlockContext:
    """The `execution.port.Context` of one block; used for its operations one after another."""

    __slots__ = (
        "_block",
        "_block_view",
        "_bytes",
        "_committed_bytes",
        "_overlay",
        "_own",
        "client",
        "height",
        "seed",
        "timestamp_ms",
    )

    def __init__(self, overlay: Overlay, height: Height, timestamp_ms: int, seed: bytes) -> None:
        self._overlay = overlay
        self._block: dict[bytes, bytes | None] = {}
        self._block_view = SortedView(self._block)
        self._own: dict[bytes, bytes | None] = {}
        self._bytes = 0
        self._committed_bytes = 0
        self.height = height
        self.timestamp_ms = timestamp_ms
        self.seed = seed
        self.client = b""

    # --- the application's side ---------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Value under `key`, or None."""
        full = b"a" + key
        if full in self._own:
            return self._own[full]
        if full in self._block:
            return self._block[full]
        return self._overlay.get(full)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`; OperationRefused beyond the bounds of this module."""
        if type(value) is not bytes:
            raise TypeError("a value must be bytes")
        size, own = len(value), self._own
        full = b"a" + key
        total = self._bytes + len(full) + size
        if (
            size > MAX_VALUE_BYTES
            or len(full) > MAX_KEY_BYTES
            or total > MAX_BLOCK_WRITE_BYTES
            or len(own) >= MAX_OPERATION_WRITES
        ):
            self._check(full, size, total)
        self._bytes = total
        own[full] = value

    def delete(self, key: bytes) -> None:
        """Remove `key`, if it is there."""
        full = b"a" + key
        total = self._bytes + len(full)
        self._check(full, 0, total)
        self._bytes = total
        self._own[full] = None

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """At most `limit` pairs with start <= key < end, in key order, as they are at the call."""
        views = (SortedView(self._own), self._block_view) if self._own else (self._block_view,)
        pairs = self._overlay.scan(b"a" + start, b"a" + end, views)
        return iter([(key[1:], value) for key, value in islice(pairs, max(0, limit))])

    def _check(self, full: bytes, size: int, total: int) -> None:
        """Whether a write is within bounds, exactly."""
        if size > MAX_VALUE_BYTES:
            raise OperationRefused(f"a value may have at most {MAX_VALUE_BYTES} bytes")
        if len(full) > MAX_KEY_BYTES + 1:
            raise OperationRefused(f"a key may have at most {MAX_KEY_BYTES} bytes")
        if len(self._own) >= MAX_OPERATION_WRITES and full not in self._own:
            raise OperationRefused(f"an operation may change at most {MAX_OPERATION_WRITES} keys")
        if total > MAX_BLOCK_WRITE_BYTES:
            raise OperationRefused(f"a block may write at most {MAX_BLOCK_WRITE_BYTES} bytes")

    # --- the executor's side ------------------------------------------------------------------

    def commit(self) -> None:
        """The operation took effect: its writes are the block's."""
        if self._own:
            self._block.update(self._own)
            self._own.clear()
            self._committed_bytes = self._bytes

    def discard(self) -> None:
        """The operation was refused: forget its writes."""
        self._own.clear()
        self._bytes = self._committed_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes of keys and values that committed operations wrote, overwritten ones included."""
        return self._committed_bytes

    def block_writes(self) -> dict[bytes, bytes | None]:
        """Everything committed: keys in the order in which they were first written, with their last
        values. Execution is deterministic, and so is this order. The table is the caller's from now on."""
        return self._block
