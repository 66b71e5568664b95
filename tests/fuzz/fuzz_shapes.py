"""Strategies made from the types themselves: any well-typed message, whatever its content.

The types of messages carry their bounds, so one walk over `msgspec.inspect` gives a
strategy for every message there is, and for those that will be added.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

LOW, HIGH = -(2**63), 2**64 - 1
"""What msgpack can hold at all."""
SHORT = 4
"""Elements of a generated sequence, at most, unless its type wants more."""


def _integers(info: inspect.IntType) -> st.SearchStrategy[int]:
    low = info.ge if info.ge is not None else LOW
    high = info.le if info.le is not None else HIGH
    near = [value for value in (0, 1, 2, 3, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**62)]
    bounds = sorted({low, high, *(value for value in near if low <= value <= high)})
    small = st.integers(max(low, -3), min(high, max(low, 12)))
    return st.one_of(small, st.sampled_from(bounds), st.integers(low, high))


def _binary(info: inspect.BytesType) -> st.SearchStrategy[bytes]:
    low, high = info.min_length or 0, info.max_length if info.max_length is not None else 100
    if low == high:
        return st.one_of(st.sampled_from([bytes(low), b"\xff" * low]), st.binary(min_size=low, max_size=low))
    return st.binary(min_size=low, max_size=max(low, min(high, 80)))


def _text(info: inspect.StrType) -> st.SearchStrategy[str]:
    if info.pattern is not None:
        return st.from_regex(info.pattern, fullmatch=True)
    return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 20, 20))


def _length(info: Any) -> tuple[int, int]:
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else low + SHORT
    return low, max(low, min(high, low + SHORT))


@cache
def _structs(cls: type) -> st.SearchStrategy[Any]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    fields = {field.name: shape(field.type) for field in info.fields}
    return st.builds(cls, **fields)


def shape(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a type as `msgspec.inspect` describes it."""
    match info:
        case inspect.StructType():
            return _structs(info.cls)
        case inspect.UnionType():
            return st.one_of([shape(member) for member in info.types])
        case inspect.IntType():
            return _integers(info)
        case inspect.BytesType():
            return _binary(info)
        case inspect.StrType():
            return _text(info)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.ListType():
            low, high = _length(info)
            return st.lists(shape(info.item_type), min_size=low, max_size=high)
        case inspect.VarTupleType():
            low, high = _length(info)
            return st.lists(shape(info.item_type), min_size=low, max_size=high).map(tuple)
        case inspect.TupleType():
            return st.tuples(*[shape(item) for item in info.item_types])
        case inspect.Metadata():
            return shape(info.type)
        case _:
            raise NotImplementedError(f"no strategy for {info}")


def values(type_: Any) -> st.SearchStrategy[Any]:
    """Any value of a type."""
    return shape(inspect.type_info(type_))


def members(union: Any) -> tuple[type, ...]:
    """The classes of a closed union of messages."""
    info = inspect.type_info(union)
    found = info.types if isinstance(info, inspect.UnionType) else (info,)
    return tuple(member.cls for member in found if isinstance(member, inspect.StructType))
