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
from tepbft.execution.writes import Writes
from tepbft.types import MAX_CHUNK_BYTES, Height

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = MAX_CHUNK_BYTES - 4096
"""A key and a value together must fit into one snapshot chunk."""
MAX_OPERATION_WRITES = 4096
"""Distinct keys that one operation may change."""
MAX_BLOCK_WRITE_BYTES = 32 << 20
"""Keys and values that the operations of one block may write, overwritten ones included."""


class BlockContext(Writes):
    """The `execution.port.Context` of one block; used for its operations one after another. What is hot,
    `put` and `commit`, is in `Writes`."""

    __slots__ = ("_block_view", "_overlay", "height", "seed", "timestamp_ms")

    def __init__(self, overlay: Overlay, height: Height, timestamp_ms: int, seed: bytes) -> None:
        super().__init__(MAX_VALUE_BYTES, MAX_KEY_BYTES, MAX_BLOCK_WRITE_BYTES, MAX_OPERATION_WRITES)
        self._overlay = overlay
        self._block_view = SortedView(self._block)
        self.height = height
        self.timestamp_ms = timestamp_ms
        self.seed = seed

    # --- the application's side ---------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Value under `key`, or None."""
        full, own = b"a" + key, self._own
        if full in own:
            return own[full]
        if full in self._block:
            return self._block[full]
        return self._overlay.get(full)

    def delete(self, key: bytes) -> None:
        """Remove `key`, if it is there."""
        full = b"a" + key
        total = self._bytes + len(full)
        self._check(full, 0, total)
        self._bytes = total
        self._own[full] = None

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """At most `limit` pairs with start <= key < end, in key order, as they are at the call."""
        own = self._own
        views = (SortedView(own), self._block_view) if own else (self._block_view,)
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

    @property
    def written_bytes(self) -> int:
        """Bytes of keys and values that committed operations wrote, overwritten ones included."""
        return self._committed_bytes

    def block_writes(self) -> dict[bytes, bytes | None]:
        """Everything committed: keys in the order in which they were first written, with their last
        values. Execution is deterministic, and so is this order. The table is the caller's from now on."""
        return self._block
