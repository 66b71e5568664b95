"""Bundles: many operations under one signature, all or none."""

from __future__ import annotations

import msgspec
import pytest
from execution_world import DictReader, Scripted, executor, request, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import OK, REFUSED
from tepbft.errors import TepbftError
from tepbft.execution import bundle
from tepbft.execution.apps import bank, kv
from tepbft.execution.bundle import MAX_BUNDLE, Bundle, decode_results, encode_bundle
from tepbft.execution.loader import load_application, load_operations
from tepbft.execution.port import Application


def outcome(
    application: Application, *operations: bytes
) -> tuple[list[tuple[int, bytes]], dict[bytes, bytes]]:
    """Statuses and results of operations that stand in one block, and the application's state after it."""
    reader = DictReader()
    machine = executor(application, reader, window=2000)
    requests = [request(1, 1, number, operation) for number, operation in enumerate(operations, 1)]
    receipts = run(machine, requests).receipts
    settle(machine, reader, 1)
    state = {key: value for key, value in reader.state.items() if key.startswith(b"a")}
    return [(receipt.status, receipt.result) for receipt in receipts], state


def test_operations_run_in_order_and_see_each_other():
    single = [kv.parse(words.split()) for words in ("put a 1", "get a", "cas a 1 2", "get a", "delete a")]
    ((status, result),), state = outcome(Bundle(kv.KeyValue()), encode_bundle(single))
    assert status == OK and state == {}
    pack = msgspec.msgpack.encode
    assert decode_results(result) == [b"", pack(b"1"), pack((True, b"1")), pack(b"2"), pack(True)]


def test_one_refusal_refuses_all_with_its_index_and_reason():
    found, state = outcome(
        Bundle(Scripted()), encode_bundle([b"set x 1", b"set y 2", b"refuse"]), encode_bundle([b"get x"])
    )
    assert found[0] == (REFUSED, b"operation 2: no")
    assert found[1] == (OK, msgspec.msgpack.encode([b"-"])) and state == {}


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        b"\x90",  # no operation
        b"\xc4\x01x",  # not a list
        msgspec.msgpack.encode([b"get x", "text"]),
        msgspec.msgpack.encode([[b"get x"]]),
        msgspec.msgpack.encode([b"get x"] * (MAX_BUNDLE + 1)),
        encode_bundle([b"get x"]) + b"\x00",
        encode_bundle([b"get x"])[:-1],
        b"\x91" * 5000,
    ],
)
def test_what_is_no_bundle_is_refused(operation):
    ((status, result),), _ = outcome(Bundle(Scripted()), operation)
    assert status == REFUSED and b"not a bundle of 1 to 1024 operations" in result


def test_only_the_canonical_encoding_is_a_bundle():
    long_header = b"\xdc\x00\x01" + msgspec.msgpack.encode(b"get x")
    ((status, result),), _ = outcome(Bundle(Scripted()), long_header)
    assert (status, result) == (REFUSED, b"a bundle that is not in its canonical encoding")


def test_the_results_of_a_bundle_are_bounded_together():
    half = b"result %d" % (bundle.MAX_RESULT_BYTES // 2)
    found, _ = outcome(Bundle(Scripted()), encode_bundle([half, half, b"result 1"]))
    assert found[0][0] == REFUSED and found[0][1].startswith(b"operation 2: the results of a bundle")


def test_errors_of_the_application_refuse_the_bundle():
    found, state = outcome(
        Bundle(Scripted()), encode_bundle([b"set x 1", b"crash"]), encode_bundle([b"set x 1", b"wrong"])
    )
    assert found == [(REFUSED, b"application error: KeyError"), (REFUSED, b"application error: TypeError")]
    assert state == {}


def test_a_bundle_has_one_to_1024_operations():
    for count in (0, MAX_BUNDLE + 1):
        with pytest.raises(ValueError):
            encode_bundle([b""] * count)
    found, state = outcome(Bundle(Scripted()), encode_bundle([b"add n"] * MAX_BUNDLE))
    assert found[0][0] == OK and state == {b"an": b"1024"}


kv_operations = st.one_of(
    st.builds(kv.Put, st.binary(max_size=1), st.binary(max_size=3)),
    st.builds(kv.Get, st.binary(max_size=1)),
    st.builds(kv.Delete, st.binary(max_size=1)),
    st.builds(
        kv.CompareAndSwap, st.binary(max_size=1), st.none() | st.binary(max_size=1), st.binary(max_size=1)
    ),
    st.builds(kv.Range, st.just(b""), st.none()),
).map(kv.encode)
customers = st.integers(0, 2)
amounts = st.integers(0, 15_000)
bank_operations = st.one_of(
    st.builds(bank.Balance, customers),
    st.builds(bank.SendPayment, customers, customers, amounts),
    st.builds(bank.TransactSavings, customers, amounts.map(lambda amount: -amount)),
    st.builds(bank.WriteCheck, customers, amounts),
).map(bank.encode)


@settings(deadline=None)
@given(
    st.tuples(st.just("kv"), st.lists(kv_operations, min_size=1, max_size=20))
    | st.tuples(st.just("bank"), st.lists(bank_operations, min_size=1, max_size=20))
)
def test_a_bundle_of_k_equals_k_single_operations(load):
    name, operations = load
    singles, state = outcome(load_application(name), *operations)
    ((status, result),), bundled = outcome(load_application(f"bundle:{name}"), encode_bundle(operations))
    first = next((index for index, (single, _) in enumerate(singles) if single != OK), None)
    if first is None:
        assert status == OK and decode_results(result) == [single for _, single in singles]
        assert bundled == state
    else:
        assert (status, result) == (REFUSED, b"operation %d: %s" % (first, singles[first][1]))
        assert bundled == {}


# --- names and words --------------------------------------------------------------------------


def test_words_of_a_bundle():
    operations = load_operations("bundle:kv")
    encoded = operations.parse(["put", "a", "1", ",", "get", "a"])
    assert encoded == encode_bundle([kv.parse(["put", "a", "1"]), kv.parse(["get", "a"])])
    ((_, result),), _ = outcome(load_application("bundle:kv"), encoded)
    assert operations.render(encoded, result) == [{"key": "a"}, {"key": "a", "value": "1"}]
    assert operations.usage.startswith("1 to 1024 operations") and "put KEY VALUE" in operations.usage
    for nonsense in ([], [","], ["get", "a", ","], ["paint", "a"]):
        with pytest.raises(TepbftError, match="put KEY VALUE"):
            operations.parse(nonsense)
    with pytest.raises(TepbftError, match="too many"):
        operations.parse(["get", "a", ","] * MAX_BUNDLE + ["get", "a"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bundle:", "no such"), ("bundle:nothing", "no such"), ("bundle:bundle:kv", "a bundle of bundles")],
)
def test_names_that_are_no_bundle(name, reason):
    for load in (load_application, load_operations):
        with pytest.raises(TepbftError, match=reason):
            load(name)
