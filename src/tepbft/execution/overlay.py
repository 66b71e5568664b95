"""Tentative state: what blocks above the installed height have changed (A-32).

A block executes on results that are not stable yet. Its write-set is kept per
height until the store has installed it, so that it can be handed to the store in
order, forgotten if this node diverged, and read through meanwhile. Reads go from
the newest value that was written to the store. The newest values stand in one flat
table, so a read costs the same however many blocks are tentative; a block's writes are
merged into it as a whole, and what is installed stays in it as a cache until there is
too much of it. So writing costs nothing per key but that merge.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from tepbft.errors import ContractBroken
from tepbft.storage.port import StateWrites
from tepbft.types import Height

CACHE_ENTRIES = 1 << 16
CACHE_BYTES = 32 << 20
"""Bounds of what is kept beyond what is tentative."""
CACHE_VALUE_BYTES = 256
CACHE_KEY_BYTES = 128

Pairs = Iterator[tuple[bytes, bytes]]


class StateReader(Protocol):
    """The part of `storage.port.ChainStore` that execution reads."""

    def get(self, key: bytes) -> bytes | None:
        """A key of the installed state."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Installed keys in [start, end), in order."""
        ...


class SortedView:
    """The keys of a growing dict, in order. Keys may be added to the dict but never removed."""

    __slots__ = ("_keys", "values")

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self.values = values
        self._keys: list[bytes] = []

    def keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys in [start, end)."""
        known = len(self._keys)
        if known != len(self.values):
            # Dicts keep insertion order, so what is new stands at the end; sorting a sorted
            # run with a short tail is close to linear.
            self._keys += islice(self.values, known, None)
            self._keys.sort()
        return iter(self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)])


class Overlay:
    """Write-sets of tentative heights on top of a reader, plus a small cache of the reader's values.

    `failure` is the first error of the reader: an application may not see the difference between
    its own faults and those of the disk, so whoever executes must look here (see `Executor`).
    """

    def __init__(self, reader: StateReader) -> None:
        self._reader = reader
        self._layers: dict[Height, StateWrites] = {}
        self._sorted: dict[Height, list[bytes]] = {}
        self._latest: dict[bytes, bytes | None] = {}
        self._latest_bytes = 0
        self._cache: dict[bytes, bytes | None] = {}
        self.failure: Exception | None = None

    # --- reading ------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Newest value of `key` (a full state key), or None."""
        if key in self._latest:
            return self._latest[key]
        if key in self._cache:
            return self._cache[key]
        return self._load(key)

    def scan(self, start: bytes, end: bytes, newer: Sequence[SortedView] = ()) -> Pairs:
        """Pairs with start <= key < end in key order: `newer` views (newest first), then the tentative
        layers, then the reader. The state must not change while the iterator is in use."""
        changed = self._changed_keys(start, end, newer)
        base = self._scan_base(start, end)
        key = next(changed, None)
        pair = next(base, None)
        while key is not None:
            if pair is not None and pair[0] < key:
                yield pair
                pair = next(base, None)
                continue
            if pair is not None and pair[0] == key:
                pair = next(base, None)
            value = self._newest(key, newer)
            if value is not None:
                yield key, value
            key = next(changed, None)
        if pair is not None:
            yield pair
            yield from base

    def _newest(self, key: bytes, newer: Sequence[SortedView]) -> bytes | None:
        for view in newer:
            if key in view.values:
                return view.values[key]
        return self._latest[key]

    def _changed_keys(self, start: bytes, end: bytes, newer: Sequence[SortedView]) -> Iterator[bytes]:
        runs: list[Iterator[bytes]] = [view.keys(start, end) for view in newer]
        for height in self._layers:
            keys = self._sorted_keys(height)
            runs.append(iter(keys[bisect_left(keys, start) : bisect_left(keys, end)]))
        previous = None
        for key in heapq.merge(*runs):
            if key != previous:
                previous = key
                yield key

    def _sorted_keys(self, height: Height) -> list[bytes]:
        """The keys of one layer; sorted when a scan first wants them."""
        keys = self._sorted.get(height)
        if keys is None:
            keys = self._sorted[height] = sorted(self._layers[height].writes)
        return keys

    def _load(self, key: bytes) -> bytes | None:
        try:
            value = self._reader.get(key)
        except Exception as error:
            self.failure = self.failure or error
            raise
        if len(key) <= CACHE_KEY_BYTES and (value is None or len(value) <= CACHE_VALUE_BYTES):
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            self._cache[key] = value
        return value

    def _scan_base(self, start: bytes, end: bytes) -> Pairs:
        try:
            yield from self._reader.scan(start, end)
        except Exception as error:
            self.failure = self.failure or error
            raise

    # --- changing -----------------------------------------------------------------------------

    def add(self, layer: StateWrites) -> None:
        """Put the write-set of the next height on top."""
        self._layers[layer.height] = layer
        self._latest.update(layer.writes)
        self._latest_bytes += layer.size

    def layers(self, above: Height, up_to: Height) -> list[StateWrites]:
        """Write-sets of the heights in (above, up_to], ascending; ContractBroken if one is missing."""
        try:
            return [self._layers[height] for height in range(above + 1, up_to + 1)]
        except KeyError as missing:
            raise ContractBroken(f"no tentative state of height {missing}") from None

    def drop_installed(self, height: Height) -> None:
        """The reader now holds everything up to `height`: forget those layers."""
        for done in [h for h in self._layers if h <= height]:
            del self._layers[done]
            self._sorted.pop(done, None)
        if len(self._latest) > CACHE_ENTRIES or self._latest_bytes > CACHE_BYTES:
            self._make_latest()

    def _make_latest(self) -> None:
        """Only what is tentative. What was read before it was written must not come to light again."""
        for key in self._cache.keys() & self._latest.keys():
            del self._cache[key]
        self._latest, self._latest_bytes = {}, 0
        for layer in self._layers.values():
            self._latest.update(layer.writes)
            self._latest_bytes += layer.size

    def drop_above(self, height: Height) -> None:
        """Forget the layers above `height`, as if those blocks had never been executed."""
        self._layers = {h: layer for h, layer in self._layers.items() if h <= height}
        self._sorted.clear()
        self._make_latest()

    def clear(self) -> None:
        """Forget all layers and everything that was read: the reader's state was replaced."""
        self._layers.clear()
        self._sorted.clear()
        self._cache.clear()
        self._make_latest()
        self.failure = None
