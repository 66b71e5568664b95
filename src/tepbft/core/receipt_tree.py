"""The tree under `receipts_root`: a header commits to every receipt of its block, at its place.

Receipts stand in groups of `GROUP`. A leaf is the hash of one group's encoding, so that a block costs
one hash per group and not several per request; the tree over the groups is the usual one, and the root
binds the number of receipts. A proof carries the neighbours of a receipt in its group, and the path of
the group. What is long is replaced by its hash first, so that a proof stays small whatever others asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from tepbft.core.block import Receipt
from tepbft.crypto.hash import EMPTY_ROOT, merkle_fold, merkle_path, merkle_root

GROUP = 8
LONG_RESULT_BYTES = 64
_CONDENSED = 0x80
_encode = msgspec.msgpack.Encoder().encode


def condensed(receipt: Receipt) -> Receipt:
    """The receipt as it stands in the tree: a result above `LONG_RESULT_BYTES` by its hash, and the
    status marked, so that no result can pose as the hash of another."""
    if len(receipt.result) <= LONG_RESULT_BYTES:
        return receipt
    result = sha256(receipt.result).digest()
    return msgspec.structs.replace(receipt, status=receipt.status | _CONDENSED, result=result)


def _group_hash(group: Sequence[Receipt]) -> bytes:
    return sha256(b"\x00TEP1/RCG" + _encode(group)).digest()


def _groups(receipts: Sequence[Receipt]) -> list[bytes]:
    for receipt in receipts:
        if len(receipt.result) > LONG_RESULT_BYTES:
            receipts = [condensed(receipt) for receipt in receipts]
            break
    return [_group_hash(receipts[start : start + GROUP]) for start in range(0, len(receipts), GROUP)]


def _bind_count(count: int, top: bytes) -> bytes:
    return sha256(b"\x02TEP1/RCR" + count.to_bytes(8, "little") + top).digest()


def receipts_root(receipts: Sequence[Receipt]) -> bytes:
    """`Header.receipts_root` of a block's receipts, in order; `EMPTY_ROOT` for none."""
    if not receipts:
        return EMPTY_ROOT
    return _bind_count(len(receipts), merkle_root(_groups(receipts)))


def receipt_proof(receipts: Sequence[Receipt], index: int) -> tuple[list[Receipt], list[bytes]]:
    """Neighbours of the receipt at `index` in its group, in order, and the path of the group."""
    start = index - index % GROUP
    group = [condensed(receipt) for receipt in receipts[start : start + GROUP]]
    del group[index - start]
    return group, merkle_path(_groups(receipts), index // GROUP)


def check_receipt(
    receipt: Receipt,
    index: int,
    count: int,
    neighbours: Sequence[Receipt],
    path: Sequence[bytes],
    root: bytes,
) -> bool:
    """True iff `receipt` stands at `index` among `count` receipts under `root`."""
    if not 0 <= index < count:
        return False
    number, place = divmod(index, GROUP)
    if len(neighbours) + 1 != min(GROUP, count - number * GROUP):
        return False
    if receipt.status & _CONDENSED or any(len(one.result) > LONG_RESULT_BYTES for one in neighbours):
        return False
    group = [*neighbours[:place], condensed(receipt), *neighbours[place:]]
    top = merkle_fold(_group_hash(group), number, -(-count // GROUP), path)
    return top is not None and _bind_count(count, top) == root
