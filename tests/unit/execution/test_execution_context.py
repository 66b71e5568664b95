"""What an application sees: layered reads, ranges, refusals, bounds."""

from __future__ import annotations

import pytest
from execution_world import DictReader
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.errors import OperationRefused
from tepbft.execution import context as bounds
from tepbft.execution.context import BlockContext
from tepbft.execution.overlay import Overlay
from tepbft.storage.port import StateWrites

keys = st.binary(min_size=0, max_size=2).map(lambda b: bytes(x % 4 for x in b))
values = st.one_of(st.none(), st.binary(max_size=2))
writes = st.dictionaries(keys, values, max_size=8)


def change(model: dict[bytes, bytes], table: dict[bytes, bytes | None]) -> None:
    for key, value in table.items():
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value


def write(context: BlockContext, table: dict[bytes, bytes | None]) -> None:
    for key, value in table.items():
        if value is None:
            context.delete(key)
        else:
            context.put(key, value)


@settings(deadline=None)
@given(
    st.dictionaries(keys, st.binary(max_size=2), max_size=8),
    st.lists(writes, max_size=4),
    st.lists(st.tuples(writes, st.booleans()), max_size=4),
    writes,
    st.integers(0, 4),
    keys,
    keys,
    st.integers(0, 6),
)
def test_reads_and_ranges_equal_a_sorted_dict(base, layers, operations, own, settled, start, end, limit):
    """A-32: store, tentative heights, the block and the operation read as one sorted dict."""
    model = dict(base)
    reader = DictReader({b"a" + k: v for k, v in base.items()} | {b"czz": b"no", b"b": b"no"})
    overlay = Overlay(reader)
    for height, table in enumerate(layers, 1):
        overlay.add(StateWrites(height, {b"a" + k: v for k, v in table.items()}))
        change(model, table)
        overlay.get(b"a" + start)
    settled = min(settled, len(layers))
    reader.install(overlay.layers(0, settled))
    overlay.drop_installed(settled)
    context = BlockContext(overlay, 9, 0, b"")
    for table, accepted in operations:
        list(context.range(start, end))
        write(context, table)
        if accepted:
            context.commit()
            change(model, table)
        else:
            context.discard()
    write(context, own)
    change(model, own)
    inside = sorted((k, v) for k, v in model.items() if start <= k < end)
    assert list(context.range(start, end, limit)) == inside[:limit]
    assert list(context.range(b"", b"\xff" * 9, 1000)) == sorted(model.items())
    for key in {start, end, *model}:
        assert context.get(key) == model.get(key)


def test_range_is_fixed_at_the_call():
    """Writes during the iteration do not disturb it."""
    context = BlockContext(Overlay(DictReader({b"a1": b"x", b"a2": b"x"})), 1, 0, b"")
    for key, _ in context.range(b"", b"\xff"):
        context.delete(key)
        context.put(key + b"!", b"y")
    assert [key for key, _ in context.range(b"", b"\xff")] == [b"1!", b"2!"]


def test_drop_above_forgets_only_what_is_above():
    """A-35: tentative state above a height goes, what is below stays readable."""
    overlay = Overlay(DictReader())
    for height in (1, 2, 3):
        overlay.add(StateWrites(height, {b"ak": b"%d" % height}))
    overlay.drop_above(2)
    assert overlay.get(b"ak") == b"2"
    overlay.drop_above(0)
    assert overlay.get(b"ak") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [(bytes(bounds.MAX_KEY_BYTES + 1), b""), (b"k", bytes(bounds.MAX_VALUE_BYTES + 1))],
)
def test_too_large_writes_are_refused(key, value):
    """A-30, I-17: what storage and transfer cannot carry is a refusal."""
    context = BlockContext(Overlay(DictReader()), 1, 0, b"")
    with pytest.raises(OperationRefused):
        context.put(key, value)
    context.put(bytes(bounds.MAX_KEY_BYTES), bytes(bounds.MAX_VALUE_BYTES))


def test_number_of_writes_of_an_operation_is_bounded():
    """I-17: overwriting is free, another key beyond the bound is refused."""
    context = BlockContext(Overlay(DictReader()), 1, 0, b"")
    for number in range(bounds.MAX_OPERATION_WRITES):
        context.put(b"%d" % number, b"")
    context.put(b"0", b"again")
    with pytest.raises(OperationRefused):
        context.delete(b"another")


def test_bytes_written_by_a_block_are_bounded_and_refused_ones_do_not_count(monkeypatch):
    """I-17: the bound is over the block's accepted operations."""
    monkeypatch.setattr(bounds, "MAX_BLOCK_WRITE_BYTES", 100)
    context = BlockContext(Overlay(DictReader()), 1, 0, b"")
    context.put(b"k", bytes(60))
    context.discard()
    context.put(b"k", bytes(60))
    context.commit()
    with pytest.raises(OperationRefused):
        context.put(b"l", bytes(60))


def test_values_that_are_not_bytes_are_the_applications_fault():
    context = BlockContext(Overlay(DictReader()), 1, 0, b"")
    with pytest.raises(TypeError):
        context.put(b"k", bytearray(b"mutable"))  # type: ignore[arg-type]
