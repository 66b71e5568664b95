"""The demo's ledger: two applications that cannot touch each other's keys."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from tepbft.cli.demo_app import APP_NAME, DemoLedger, parse, render, wrap_bank, wrap_notary
from tepbft.errors import OperationRefused, TepbftError
from tepbft.execution.apps import bank, notary
from tepbft.execution.loader import load_application, load_operations
from tepbft.lab.workload import smallbank


class Table:
    """A context over a dict."""

    height, timestamp_ms, seed, client = 7, 1234, bytes(32), b"c" * 16

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.data[key] = value

    def delete(self, key: bytes) -> None:
        self.data.pop(key, None)

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        keys = sorted(key for key in self.data if start <= key < end)[:limit]
        return iter([(key, self.data[key]) for key in keys])


def test_it_is_found_by_its_name() -> None:
    assert isinstance(load_application(APP_NAME), DemoLedger)
    operations = load_operations(APP_NAME)
    assert operations.parse(["bank", "balance", "3"]) == wrap_bank(bank.encode(bank.Balance(3)))


def test_each_part_writes_below_its_own_prefix() -> None:
    table, ledger = Table(), DemoLedger()
    ledger.execute(table, wrap_bank(bank.encode(bank.DepositChecking(1, 5))))
    assert table.data and all(key.startswith(b"B") for key in table.data)
    before = dict(table.data)
    ledger.execute(table, wrap_notary(notary.encode(notary.Register(b"d" * 32, "name", 3, "text/plain"))))
    fresh = {key: value for key, value in table.data.items() if key not in before}
    assert fresh and all(key.startswith(b"N") for key in fresh)
    assert all(table.data[key] == value for key, value in before.items())


def test_ranges_show_keys_without_the_prefix() -> None:
    table, ledger = Table(), DemoLedger()
    for number in range(3):
        digest = bytes([number]) * 32
        ledger.execute(table, wrap_notary(notary.encode(notary.Register(digest, f"{number}", 1, "t"))))
    operation = wrap_notary(notary.encode(notary.List(None)))
    listed = render(operation, ledger.execute(table, operation))
    assert isinstance(listed, dict) and [entry["name"] for entry in listed["entries"]] == ["0", "1", "2"]


@pytest.mark.parametrize("operation", [b"", b"X", b"b\x01"])
def test_an_operation_of_neither_is_refused(operation: bytes) -> None:
    with pytest.raises(OperationRefused):
        DemoLedger().execute(Table(), operation)


def test_words_lead_to_both_parts() -> None:
    digest = "ab" * 32
    assert parse(["notary", "lookup", digest])[:1] == b"N"
    assert parse(["balance", "4"]) == parse(["bank", "balance", "4"])
    with pytest.raises(TepbftError):
        parse(["nonsense"])


def test_the_load_is_executable_and_repeatable() -> None:
    """The same seed gives the same operations; each is one of the bank's, executed or refused."""
    operations = list(islice(smallbank(Random("1/0")), 500))
    assert operations == list(islice(smallbank(Random("1/0")), 500)) and len(operations) == 500
    table, ledger = Table(), DemoLedger()
    executed = 0
    for operation in operations:
        try:
            ledger.execute(table, wrap_bank(operation))
            executed += 1
        except OperationRefused as refusal:
            assert "insufficient" in str(refusal)
    assert executed > 400
