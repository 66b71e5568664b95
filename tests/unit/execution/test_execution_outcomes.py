"""Outcomes and writes in Python and in the extension are the same (I-2, A9, A-25).

What a block becomes is hashed into its header: one byte of difference would split a ledger whose nodes
differ in nothing but a compiler.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import OK, REFUSED, Receipt, Request, encode_body
from tepbft.core.receipt_tree import GROUP, LONG_RESULT_BYTES, receipts_root
from tepbft.core.requests import open_body, request_digests
from tepbft.errors import OperationRefused
from tepbft.execution.outcomes import WAYS, Chosen
from tepbft.execution.writes import PlainWrites, plain_write_set_digest
from tepbft.native import AVAILABLE, native

CHAIN = bytes(32)
ROOM = 1000
extension = pytest.mark.skipif(not AVAILABLE, reason="the extension does not run on this machine")
numbers = st.one_of(st.integers(0, 3), st.sampled_from([127, 128, 2**16, 2**32, 2**63 - 1]))
lengths = st.sampled_from(
    [0, 1, 31, 32, LONG_RESULT_BYTES - 1, LONG_RESULT_BYTES, LONG_RESULT_BYTES + 1, 255, 256]
)
results = st.one_of(st.binary(max_size=5), lengths.map(lambda size: b"r" * size), st.just(bytes(1 << 16)))
requests = st.builds(
    Request,
    st.sampled_from([b"a" * 16, b"b" * 16, bytes(16)]),
    numbers,
    numbers,
    st.sampled_from([b"", b"op", b"no"]),
    st.binary(max_size=3),
)


class Context:
    """Nothing but who asks."""

    client = b""


def opened(listed: list[Request]) -> tuple[Any, Any]:
    return open_body(CHAIN, encode_body(listed))


def in_lists(listed: list[Request]) -> tuple[Any, Any]:
    return listed, request_digests(CHAIN, listed)


SHAPES = (opened, in_lists)


def filled(way: int, shape: Any, listed: list[Request], outcomes: list[tuple[int, bytes]]) -> Any:
    made = WAYS[way][0](*shape(listed))
    for status, result in outcomes:
        made.add(status, result)
    return made


ROUTES = {b"a" * 16: {7: None, 8: None}, b"b" * 16: {8: None}, b"z" * 16: {9: None}}


def told(outcomes: Any, indices: list[int]) -> tuple[Any, ...]:
    groups = {
        connection: list(Chosen(outcomes, some)) for connection, some in outcomes.grouped(ROUTES).items()
    }
    assert Chosen(outcomes, indices).encoded() == outcomes.encoded(indices)
    return (
        list(outcomes),
        outcomes.encoded(),
        outcomes.root(),
        outcomes.encoded(indices),
        outcomes.answers(indices),
        outcomes.span(indices) if indices else None,
        list(groups.items()),
        len(outcomes),
    )


def groups_of(receipts: list[Receipt]) -> list[tuple[int, list[Receipt]]]:
    found: dict[int, list[Receipt]] = {}
    for receipt in receipts:
        for connection in ROUTES.get(receipt.client, ()):
            found.setdefault(connection, []).append(receipt)
    return list(found.items())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(requests, st.integers(0, 5), results), max_size=3 * GROUP + 2), st.data())
def test_receipts_are_the_same_to_the_last_byte(entries, data):
    listed = [request for request, _, _ in entries]
    some = data.draw(st.lists(st.integers(0, len(entries) - 1), max_size=20) if entries else st.just([]))
    receipts = [
        Receipt(request.client, request.session, request.seq, digest, status, result)
        for (request, status, result), digest in zip(entries, request_digests(CHAIN, listed), strict=True)
    ]
    answers = [(r.seq, r.request_digest, r.status, r.result) for r in (receipts[i] for i in some)]
    expected = (
        receipts,
        msgspec.msgpack.encode(receipts),
        receipts_root(receipts),
        msgspec.msgpack.encode([receipts[i] for i in some]),
        msgspec.msgpack.encode(answers),
        (min(answers)[0], max(answers)[0]) if answers else None,
        groups_of(receipts),
        len(receipts),
    )
    for way in range(len(WAYS)):
        for shape in SHAPES:
            made = filled(way, shape, listed, [(status, result) for _, status, result in entries])
            assert told(made, some) == expected
            assert made[1:3] == receipts[1:3] and made[::-1] == receipts[::-1]
            assert made == receipts and receipts == made and made != [*receipts, None] and made != 5


def test_equal_if_the_receipts_are():
    listed = [Request(bytes(16), 1, seq, b"", b"") for seq in range(3)]
    for one in range(len(WAYS)):
        for other in range(len(WAYS)):
            made = filled(one, opened, listed, [(OK, b"r")] * 3)
            assert made == filled(other, in_lists, listed, [(OK, b"r")] * 3)
            assert made != filled(other, in_lists, listed, [(OK, b"r")] * 2)
            assert made != filled(other, in_lists, listed, [(OK, b"r"), (OK, b""), (OK, b"r")])


@pytest.mark.parametrize("count", [15, 16, 17, 70_000])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_long_lists(way, count):
    listed = [Request(bytes(16), 1, seq, b"", b"") for seq in range(min(count, 16_000))] * (
        1 + count // 16_000
    )
    listed = listed[:count]
    made = filled(way, in_lists, listed, [(OK, b"")] * count)
    assert made.encoded() == msgspec.msgpack.encode(list(made))
    answers = [(r.seq, r.request_digest, r.status, r.result) for r in made]
    assert made.answers(list(range(count))) == msgspec.msgpack.encode(answers)
    assert made.root() == receipts_root(list(made))


def apply_to(log: list[Any]) -> Any:
    def apply(context: Any, operation: bytes, room: int) -> tuple[int, bytes]:
        log.append((context.client, operation, room))
        if operation == b"raise":
            raise MemoryError
        return (REFUSED, b"refused") if operation == b"no" else (OK, operation * 3)

    return apply


def play(way: int, shape: Any, listed: list[Request], lanes: list[tuple[bytes, int, int]]) -> Any:
    new_outcomes, new_lane = WAYS[way]
    made, log = new_outcomes(*shape(listed)), []
    table = {client: new_lane(session, expected, []) for client, session, expected in lanes}
    room, context = ROOM, Context()
    while True:
        room = made.advance(table, context, apply_to(log), room)
        log.append(
            (len(made), room, {c: (lane.session, lane.expected, lane.answers) for c, lane in table.items()})
        )
        if len(made) == len(listed):
            return told(made, []), repr(log)
        made.add(REFUSED, b"not in order")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(requests, max_size=20),
    st.lists(st.tuples(st.sampled_from([b"a" * 16, b"b" * 16]), numbers, numbers), max_size=2),
)
def test_requests_in_order_are_executed_alike(listed, lanes):
    played = [play(way, shape, listed, lanes) for way in range(len(WAYS)) for shape in SHAPES]
    assert all(one == played[0] for one in played)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_lanes_go_on_as_long_as_numbers_do(way):
    listed = [Request(b"a" * 16, 1, seq, b"op", b"") for seq in (5, 6, 7, 9)]
    new_outcomes, new_lane = WAYS[way]
    made, lane = new_outcomes(*opened(listed)), new_lane(1, 5, [])
    assert made.advance({b"a" * 16: lane}, Context(), apply_to([]), ROOM) == ROOM - 3 * len(b"opopop")
    assert (lane.expected, lane.answers, len(made)) == (8, [0, 1, 2], 3)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_what_an_operation_raises_is_passed_on(way):
    listed = [Request(b"a" * 16, 1, 1, b"raise", b"")]
    new_outcomes, new_lane = WAYS[way]
    made = new_outcomes(*opened(listed))
    with pytest.raises(MemoryError):
        made.advance({b"a" * 16: new_lane(1, 1, [])}, Context(), apply_to([]), ROOM)
    assert len(made) == 0


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_there_are_no_more_outcomes_than_requests(way):
    with pytest.raises(IndexError):
        filled(way, opened, [Request(bytes(16), 1, 1, b"", b"")], [(OK, b"")] * 2)
    made = filled(way, opened, [Request(bytes(16), 1, 1, b"", b"")], [])
    for place in (0, -1, 2**70):
        with pytest.raises(IndexError):
            made[place]
    for call in (made.answers, made.span):
        with pytest.raises(IndexError):
            call([0])
    with pytest.raises(ValueError):
        made.span([])
    with pytest.raises(ValueError):
        WAYS[way][0]([], [bytes(32)])


@extension
def test_wrong_types_are_refused():
    listed = [Request(b"a" * 16, 1, 1, b"op", b"")] * 3
    made = filled(-1, in_lists, listed, [])
    for status, result in ((1.5, b""), (-1, b""), (128, b""), (2**70, b""), (0, "text"), (0, None)):
        with pytest.raises((TypeError, OverflowError)):
            made.add(status, result)
    for bad in (
        (listed, [b"short"] * 3),
        ([Request(b"short", 1, 1, b"", b"")], [bytes(32)]),
        ([None], [bytes(32)]),
    ):
        with pytest.raises((TypeError, AttributeError)):
            native.outcomes(*bad, Receipt)
    for answer in (None, (0,), (0, "text"), (None, b""), [0, b""]):
        with pytest.raises(TypeError):
            made.advance(
                {b"a" * 16: native.Lane(1, 1, [])}, Context(), lambda *_, answer=answer: answer, ROOM
            )
    with pytest.raises(RuntimeError):
        made.advance(
            {b"a" * 16: native.Lane(1, 1, [])}, Context(), lambda *_: made.add(OK, b"") or (OK, b""), ROOM
        )
    with pytest.raises(TypeError):
        native.Lane(1, 1, ())
    for call in (made.answers, made.encoded, made.grouped):
        with pytest.raises(TypeError):
            call((0,))
    made.add(OK, b"")
    for call in (made.answers, made.encoded, made.span):
        with pytest.raises(TypeError):
            call([0, 0.5])
        with pytest.raises(IndexError):
            call([2**70])
    with pytest.raises(TypeError):
        made.grouped({b"a" * 16: [7]})
    with pytest.raises(TypeError):
        made.grouped({b"a" * 16: {None: None}, 5: {}} | {b"a" * 16: ()})


@extension
def test_outcomes_hold_what_they_were_made_of():
    listed = [Request(b"%016d" % seq, 1, seq, b"op%d" % seq, b"") for seq in range(9)]
    made = filled(-1, opened, listed, [(OK, b"%d" % seq * 30) for seq in range(9)])
    gc.collect()
    assert [(r.client, r.seq, r.result) for r in made] == [
        (b"%016d" % seq, seq, b"%d" % seq * 30) for seq in range(9)
    ]


# --- writes -----------------------------------------------------------------------------------------


LIMITS = 12, 4, 60, 3


def bounded(base: Any) -> Any:
    class Bounded(base):
        __slots__ = ("__weakref__", "checked")

        def __init__(self):
            super().__init__(*LIMITS)
            self.checked = []

        def _check(self, full, size, total):
            self.checked.append((full, size, total))
            if size > LIMITS[0] or len(full) > LIMITS[1] + 1 or total > LIMITS[2]:
                raise OperationRefused("beyond a bound")
            if len(self._own) >= LIMITS[3] and full not in self._own:
                raise OperationRefused("too many")

    return Bounded()


keys = st.one_of(st.sampled_from([b"", b"k", b"l", b"m", b"n"]), st.binary(max_size=6))
steps = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=14)),
    st.tuples(st.sampled_from(["commit", "discard", "look", "delete"]), keys, st.just(b"")),
)


@extension
@settings(max_examples=500, deadline=None)
@given(st.lists(steps, max_size=30))
def test_writes_are_kept_alike(taken):
    pair = bounded(PlainWrites), bounded(native.Writes)
    for name, key, value in taken:
        found = []
        for writes in pair:
            refused = False
            if name == "put":
                try:
                    writes.put(key, value)
                except OperationRefused:
                    refused = True
            elif name == "look":
                found.append(list(writes._own.items()))
            elif name == "delete":
                writes._own[b"a" + key] = None
            else:
                getattr(writes, name)()
            found.append((refused, list(writes._block.items()), writes._bytes, writes._committed_bytes))
        assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert pair[0].checked == pair[1].checked
    assert list(pair[0]._own.items()) == list(pair[1]._own.items())
    assert plain_write_set_digest(pair[0]._block) == native.write_set_digest(pair[1]._block)


@extension
def test_keys_and_values_of_other_types():
    for writes in (bounded(PlainWrites), bounded(native.Writes)):
        writes.put(bytearray(b"k"), b"v")
        assert dict(writes._own) == {b"ak": b"v"}
        for key, value in (("k", b"v"), (None, b"v"), (b"k", "v"), (b"k", bytearray(b"v")), (b"k", None)):
            with pytest.raises(TypeError):
                writes.put(key, value)
        writes.client = b"c"
        assert writes.client == b"c"
    with pytest.raises(TypeError):
        native.write_set_digest({b"k": "v"})
    with pytest.raises(TypeError):
        native.write_set_digest([(b"k", b"v")])


@extension
@given(st.dictionaries(st.binary(max_size=70), st.one_of(st.none(), st.binary(max_size=300)), max_size=40))
def test_write_sets_have_the_same_digest(writes):
    assert native.write_set_digest(writes) == plain_write_set_digest(writes)


@extension
def test_a_context_in_a_cycle_is_collected():
    writes = bounded(native.Writes)
    writes.checked.append(writes)
    gone = weakref.ref(writes)
    del writes
    gc.collect()
    assert gone() is None
