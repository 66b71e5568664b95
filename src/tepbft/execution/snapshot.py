"""Snapshots: the whole state as a list of chunks whose Merkle root is in a header (A3.5).

A chunk is a msgpack list of (key, value) pairs. Keys are sorted through all chunks.
Where one chunk ends depends on the content alone, so all correct nodes build the same
chunks. A receiver is sent all leaf hashes first; they either fold into the certified
root or are refused, and from then on every chunk is checked as it comes (S-21).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from tepbft.crypto.hash import leaf_hash, merkle_root
from tepbft.errors import PeerFault
from tepbft.execution.context import MAX_KEY_BYTES
from tepbft.types import MAX_CHUNK_BYTES

CHUNK_BYTES = 1 << 18
"""A chunk is closed before it would exceed this, unless it would be empty."""
MAX_CHUNKS = 1 << 16
"""Chunks of one snapshot that a receiver accepts (16 GiB of state)."""
PREFIXES = (b"a", b"c", b"s")
"""First bytes of state keys: application, client table, system."""
_ENTRY_OVERHEAD, _CHUNK_OVERHEAD = 11, 5  # msgpack headers at their longest

_encode = msgspec.msgpack.Encoder().encode
_Key = Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_BYTES + 1)]
_Value = Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]
_Chunk = Annotated[list[tuple[_Key, _Value]], Meta(min_length=1, max_length=CHUNK_BYTES // 2)]
_decoder = msgspec.msgpack.Decoder(_Chunk)


def make_chunks(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Chunks of a state given as sorted (key, value) pairs."""
    chunks: list[bytes] = []
    entries: list[tuple[bytes, bytes]] = []
    size = _CHUNK_OVERHEAD
    for pair in pairs:
        more = len(pair[0]) + len(pair[1]) + _ENTRY_OVERHEAD
        if entries and size + more > CHUNK_BYTES:
            chunks.append(_encode(entries))
            entries, size = [], _CHUNK_OVERHEAD
        entries.append(pair)
        size += more
    if entries:
        chunks.append(_encode(entries))
    return chunks


def chunk_leaves(chunks: Sequence[bytes]) -> list[bytes]:
    """Leaf hashes of chunks, in order."""
    return [leaf_hash(chunk) for chunk in chunks]


def snapshot_root(chunks: Sequence[bytes]) -> bytes:
    """`snapshot_root` of the header at a snapshot height."""
    return merkle_root(chunk_leaves(chunks))


def decode_chunk(chunk: bytes) -> list[tuple[bytes, bytes]]:
    """Pairs of one chunk; PeerFault if it is too large, malformed, not canonical, unsorted, or of a
    foreign prefix."""
    if len(chunk) > MAX_CHUNK_BYTES:
        raise PeerFault("bad_chunk", f"{len(chunk)} bytes")
    try:
        pairs = _decoder.decode(chunk)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerFault("bad_chunk", str(error)[:200]) from None
    if _encode(pairs) != chunk:
        raise PeerFault("bad_chunk", "not the canonical encoding")
    last = b""
    for key, _ in pairs:
        if key <= last:
            raise PeerFault("bad_chunk", "keys are not in ascending order")
        if key[:1] not in PREFIXES:
            raise PeerFault("bad_chunk", "a key with a foreign prefix")
        last = key
    return pairs


class SnapshotAssembler:
    """Collects the chunks of one snapshot, in any order, from anybody.

    `root` is `snapshot_root` of a certified header; `count` is what a server says. The root binds the
    number of leaves, so a wrong count shows as soon as hashes are offered: begin anew with the count
    of another server then.
    """

    def __init__(self, root: bytes, count: int) -> None:
        if not 0 <= count <= MAX_CHUNKS:
            raise PeerFault("bad_snapshot", f"{count} chunks")
        self.root = root
        self.count = count
        self._leaves: list[bytes] | None = None
        self._chunks: dict[int, bytes] = {}
        if count == 0:
            self.offer_leaves([])

    @property
    def has_leaves(self) -> bool:
        """True once the leaf hashes are known and chunks can be checked."""
        return self._leaves is not None

    @property
    def complete(self) -> bool:
        """True once every chunk is here."""
        return self._leaves is not None and len(self._chunks) == self.count

    def offer_leaves(self, leaves: Sequence[bytes]) -> None:
        """All leaf hashes, in order; PeerFault unless they are `count` and fold into `root`."""
        if self._leaves is not None:
            return
        if len(leaves) != self.count or any(len(leaf) != 32 for leaf in leaves):
            raise PeerFault("bad_snapshot", "not one hash per chunk")
        if merkle_root(leaves) != self.root:
            raise PeerFault("bad_snapshot", "the hashes do not belong to the certified root")
        self._leaves = list(leaves)

    def add_chunk(self, index: int, chunk: bytes) -> bool:
        """One chunk; False if it was here already. PeerFault if it is not the one at `index`."""
        if self._leaves is None:
            raise PeerFault("bad_chunk", "a chunk before the hashes")
        if not 0 <= index < self.count:
            raise PeerFault("bad_chunk", f"no chunk {index} of {self.count}")
        if index in self._chunks:
            return False
        if len(chunk) > MAX_CHUNK_BYTES or leaf_hash(chunk) != self._leaves[index]:
            raise PeerFault("bad_chunk", f"chunk {index} is not the certified one")
        decode_chunk(chunk)
        self._chunks[index] = chunk
        return True

    def missing(self, limit: int) -> list[int]:
        """The first indices, at most `limit`, that have not arrived."""
        found: list[int] = []
        for index in range(self.count):
            if len(found) >= limit:
                break
            if index not in self._chunks:
                found.append(index)
        return found

    def chunks(self) -> list[bytes]:
        """All chunks in order; PeerFault while some are missing or if keys are not sorted throughout."""
        if not self.complete:
            raise PeerFault("bad_snapshot", "chunks are missing")
        ordered = [self._chunks[index] for index in range(self.count)]
        last = b""
        for chunk in ordered:
            pairs = decode_chunk(chunk)
            if pairs[0][0] <= last:
                raise PeerFault("bad_snapshot", "chunks overlap")
            last = pairs[-1][0]
        return ordered
