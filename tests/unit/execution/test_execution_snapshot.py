"""Chunks of a snapshot and their assembly from hostile servers (S-21)."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.crypto.hash import EMPTY_ROOT, leaf_hash, merkle_root
from tepbft.errors import PeerFault
from tepbft.execution.context import MAX_KEY_BYTES, MAX_VALUE_BYTES
from tepbft.execution.snapshot import (
    CHUNK_BYTES,
    SnapshotAssembler,
    chunk_leaves,
    decode_chunk,
    make_chunks,
    snapshot_root,
)
from tepbft.types import MAX_CHUNK_BYTES

states = st.dictionaries(
    st.tuples(st.sampled_from([b"a", b"c", b"s"]), st.binary(max_size=20)).map(b"".join),
    st.integers(0, 90_000).map(bytes),
    max_size=30,
)


@settings(deadline=None)
@given(states, st.randoms(use_true_random=False))
def test_any_state_survives_chunks_in_any_order(state, shuffler):
    """A3.5: decode(make(state)) = state; chunks keep their bound and do not depend on the route."""
    chunks = make_chunks(sorted(state.items()))
    assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)
    assembler = SnapshotAssembler(snapshot_root(chunks), len(chunks))
    if chunks:
        assembler.offer_leaves(chunk_leaves(chunks))
    order = list(range(len(chunks)))
    shuffler.shuffle(order)
    for done, index in enumerate(order):
        assert sorted(order[done:])[:3] == assembler.missing(3)
        assert assembler.add_chunk(index, chunks[index])
        assert not assembler.add_chunk(index, chunks[index])
    assert assembler.complete
    assert assembler.chunks() == chunks
    assert dict(pair for chunk in chunks for pair in decode_chunk(chunk)) == state


def test_the_largest_pair_fits_into_a_chunk():
    """I-17: what `put` accepts, a snapshot can carry."""
    (chunk,) = make_chunks([(b"a" + bytes(MAX_KEY_BYTES), bytes(MAX_VALUE_BYTES))])
    assert len(chunk) <= MAX_CHUNK_BYTES
    decode_chunk(chunk)


def test_an_empty_state_has_no_chunks():
    assembler = SnapshotAssembler(EMPTY_ROOT, 0)
    assert assembler.complete and assembler.chunks() == []


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"\x90",
        b"junk",
        b"\x91" * 5000,
        msgspec.msgpack.encode([(b"a2", b""), (b"a1", b"")]),
        msgspec.msgpack.encode([(b"a1", b""), (b"a1", b"")]),
        msgspec.msgpack.encode([(b"x", b"")]),
        msgspec.msgpack.encode([(b"", b"")]),
        msgspec.msgpack.encode([(b"a", b"")]) + b"\x00",
        b"\x91\x92\xc5\x00\x01a\xc4\x00",
        b"\x91\x92\xc4\x01a\xc4\x00"[:-1],
        msgspec.msgpack.encode([(b"a" + bytes(MAX_KEY_BYTES + 1), b"")]),
        bytes(MAX_CHUNK_BYTES + 1),
    ],
)
def test_hostile_chunks_are_refused(chunk):
    """I-25: malformed, unsorted, foreign, not canonical, too large."""
    with pytest.raises(PeerFault):
        decode_chunk(chunk)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_crash_the_decoder(data):
    """I-25."""
    with contextlib.suppress(PeerFault):
        assert make_chunks(decode_chunk(data)) == [data]


def test_s21_a_poisoned_transfer_is_detected_per_chunk():
    """S-21: wrong hashes, wrong count, wrong chunk, wrong place, endless count."""
    state = sorted((b"a%03d" % i, random.Random(i).randbytes(60_000)) for i in range(20))
    chunks = make_chunks(state)
    leaves, root = chunk_leaves(chunks), snapshot_root(chunks)
    with pytest.raises(PeerFault):
        SnapshotAssembler(root, 1 << 40)
    assembler = SnapshotAssembler(root, len(chunks))
    with pytest.raises(PeerFault):
        assembler.add_chunk(0, chunks[0])
    for wrong in (leaves[:-1], leaves[::-1], [b"short"] * len(leaves)):
        with pytest.raises(PeerFault):
            assembler.offer_leaves(wrong)
    assembler.offer_leaves(leaves)
    for index, chunk in ((0, chunks[1]), (0, chunks[0][:-1]), (len(chunks), chunks[0]), (-1, chunks[0])):
        with pytest.raises(PeerFault):
            assembler.add_chunk(index, chunk)
    with pytest.raises(PeerFault):
        assembler.chunks()
    for index, chunk in enumerate(chunks):
        assembler.add_chunk(index, chunk)
    assert assembler.chunks() == chunks


def test_certified_chunks_that_overlap_are_refused():
    """Even under a matching root the keys must ascend through all chunks."""
    one, two = make_chunks([(b"a2", b"")]), make_chunks([(b"a1", b"")])
    assembler = SnapshotAssembler(merkle_root([leaf_hash(one[0]), leaf_hash(two[0])]), 2)
    assembler.offer_leaves(chunk_leaves(one + two))
    assembler.add_chunk(0, one[0])
    assembler.add_chunk(1, two[0])
    with pytest.raises(PeerFault):
        assembler.chunks()
