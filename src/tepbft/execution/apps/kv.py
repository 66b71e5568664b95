"""A key-value store: put, get, delete, compare-and-swap, range.

Results are msgpack: nothing for put, `bytes | nil` for get, whether the key was there
for delete, (swapped, value found) for cas, (pairs, more) for range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from tepbft.errors import TepbftError
from tepbft.execution.apps.words import parse_bytes, parse_number, render_bytes, usage_error
from tepbft.execution.context import MAX_KEY_BYTES
from tepbft.execution.port import Context, OperationRefused
from tepbft.types import MAX_OPERATION_BYTES

MAX_RANGE = 1000
MAX_RANGE_BYTES = 200 << 10
"""A range ends early, with `more` set, before its keys and values exceed this."""
_AFTER_ALL_KEYS = b"\xff" * (MAX_KEY_BYTES + 1)

USAGE = """\
put KEY VALUE             set a key
get KEY                   read a key
delete KEY                remove a key
cas KEY EXPECTED|- NEW    set a key if its value is EXPECTED (-: if there is none)
range START END|- [LIMIT] list keys from START up to but without END (-: to the last)
Words are text; 0x… gives bytes in hexadecimal."""

_Key = Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
_Value = Annotated[bytes, Meta(max_length=MAX_OPERATION_BYTES)]


class Put(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Set `key` to `value`."""

    key: _Key
    value: _Value


class Get(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """Read `key` in agreed order."""

    key: _Key


class Delete(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """Remove `key`."""

    key: _Key


class CompareAndSwap(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    """Set `key` to `new` if its value is `expected` (None: if it has none)."""

    key: _Key
    expected: _Value | None
    new: _Value


class Range(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=5):
    """At most `limit` pairs with start <= key < end (None: to the last key)."""

    start: _Key
    end: _Key | None
    limit: Annotated[int, Meta(ge=1, le=MAX_RANGE)] = 100


Operation: TypeAlias = Put | Get | Delete | CompareAndSwap | Range
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)
_encode = msgspec.msgpack.Encoder().encode
_decode_get = msgspec.msgpack.Decoder(bytes | None)
_decode_delete = msgspec.msgpack.Decoder(bool)
_decode_swap = msgspec.msgpack.Decoder(tuple[bool, bytes | None])
_decode_range = msgspec.msgpack.Decoder(tuple[list[tuple[bytes, bytes]], bool])


def encode(operation: Operation) -> bytes:
    """Bytes of an operation, to put into a request."""
    return _encode(operation)


class KeyValue:
    """The application `kv`."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out one operation; see the module for results."""
        try:
            op = _decoder.decode(operation)
        except (msgspec.MsgspecError, ValueError):
            raise OperationRefused("not an operation of kv") from None
        if isinstance(op, Put):
            context.put(op.key, op.value)
            return b""
        if isinstance(op, Get):
            return _encode(context.get(op.key))
        if isinstance(op, Delete):
            present = context.get(op.key) is not None
            context.delete(op.key)
            return _encode(present)
        if isinstance(op, CompareAndSwap):
            found = context.get(op.key)
            if found != op.expected:
                return _encode((False, found))
            context.put(op.key, op.new)
            return _encode((True, found))
        return self._range(context, op)

    def _range(self, context: Context, op: Range) -> bytes:
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        end = _AFTER_ALL_KEYS if op.end is None else op.end
        for key, value in context.range(op.start, end, op.limit + 1):
            size += len(key) + len(value) + 16
            if len(pairs) == op.limit or size > MAX_RANGE_BYTES:
                return _encode((pairs, True))
            pairs.append((key, value))
        return _encode((pairs, False))


def parse(words: Sequence[str]) -> bytes:
    """Words of a command line to an operation; TepbftError with the usage on nonsense."""
    match list(words):
        case ["put", key, value]:
            operation: Operation = Put(parse_bytes(key), parse_bytes(value))
        case ["get", key]:
            operation = Get(parse_bytes(key))
        case ["delete", key]:
            operation = Delete(parse_bytes(key))
        case ["cas", key, expected, new]:
            before = None if expected == "-" else parse_bytes(expected)
            operation = CompareAndSwap(parse_bytes(key), before, parse_bytes(new))
        case ["range", start, end, *rest] if len(rest) <= 1:
            limit = parse_number(rest[0], "LIMIT", 1, MAX_RANGE) if rest else 100
            operation = Range(parse_bytes(start), None if end == "-" else parse_bytes(end), limit)
        case _:
            raise usage_error(" ".join(words), USAGE)
    encoded = _encode(operation)
    try:
        _decoder.decode(encoded)
    except msgspec.ValidationError:
        raise TepbftError(
            " ".join(words)[:80],
            "too large",
            f"A key has at most {MAX_KEY_BYTES} bytes, a value {MAX_OPERATION_BYTES}",
        ) from None
    return encoded


def render(operation: bytes, result: bytes) -> object:
    """The result of an operation as plain values for JSON."""
    op = _decoder.decode(operation)
    if isinstance(op, Put):
        return {"key": render_bytes(op.key)}
    if isinstance(op, Get):
        value = _decode_get.decode(result)
        return {"key": render_bytes(op.key), "value": None if value is None else render_bytes(value)}
    if isinstance(op, Delete):
        return {"key": render_bytes(op.key), "deleted": _decode_delete.decode(result)}
    if isinstance(op, CompareAndSwap):
        swapped, found = _decode_swap.decode(result)
        return {
            "key": render_bytes(op.key),
            "swapped": swapped,
            "found": None if found is None else render_bytes(found),
        }
    pairs, more = _decode_range.decode(result)
    return {"pairs": [[render_bytes(key), render_bytes(value)] for key, value in pairs], "more": more}
