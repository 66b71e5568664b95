"""Bundles: one request, and so one signature, for many operations of an application.

The application `bundle:APP` takes a canonical msgpack list of 1 to 1024 operations of APP and carries
them out in order, as one atomic operation: each sees what those before it wrote, and if one is refused,
all are, with its index (from 0) and its reason. The result is the msgpack list of the results.

The bounds of an operation hold for the bundle as a whole: its bytes, the keys it may change, the bytes
of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from tepbft.errors import OperationRefused, TepbftError
from tepbft.execution.port import Application, Context
from tepbft.types import MAX_OPERATION_BYTES

PREFIX = "bundle:"
"""In front of an application's name: its operations come in bundles."""
MAX_BUNDLE = 1024
MAX_RESULT_BYTES = MAX_OPERATION_BYTES
SEPARATOR = ","
"""The word between two operations on a command line."""

_Operations: TypeAlias = Annotated[list[bytes], Meta(min_length=1, max_length=MAX_BUNDLE)]
_decoder: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(_Operations)
_results: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(list[bytes])
_encode = msgspec.msgpack.Encoder().encode


def encode_bundle(operations: Sequence[bytes]) -> bytes:
    """The operation of `bundle:APP` that carries out `operations` of APP."""
    if not 1 <= len(operations) <= MAX_BUNDLE:
        raise ValueError(f"a bundle holds 1 to {MAX_BUNDLE} operations")
    return _encode(list(operations))


def decode_bundle(operation: bytes) -> list[bytes]:
    """The operations in a bundle; OperationRefused if it is none, or not in its canonical encoding."""
    try:
        operations = _decoder.decode(operation)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise OperationRefused(f"not a bundle of 1 to {MAX_BUNDLE} operations") from None
    if _encode(operations) != operation:
        raise OperationRefused("a bundle that is not in its canonical encoding")
    return operations


def decode_results(result: bytes) -> list[bytes]:
    """The results of a bundle's operations, in their order."""
    return _results.decode(result)


class Bundle:
    """The application `bundle:APP` over the application APP."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out a bundle; see the module."""
        results: list[bytes] = []
        size = 0
        execute = self._application.execute
        for index, single in enumerate(decode_bundle(operation)):
            try:
                result = execute(context, single)
            except OperationRefused as refusal:
                raise OperationRefused(f"operation {index}: {refusal}") from None
            if type(result) is not bytes:
                raise TypeError("a result must be bytes")
            size += len(result)
            if size > MAX_RESULT_BYTES:
                raise OperationRefused(
                    f"operation {index}: the results of a bundle may have at most {MAX_RESULT_BYTES} bytes"
                )
            results.append(result)
        return _encode(results)


# --- command line -----------------------------------------------------------------------------


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in chain(words, (SEPARATOR,)):
        if word == SEPARATOR:
            yield part
            part = []
        else:
            part.append(word)


def parse_bundle(words: Sequence[str], parse: Callable[[Sequence[str]], bytes]) -> bytes:
    """A bundle from words, each operation parsed by `parse`; TepbftError on nonsense."""
    operations = [parse(part) for part in _split(words)]
    if len(operations) > MAX_BUNDLE:
        raise TepbftError("the bundle", "too many operations", f"At most {MAX_BUNDLE}")
    return encode_bundle(operations)


def render_bundle(operation: bytes, result: bytes, render: Callable[[bytes, bytes], object]) -> list[object]:
    """The result of a bundle as plain values: what `render` makes of each operation's."""
    operations, results = decode_bundle(operation), decode_results(result)
    return [render(single, found) for single, found in zip(operations, results, strict=True)]
