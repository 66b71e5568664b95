"""The linearizability checker against brute force, and against histories known to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tepbft.execution.apps import kv
from tepbft.sim.linearizability import Operation, apply, check, describe, observed

X, Y = b"x", b"y"


def put(client: int, value: bytes, at: int, until: int | None, key: bytes = X) -> Operation:
    return Operation(client=client, kind="put", key=key, value=value, invoked_ms=at, returned_ms=until)


def get(client: int, result: bytes | None, at: int, until: int | None, key: bytes = X) -> Operation:
    return Operation(client=client, kind="get", key=key, result=result, invoked_ms=at, returned_ms=until)


def delete(client: int, result: bool, at: int, until: int | None) -> Operation:
    return Operation(client=client, kind="delete", key=X, result=result, invoked_ms=at, returned_ms=until)


def cas(
    client: int,
    expected: bytes | None,
    value: bytes,
    result: tuple[bool, bytes | None],
    at: int,
    until: int | None,
) -> Operation:
    return Operation(
        client=client, kind="cas", key=X, value=value, expected=expected, result=result,
        invoked_ms=at, returned_ms=until,
    )  # fmt: skip


def scan(client: int, result: Any, at: int, until: int | None, end: bytes | None = None) -> Operation:
    return Operation(
        client=client, kind="range", key=b"a", end=end, result=result, invoked_ms=at, returned_ms=until
    )


# --- brute force ------------------------------------------------------------------------------


def subsets(items: Sequence[Operation]) -> list[list[Operation]]:
    return [[item for i, item in enumerate(items) if chosen >> i & 1] for chosen in range(1 << len(items))]


def in_real_time_order(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned_ms is not None and later.returned_ms < earlier.invoked_ms
        for i, earlier in enumerate(order)
        for later in order[i + 1 :]
    )


def replays(order: Sequence[Operation]) -> bool:
    state: Any = ()
    for op in order:
        state, result = apply(state, op)
        if op.returned_ms is not None and result != op.result:
            return False
    return True


def brute_force(history: Sequence[Operation]) -> bool:
    """Every order of every choice of the operations without return, keys together."""
    counted = [op for op in history if not op.refused]
    done = [op for op in counted if op.returned_ms is not None]
    unknown = [op for op in counted if op.returned_ms is None]
    return any(
        in_real_time_order(order) and replays(order)
        for chosen in subsets(unknown)
        for order in permutations(done + chosen)
    )


VALUES = (b"1", b"2")


@st.composite
def operations(draw: st.DrawFn, keys: Sequence[bytes], ranges: bool) -> Operation:
    kinds = ["put", "get", "delete", "cas"] + (["range"] if ranges else [])
    kind = draw(st.sampled_from(kinds))
    key = draw(st.sampled_from(keys))
    at = draw(st.integers(0, 8))
    until = draw(st.one_of(st.none(), st.integers(at, 10), st.integers(at, 10)))
    seen = st.sampled_from([None, *VALUES])
    words: dict[str, Any] = {}
    if kind == "get":
        words = {"result": draw(seen)}
    elif kind == "delete":
        words = {"result": draw(st.booleans())}
    elif kind == "put":
        words = {"value": draw(st.sampled_from(VALUES))}
    elif kind == "cas":
        result = (draw(st.booleans()), draw(seen))
        words = {"value": draw(st.sampled_from(VALUES)), "expected": draw(seen), "result": result}
    else:
        pairs = tuple((k, v) for k in keys for v in [draw(seen)] if v is not None)
        words = {"end": draw(st.sampled_from([None, b"y"])), "result": (pairs, False), "key": b"a"}
    return Operation(
        **{
            "client": 0, "kind": kind, "key": key, "invoked_ms": at, "returned_ms": until,
            "refused": draw(st.integers(0, 9)) == 0, **words,
        }
    )  # fmt: skip


@st.composite
def true_histories(draw: st.DrawFn, keys: Sequence[bytes], ranges: bool) -> list[Operation]:
    """Results as some order gives them; calls and returns around the moment of each."""
    state: Any = ()
    history = []
    for moment, op in enumerate(draw(st.lists(operations(keys, ranges), max_size=6))):
        state, result = apply(state, op) if not op.refused else (state, None)
        at = 3 * moment
        begun = draw(st.integers(max(0, at - 7), at))
        until = draw(st.one_of(st.none(), st.integers(at, at + 7)))
        history.append(replace(op, invoked_ms=begun, returned_ms=until, result=result))
    return draw(st.permutations(history))


@settings(max_examples=200, deadline=None)
@given(st.lists(operations([X], False), max_size=5))
def test_agrees_with_brute_force_on_one_key(history: list[Operation]) -> None:
    assert check(history).ok == brute_force(history)


@settings(max_examples=150, deadline=None)
@given(st.lists(operations([X, Y], True), max_size=5))
def test_agrees_with_brute_force_on_two_keys_with_ranges(history: list[Operation]) -> None:
    assert check(history).ok == brute_force(history)


@settings(max_examples=150, deadline=None)
@given(true_histories([X, Y], True))
def test_true_histories_pass(history: list[Operation]) -> None:
    assert check(history).ok


@settings(max_examples=150, deadline=None)
@given(true_histories([X], False), st.data())
def test_a_changed_result_is_judged_as_brute_force_does(
    history: list[Operation], data: st.DataObject
) -> None:
    reads = [i for i, op in enumerate(history) if op.kind == "get" and op.returned_ms is not None]
    if reads:
        index = data.draw(st.sampled_from(reads))
        history[index] = replace(history[index], result=data.draw(st.sampled_from([None, *VALUES])))
    assert check(history).ok == brute_force(history)


@settings(max_examples=150, deadline=None)
@given(st.lists(operations([X, Y], True), max_size=6))
def test_counter_examples_are_violations_of_their_own(history: list[Operation]) -> None:
    verdict = check(history)
    if verdict.ok:
        return
    assert not brute_force(verdict.counter_example)
    assert len(verdict.counter_example) <= len(history)
    assert describe(verdict.counter_example[0]) and verdict.reason


# --- examples ---------------------------------------------------------------------------------


def test_empty() -> None:
    assert check([]).ok


def test_a_stale_read() -> None:
    """The write of 2 had returned before the read was called."""
    history = [put(0, b"1", 0, 5), put(0, b"2", 10, 15), get(1, b"1", 20, 25)]
    verdict = check(history)
    assert not verdict.ok and not verdict.undecided
    assert "get x -> b'1'" in verdict.reason
    assert check([*history[:2], get(1, b"1", 12, 25)]).ok


def test_two_readers_disagree_on_the_order() -> None:
    """New then old: each read alone would be fine."""
    history = [put(0, b"1", 0, 5), put(1, b"2", 10, 90), get(2, b"2", 20, 30), get(3, b"1", 40, 50)]
    assert not check(history).ok
    assert check([*history[:2], history[3], get(2, b"2", 60, 70)]).ok


def test_a_lost_write() -> None:
    assert not check([put(0, b"1", 0, 5), get(1, None, 6, 7)]).ok


def test_a_value_from_nowhere() -> None:
    verdict = check([put(0, b"1", 0, 5), get(1, b"7", 6, 7), put(0, b"3", 8, 9), get(0, b"3", 10, 11)])
    assert not verdict.ok
    assert [op.kind for op in verdict.counter_example] == ["get"]


def test_two_swaps_from_one_value() -> None:
    """Both clients believe that they took the lock."""
    taken = [
        cas(0, None, b"a", (True, None), 0, 10),
        cas(1, None, b"b", (True, None), 5, 15),
    ]
    assert not check(taken).ok
    assert check([taken[0], cas(1, None, b"b", (False, b"a"), 5, 15)]).ok
    assert not check([taken[0], cas(1, None, b"b", (False, None), 5, 15)]).ok


def test_a_delete_undone() -> None:
    history = [put(0, b"1", 0, 1), delete(0, True, 2, 3), get(1, b"1", 4, 5)]
    assert not check(history).ok
    assert not check([put(0, b"1", 0, 1), delete(0, True, 2, 3), delete(1, True, 4, 5)]).ok


def test_without_return_it_may_take_effect_late_or_never() -> None:
    hanging = put(0, b"1", 0, None)
    assert check([hanging, get(1, None, 100, 110)]).ok
    assert check([hanging, get(1, None, 100, 110), get(1, b"1", 120, 130)]).ok
    assert not check([hanging, get(1, b"1", 100, 110), get(1, None, 120, 130)]).ok
    assert not check([put(0, b"1", 50, None), get(1, b"1", 10, 20)]).ok, "not before it was called"


def test_a_refused_write_has_no_effect() -> None:
    refused = replace(put(0, b"1", 0, 5), refused=True)
    assert check([refused, get(1, None, 6, 7)]).ok
    assert not check([refused, get(1, b"1", 6, 7)]).ok


def test_a_range_sees_one_moment() -> None:
    """x was there before y: a range may not show y without x, though per key all is well."""
    history = [
        put(0, b"1", 0, 5),
        put(0, b"1", 10, 15, key=Y),
        scan(1, (((Y, b"1"),), False), 0, 20),
    ]
    assert not check(history).ok
    assert check([*history[:2], scan(1, (((X, b"1"),), False), 0, 20)]).ok
    assert check([*history[:2], scan(1, (((X, b"1"),), False), 30, 40, end=b"y")]).ok


def test_keys_outside_every_range_are_checked_apart() -> None:
    ok = [op for i in range(40) for op in (put(i, b"1", 0, 99, key=b"%02d" % i),)]
    assert check([*ok, scan(0, ((), False), 0, 99)]).ok
    verdict = check([*ok, get(0, b"9", 0, 99, key=b"07"), scan(0, ((), False), 0, 99)])
    assert not verdict.ok and "07" in verdict.reason


def test_the_counter_example_leaves_out_what_does_not_matter() -> None:
    noise = [put(i, b"v%d" % i, 10 * i, 10 * i + 5) for i in range(30)]
    reads = [get(i, b"v%d" % i, 10 * i + 6, 10 * i + 7) for i in range(30)]
    wrong = get(9, b"v3", 200, 201)
    verdict = check([*noise, *reads, wrong])
    assert not verdict.ok
    assert wrong in verdict.counter_example
    assert len(verdict.counter_example) <= 4


def test_bounded_work_ends_undecided() -> None:
    """Many concurrent writes and a read of none of them: all orders would have to be tried."""
    history = [put(i, b"%d" % i, 0, 1000) for i in range(24)]
    history += [get(99, b"none", 0, 1000)]
    verdict = check(history, max_configurations=1000)
    assert verdict.undecided and not verdict.ok and not verdict.counter_example
    assert "no verdict" in verdict.reason


def test_long_histories_are_cheap() -> None:
    """Five clients, 2,000 operations, a few of them hanging for ever."""
    state: Any = ()
    history = []
    for number in range(2000):
        at = number * 4
        if number % 100 == 50:
            history.append(put(number % 5, b"h%d" % number, at, None))
            continue
        op = put(number % 5, b"%d" % number, 0, 0) if number % 3 else get(number % 5, None, 0, 0)
        state, result = apply(state, op)
        history.append(replace(op, invoked_ms=max(0, at - 8), returned_ms=at + 8, result=result))
    verdict = check(history)
    assert verdict.ok and verdict.configurations < 100_000


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="not an operation"):
        check([put(0, b"1", 5, 4)])


@pytest.mark.parametrize(
    ("operation", "result", "expected"),
    [
        (kv.Put(X, b"1"), b"", None),
        (kv.Get(X), kv.encode(b"1"), b"1"),  # type: ignore[arg-type]
        (kv.Delete(X), kv.encode(True), True),  # type: ignore[arg-type]
        (kv.CompareAndSwap(X, None, b"1"), kv.encode((True, None)), (True, None)),  # type: ignore[arg-type]
        (kv.Range(b"a", None, 5), kv.encode(([(X, b"1")], False)), (((X, b"1"),), False)),  # type: ignore[arg-type]
    ],
)
def test_reads_the_bytes_of_the_application(operation: kv.Operation, result: bytes, expected: object) -> None:
    op = observed(3, kv.encode(operation), result, invoked_ms=1, returned_ms=2)
    assert (op.client, op.result) == (3, expected)
    assert observed(3, kv.encode(operation), None, invoked_ms=1, returned_ms=None).returned_ms is None
