"""The tree under `receipts_root`: every receipt is provable at its place, and nothing else is (A9)."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tepbft.core.block import Receipt
from tepbft.core.receipt_tree import GROUP, check_receipt, condensed, receipt_proof, receipts_root
from tepbft.crypto.hash import EMPTY_ROOT

results = st.one_of(st.binary(max_size=8), st.binary(min_size=60, max_size=70), st.just(bytes(5000)))
receipts = st.builds(
    Receipt,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 3),
    st.integers(0, 9),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 5),
    results,
)


@given(st.lists(receipts, min_size=1, max_size=3 * GROUP + 2), st.data())
def test_a_receipt_is_proven_where_it_stands_and_nowhere_else(block, data):
    root = receipts_root(block)
    index = data.draw(st.integers(0, len(block) - 1))
    neighbours, path = receipt_proof(block, index)
    count = len(block)
    assert check_receipt(block[index], index, count, neighbours, path, root)
    for other in {index - 1, index + 1, index + GROUP, count} - {index}:
        same = 0 <= other < count and block[other] == block[index]
        assert same or not check_receipt(block[index], other, count, neighbours, path, root)
    for wrong in (count - 1, count + 1, count + GROUP):
        assert not check_receipt(block[index], index, wrong, neighbours, path, root)
    changed = msgspec.structs.replace(block[index], result=block[index].result + b"!")
    assert not check_receipt(changed, index, count, neighbours, path, root)
    assert not check_receipt(block[index], index, count, neighbours, [*path, bytes(32)], root)
    assert not check_receipt(block[index], index, count, neighbours[1:] + neighbours[:0], path, root) or (
        not neighbours
    )


def test_proofs_stay_small_beside_long_results():
    """What others asked must not make a proof large: long results stand in the tree by their hash."""
    block = [Receipt(bytes(16), 1, seq, bytes(32), 0, bytes(100_000)) for seq in range(GROUP)]
    neighbours, path = receipt_proof(block, 3)
    assert len(msgspec.msgpack.encode((neighbours, path))) < 1500
    assert check_receipt(block[3], 3, GROUP, neighbours, path, receipts_root(block))


def test_a_short_result_cannot_pose_as_the_hash_of_a_long_one():
    long = Receipt(bytes(16), 1, 1, bytes(32), 0, bytes(1000))
    posing = condensed(long)
    root = receipts_root([long])
    assert posing.result != long.result
    assert check_receipt(long, 0, 1, [], [], root) and not check_receipt(posing, 0, 1, [], [], root)


def test_no_receipts():
    assert receipts_root([]) == EMPTY_ROOT
    assert not check_receipt(Receipt(bytes(16), 1, 1, bytes(32), 0, b""), 0, 0, [], [], EMPTY_ROOT)
