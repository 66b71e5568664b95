"""Loads: reproducible, of the size that was asked for, and understood by the application."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import pytest

from tepbft.errors import TepbftError
from tepbft.execution.apps import bank, kv, notary
from tepbft.lab.workload import APPLICATIONS, KEYS, operations


def some(app: str, payload: int = 100, seed: str = "1/a", count: int = 300) -> list[bytes]:
    """The first operations of a load."""
    return list(islice(operations(app, payload, seed), count))


@pytest.mark.parametrize("app", APPLICATIONS)
def test_a_seed_names_its_operations(app: str) -> None:
    assert some(app) == some(app)
    assert some(app) != some(app, seed="1/b")


@pytest.mark.parametrize("payload", [32, 100, 1000, 16_000])
def test_kv_operations_have_about_the_size_that_was_asked_for(payload: int) -> None:
    for operation in some("kv", payload, count=50):
        assert abs(len(operation) - payload) <= 8


def test_kv_keys_stay_within_their_range() -> None:
    keys = [msgspec.msgpack.decode(operation, type=kv.Put).key for operation in some("kv", count=2000)]
    assert all(0 <= int(key[1:]) < KEYS for key in keys) and len(set(keys)) > 1900


def test_bank_operations_are_the_usual_mix() -> None:
    decoded: list[Any] = [
        msgspec.msgpack.decode(operation, type=bank.Operation) for operation in some("bank", count=4000)
    ]
    kinds = [type(one).__name__ for one in decoded]
    assert 0.22 < kinds.count("SendPayment") / len(kinds) < 0.28
    assert len(set(kinds)) == 6
    for name in set(kinds) - {"SendPayment"}:
        assert 0.12 < kinds.count(name) / len(kinds) < 0.18


def test_notary_names_are_filled_up_and_documents_differ() -> None:
    found = [msgspec.msgpack.decode(operation, type=notary.Register) for operation in some("notary", 200)]
    assert len({str(one) for one in found}) == len(found)
    assert all(len(operation) <= 260 for operation in some("notary", 200))


def test_an_unknown_application_is_wrong_usage() -> None:
    with pytest.raises(TepbftError) as caught:
        operations("chess", 100, "1")
    assert caught.value.exit_code == 2
