"""What blocks wrote, into a batch of RocksDB in the order of the keys: costs RocksDB half, then and later.

The extension (ADR 0018) has a twin of the one function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tepbft.native import AVAILABLE, native

Writes: TypeAlias = dict[bytes, bytes | None]
Put: TypeAlias = Callable[[bytes, bytes], None]
Delete: TypeAlias = Callable[[bytes], None]


def plain_write_in_order(writes: Writes, prefix: bytes, put: Put, delete: Delete) -> None:
    """Hand every write on by ascending key, behind `prefix`: to `delete` where it is None, else to `put`."""
    for key in sorted(writes):
        if (value := writes[key]) is None:
            delete(prefix + key)
        else:
            put(prefix + key, value)


WAYS: tuple[Callable[[Writes, bytes, Put, Delete], None], ...] = (plain_write_in_order,)
"""All that are at hand, of which the last is taken."""
if AVAILABLE:
    WAYS = (*WAYS, native.write_in_order)
write_in_order = WAYS[-1]
