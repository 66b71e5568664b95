"""What becomes of the requests of a block, filled in while it executes: a sequence of receipts.

Most requests are the next of a client whose requests come in order. `advance` executes those without a
look at anything else; whoever drives it deals with the next one that is different, and goes on. With the
extension (ADR 0018) no object is made of a receipt until somebody looks at it: what is stored and hashed is
written from a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, overload

import msgspec

from tepbft.core.block import OK, Receipt, Request
from tepbft.core.receipt_tree import receipts_root
from tepbft.native import AVAILABLE, native
from tepbft.types import ConnectionId

Apply: TypeAlias = Callable[[Any, bytes, int], tuple[int, bytes]]
"""(context, operation, bytes left for results of this block) -> status and result."""
_encode = msgspec.msgpack.Encoder().encode


class Lane(Protocol):
    """A client of the block at hand without gaps: its next number in order needs no more than a look at
    this. Whoever wants to know more about the client lands it first, in `ClientTable`."""

    session: int
    expected: int
    """The number that is next."""

    @property
    def answers(self) -> list[int]:
        """Indices of the client's outcomes in this block."""
        ...


class Outcomes(Protocol):
    """The receipts so far, in the order of the requests."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Receipt]: ...
    def __iter__(self) -> Iterator[Receipt]: ...

    def add(self, status: int, result: bytes) -> None:
        """What became of the next request."""
        ...

    def advance(self, lanes: dict[bytes, Lane], context: Any, apply: Apply, room: int) -> int:
        """Execute requests as long as each is the next in its client's lane. `room` is how many bytes
        results of this block may still have; returns what is left of it."""
        ...

    def encoded(self, indices: list[int] = ..., /) -> bytes:
        """The list of all of them, or of those that are named, in the wire encoding."""
        ...

    def grouped(self, routes: dict[bytes, dict[ConnectionId, None]]) -> dict[ConnectionId, list[int]]:
        """Indices by the connections that lead to their clients, for connections by client."""
        ...

    def answers(self, indices: list[int]) -> bytes:
        """(seq, request digest, status, result) of some, encoded as a list: what a client's record keeps."""
        ...

    def span(self, indices: list[int]) -> tuple[int, int]:
        """The least and the greatest number (`seq`) among some, at least one."""
        ...

    def root(self) -> bytes:
        """`Header.receipts_root`."""
        ...


class Chosen(Sequence[Receipt]):
    """Some of a block's receipts."""

    __slots__ = ("_indices", "_outcomes")

    def __init__(self, outcomes: Outcomes, indices: list[int]) -> None:
        self._outcomes, self._indices = outcomes, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Receipt]: ...
    def __getitem__(self, index: int | slice) -> Receipt | list[Receipt]:
        if isinstance(index, slice):
            return [self._outcomes[one] for one in self._indices[index]]
        return self._outcomes[self._indices[index]]

    def encoded(self) -> bytes:
        """The list of them, in the wire encoding."""
        return self._outcomes.encoded(self._indices)


class PlainLane:
    """`Lane` in Python."""

    __slots__ = ("answers", "expected", "session")

    def __init__(self, session: int, expected: int, answers: list[int]) -> None:
        self.session = session
        self.expected = expected
        self.answers = answers


class PlainOutcomes(list[Receipt]):
    """`Outcomes` in Python."""

    def __init__(self, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        super().__init__()
        self._asked = list(zip(requests, digests, strict=True))

    def add(self, status: int, result: bytes) -> None:
        """See `Outcomes`; so below."""
        request, digest = self._asked[len(self)]
        self.append(Receipt(request.client, request.session, request.seq, digest, status, result))

    def advance(self, lanes: dict[bytes, Lane], context: Any, apply: Apply, room: int) -> int:
        """One request after the other."""
        for index in range(len(self), len(self._asked)):
            request, digest = self._asked[index]
            client, seq = request.client, request.seq
            lane = lanes.get(client)
            if lane is None or lane.expected != seq or lane.session != request.session:
                break
            lane.expected = seq + 1
            context.client = client
            status, result = apply(context, request.op, room)
            if status == OK:
                room -= len(result)
            self.append(Receipt(client, request.session, seq, digest, status, result))
            lane.answers.append(index)
        return room

    def encoded(self, indices: list[int] | None = None, /) -> bytes:
        """The list as it is, or a shorter one."""
        return _encode(self if indices is None else [self[index] for index in indices])

    def grouped(self, routes: dict[bytes, dict[ConnectionId, None]]) -> dict[ConnectionId, list[int]]:
        """One after the other."""
        groups: dict[ConnectionId, list[int]] = {}
        for index, receipt in enumerate(self):
            for connection in routes.get(receipt.client, ()):
                groups.setdefault(connection, []).append(index)
        return groups

    def answers(self, indices: list[int]) -> bytes:
        """A tuple of each."""
        return _encode(
            [(r.seq, r.request_digest, r.status, r.result) for r in map(self.__getitem__, indices)]
        )

    def span(self, indices: list[int]) -> tuple[int, int]:
        """A look at each."""
        numbers = [self[index].seq for index in indices]
        return min(numbers), max(numbers)

    def root(self) -> bytes:
        """The tree over all."""
        return receipts_root(self)


def _native_outcomes(requests: Sequence[Request], digests: Sequence[bytes]) -> Outcomes:
    return native.outcomes(requests, digests, Receipt)


NewOutcomes: TypeAlias = Callable[[Sequence[Request], Sequence[bytes]], Outcomes]
NewLane: TypeAlias = Callable[[int, int, list[int]], Lane]
WAYS: tuple[tuple[NewOutcomes, NewLane], ...] = ((PlainOutcomes, PlainLane),)
"""What there is here, each with its kind of lane; the last is taken."""
if AVAILABLE:
    WAYS = (*WAYS, (_native_outcomes, native.Lane))
new_outcomes, new_lane = WAYS[-1]
