"""SHA-256 and the Merkle tree over it (leaf and node domains kept apart)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def digest(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation of `parts`; callers fix or prefix every length."""
    hasher = sha256()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


EMPTY_ROOT: bytes = sha256(b"TEP1/MERKLE/EMPTY").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf's content; the 0x00 prefix keeps leaves from posing as nodes."""
    return sha256(b"\x00" + data).digest()


def _next_level(level: Sequence[bytes]) -> list[bytes]:
    pairs = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        pairs.append(level[-1])  # an odd node moves up as it is: no duplicate-leaf ambiguity
    return pairs


def _bind_count(count: int, top: bytes) -> bytes:
    """The root also commits to the number of leaves: the shape of a path alone does not."""
    return sha256(b"\x02" + count.to_bytes(8, "little") + top).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes (see `leaf_hash`) and their number; `EMPTY_ROOT` for none."""
    if not leaves:
        return EMPTY_ROOT
    level: Sequence[bytes] = leaves
    while len(level) > 1:
        level = _next_level(level)
    return _bind_count(len(leaves), level[0])


def merkle_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Sibling hashes from the leaf at `index` up to the root; levels without a sibling are left out."""
    path: list[bytes] = []
    level: Sequence[bytes] = leaves
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _next_level(level)
        index //= 2
    return path


def merkle_fold(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from `leaf` at `index` of `count`; None if it does not fit them."""
    if not 0 <= index < count:
        return None
    node, width, used = leaf, count, 0
    while width > 1:
        sibling = index ^ 1
        if sibling < width:
            if used >= len(path):
                return None
            other = path[used]
            used += 1
            node = sha256(b"\x01" + (other + node if index & 1 else node + other)).digest()
        index //= 2
        width = (width + 1) // 2
    return _bind_count(count, node) if used == len(path) else None


def merkle_check(leaf: bytes, index: int, count: int, path: Sequence[bytes], root: bytes) -> bool:
    """True iff `leaf` stands at `index` among `count` leaves under `root`."""
    return merkle_fold(leaf, index, count, path) == root
