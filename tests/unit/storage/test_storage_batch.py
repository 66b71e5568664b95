"""Writes in the order of their keys, with and without the extension."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.storage.batch import WAYS

KEYS = st.one_of(
    st.binary(max_size=12),
    st.binary(max_size=3).map(lambda end: b"a common beginning" + end),
    st.lists(st.sampled_from([b"\x00", b"\x01", b"\xff"]), max_size=12).map(b"".join),
)


def written(way, writes, prefix=b"s"):
    """What is handed on, in order."""
    calls: list[tuple[bytes, bytes | None]] = []
    way(writes, prefix, lambda key, value: calls.append((key, value)), lambda key: calls.append((key, None)))
    return calls


@pytest.mark.parametrize("way", WAYS)
@given(st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=5))))
def test_ascending_by_key_behind_the_prefix(way, writes):
    assert written(way, writes) == [(b"s" + key, writes[key]) for key in sorted(writes)]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_comes_of_nothing(way):
    assert written(way, {}) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("writes", [{b"a": 1, b"b": b""}, {"a": b"", b"b": b""}])
def test_what_is_no_bytes_is_refused(way, writes):
    """Nothing else gets into a state; RocksDB's own `put` would refuse it, too."""

    def put(key, value):
        if type(key) is not bytes or type(value) is not bytes:
            raise TypeError

    with pytest.raises(TypeError):
        way(writes, b"s", put, put)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_batch_is_the_callers(way):
    """It ends there and then: what comes after the failing key is not written."""
    calls = []

    def put(key, value):
        calls.append(key)
        if key == b"sb":
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        way({b"c": b"", b"b": b"", b"a": b""}, b"s", put, put)
    assert calls == [b"sa", b"sb"]


@pytest.mark.parametrize("way", WAYS)
def test_writes_may_change_meanwhile(way):
    """What is called may do as it likes with the writes; what it was called for is whole."""
    writes: dict[bytes, bytes | None] = {b"%03d" % number: b"value" for number in range(100)}
    seen = []

    def put(key, value):
        seen.append((key, value))
        writes[key[1:]] = b"another"

    way(writes, b"s", put, put)
    assert [key for key, _ in seen] == [b"s%03d" % number for number in range(100)]
    assert all(value == b"value" for _, value in seen)
