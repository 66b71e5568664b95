"""What an operation writes while it runs, apart until it is known to take effect; and a block's digest of it.

The extension (ADR 0018) has a twin of everything here, which is taken where it is at hand.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from tepbft.native import AVAILABLE, native

_encode = msgspec.msgpack.Encoder().encode


class PlainWrites:
    """Base of the context in which operations run: their writes, one operation after another.

    `_own` holds those of the operation at hand, `_block` those of all that took effect, by full key of the
    state. `_bytes` counts what was written, `_committed_bytes` without the operation at hand. A write that
    may be beyond a bound is put to `_check(full key, size of the value, bytes with it)`, which raises.
    """

    __slots__ = ("_block", "_bytes", "_committed_bytes", "_limits", "_own", "client")

    def __init__(self, max_value: int, max_key: int, max_bytes: int, max_writes: int) -> None:
        self._limits = max_value, max_key, max_bytes, max_writes
        self._block: dict[bytes, bytes | None] = {}
        self._own: dict[bytes, bytes | None] = {}
        self._bytes = 0
        self._committed_bytes = 0
        self.client = b""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`; OperationRefused beyond the bounds."""
        if type(value) is not bytes:
            raise TypeError("a value must be bytes")
        max_value, max_key, max_bytes, max_writes = self._limits
        size, own = len(value), self._own
        full = b"a" + key
        total = self._bytes + len(full) + size
        if size > max_value or len(full) > max_key or total > max_bytes or len(own) >= max_writes:
            self._check(full, size, total)
        self._bytes = total
        own[full] = value

    def _check(self, full: bytes, size: int, total: int) -> None:
        """Whether a write is within bounds, exactly."""
        raise NotImplementedError

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


def plain_write_set_digest(writes: dict[bytes, bytes | None]) -> bytes:
    """Digest of an ordered write-set: of its one msgpack encoding, a list of pairs, in which every key and
    value is preceded by its length and a deletion is nil."""
    return sha256(_encode(list(writes.items()))).digest()


if TYPE_CHECKING or not AVAILABLE:
    Writes: TypeAlias = PlainWrites
    write_set_digest = plain_write_set_digest
else:
    Writes, write_set_digest = native.Writes, native.write_set_digest
