"""The applications that ship, run through the executor."""

from __future__ import annotations

import pytest
from execution_world import DictReader, client, executor, request, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import OK, REFUSED
from tepbft.errors import ContractBroken, TepbftError
from tepbft.execution.apps import bank, kv, notary
from tepbft.execution.apps.words import parse_bytes, parse_number, render_bytes
from tepbft.execution.loader import load_application, load_operations


class Teller:
    """Runs command-line words against one application, one block each."""

    def __init__(self, name: str) -> None:
        self.operations = load_operations(name)
        self.reader = DictReader()
        self.machine = executor(load_application(name), self.reader, window=1000)
        self.seqs = {1: 0, 2: 0}

    def say(self, words: str, who: int = 1, ts: int = 0):
        """(status, rendered result or refusal)."""
        operation = self.operations.parse(words.split(" "))
        return self.send(operation, who, ts)

    def send(self, operation: bytes, who: int = 1, ts: int = 0):
        self.seqs[who] += 1
        receipt = run(self.machine, [request(who, 1, self.seqs[who], operation)], ts).receipts[0]
        if self.machine.height % 3 == 0:
            settle(self.machine, self.reader, self.machine.height - 1)
        if receipt.status != OK:
            return receipt.status, receipt.result.decode()
        return receipt.status, self.operations.render(operation, receipt.result)


# --- kv ---------------------------------------------------------------------------------------


def test_kv_commands():
    teller = Teller("kv")
    assert teller.say("get a") == (OK, {"key": "a", "value": None})
    assert teller.say("put a 1") == (OK, {"key": "a"})
    assert teller.say("get a") == (OK, {"key": "a", "value": "1"})
    assert teller.say("cas a 2 3") == (OK, {"key": "a", "swapped": False, "found": "1"})
    assert teller.say("cas a 1 3") == (OK, {"key": "a", "swapped": True, "found": "1"})
    assert teller.say("cas b - 0xff00") == (OK, {"key": "b", "swapped": True, "found": None})
    assert teller.say("put c 4") == (OK, {"key": "c"})
    assert teller.say("range a - 2") == (OK, {"pairs": [["a", "3"], ["b", "0xff00"]], "more": True})
    assert teller.say("range b c") == (OK, {"pairs": [["b", "0xff00"]], "more": False})
    assert teller.say("delete b") == (OK, {"key": "b", "deleted": True})
    assert teller.say("delete b") == (OK, {"key": "b", "deleted": False})
    assert teller.say("range a -") == (OK, {"pairs": [["a", "3"], ["c", "4"]], "more": False})


def test_kv_range_is_cut_before_its_result_grows_too_large():
    teller = Teller("kv")
    for number in range(5):
        teller.send(kv.encode(kv.Put(b"%d" % number, bytes(90_000))))
    status, result = teller.say("range 0 -")
    assert status == OK and len(result["pairs"]) == 2 and result["more"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pgdcr"), st.binary(max_size=1), st.binary(max_size=1))))
def test_kv_equals_a_dict(steps):
    """Every result is what a dict says."""
    teller, model = Teller("kv"), {}
    for what, key, value in steps:
        old = model.get(key)
        match what:
            case "p":
                teller.send(kv.encode(kv.Put(key, value)))
                model[key] = value
            case "g":
                expected = None if old is None else render_bytes(old)
                assert teller.send(kv.encode(kv.Get(key)))[1]["value"] == expected
            case "d":
                assert teller.send(kv.encode(kv.Delete(key)))[1]["deleted"] == (old is not None)
                model.pop(key, None)
            case "c":
                swapped = teller.send(kv.encode(kv.CompareAndSwap(key, old or None, value)))[1]["swapped"]
                assert swapped == ((old or None) == old)
                if swapped:
                    model[key] = value
            case "r":
                pairs = teller.send(kv.encode(kv.Range(key, None, 1000)))[1]["pairs"]
                inside = sorted((k, v) for k, v in model.items() if k >= key)
                assert pairs == [[render_bytes(k), render_bytes(v)] for k, v in inside]


# --- bank -------------------------------------------------------------------------------------


def test_bank_commands():
    teller = Teller("bank")
    o = bank.OPENING_BALANCE

    def accounts(customer, savings, checking):
        return OK, {"customer": customer, "savings": savings, "checking": checking}

    assert teller.say("balance 1") == accounts(1, o, o)
    assert teller.say("deposit_checking 1 50") == accounts(1, o, o + 50)
    assert teller.say("transact_savings 1 -100") == accounts(1, o - 100, o + 50)
    assert teller.say(f"transact_savings 1 -{o}") == (REFUSED, "insufficient funds")
    assert teller.say("send_payment 1 2 50") == accounts(1, o - 100, o)
    assert teller.say(f"send_payment 1 2 {o + 1}") == (REFUSED, "insufficient funds")
    assert teller.say("send_payment 1 1 1")[0] == REFUSED
    assert teller.say("amalgamate 1 2") == accounts(1, 0, 0)
    assert teller.say("balance 2") == accounts(2, o, 3 * o - 50)
    assert teller.say("amalgamate 2 2")[0] == REFUSED
    assert teller.say("write_check 1 5") == accounts(1, 0, -5 - bank.OVERDRAFT_PENALTY)
    assert teller.say("amalgamate 1 2") == (REFUSED, "insufficient funds")
    assert teller.say("write_check 2 5") == accounts(2, o, 3 * o - 55)
    settle(teller.machine, teller.reader, teller.machine.height)
    books = bank.audit(teller.reader)
    assert books.balanced and books.customers == 2
    assert bank.audit_total(teller.reader) == books.total == 4 * o + books.flow


customers = st.integers(0, 4)
amounts = st.sampled_from([0, 1, 7, 9_000, 25_000, bank.MAX_AMOUNT])
bank_operations = st.one_of(
    st.builds(bank.Balance, customers),
    st.builds(bank.DepositChecking, customers, amounts),
    st.builds(bank.TransactSavings, customers, amounts.map(lambda a: -a) | amounts),
    st.builds(bank.Amalgamate, customers, customers),
    st.builds(bank.WriteCheck, customers, amounts),
    st.builds(bank.SendPayment, customers, customers, amounts),
)


@settings(deadline=None)
@given(st.lists(bank_operations, max_size=40), st.integers(1, 7))
def test_bank_conserves_money(operations, size):
    """The sum of all balances is the opening balances plus what came in from outside."""
    reader = DictReader()
    machine = executor(bank.Bank(), reader, window=1000)
    asks = [request(1, 1, seq, bank.encode(op)) for seq, op in enumerate(operations, 1)]
    for start in range(0, len(asks), size):
        run(machine, asks[start : start + size])
        settle(machine, reader, machine.height)
        assert bank.audit(reader).balanced
    assert machine.application_errors == 0


def test_bank_audit_notices_money_from_nowhere():
    reader = DictReader()
    machine = executor(bank.Bank(), reader)
    run(machine, [request(1, 1, 1, bank.encode(bank.DepositChecking(1, 5)))])
    settle(machine, reader, 1)
    (key,) = [key for key in reader.state if key.startswith(b"au")]
    reader.state[key] = reader.state[key][:8] + bytes(8)
    with pytest.raises(ContractBroken):
        bank.audit_total(reader)


def test_bank_refuses_balances_out_of_range(monkeypatch):
    monkeypatch.setattr(bank, "MAX_BALANCE", 15_000)
    teller = Teller("bank")
    assert teller.say("deposit_checking 1 5001")[0] == REFUSED
    assert teller.say("deposit_checking 1 15001")[0] == REFUSED
    settle(teller.machine, teller.reader, teller.machine.height)
    assert bank.audit(teller.reader) == bank.Audit(0, 0, 0, True)


# --- notary -----------------------------------------------------------------------------------


def test_notary_first_registration_wins_and_is_named():
    teller = Teller("notary")
    digest = "ab" * 32
    status, entry = teller.say(f"register {digest} report.pdf 1234 application/pdf", ts=77)
    assert status == OK
    assert entry == {
        "digest": digest,
        "client": client(1).hex(),
        "timestamp_ms": 77,
        "height": 1,
        "index": 0,
        "name": "report.pdf",
        "size": 1234,
        "media_type": "application/pdf",
    }
    status, text = teller.say(f"register {digest} copy.pdf 1", who=2, ts=99)
    assert status == REFUSED
    assert client(1).hex() in text and "height 1" in text and "77" in text
    assert teller.say(f"lookup {digest}", who=2) == (OK, entry)
    assert teller.say("lookup " + "cd" * 32) == (OK, None)


def test_notary_lists_page_by_page_and_client_by_client():
    teller = Teller("notary")
    for number in range(5):
        teller.say(f"register {number:064x} file{number} {number}", who=1)
        teller.say(f"register {number + 100:064x} other{number} {number}", who=2)
    seen, start = [], 0
    while start is not None:
        _, page = teller.say(f"list - {start} 2", who=1)
        seen += [entry["name"] for entry in page["entries"]]
        start = page["next"]
    assert seen == [f"file{number}" for number in range(5)]
    _, page = teller.say(f"list {client(2).hex()}", who=1)
    assert [entry["index"] for entry in page["entries"]] == list(range(5))
    assert page["next"] is None
    assert teller.say("list " + "00" * 16) == (OK, {"entries": [], "next": None})


def test_notary_bounds_the_bytes_of_a_name():
    teller = Teller("notary")
    long = notary.encode(notary.Register(bytes(32), "ü" * notary.MAX_NAME_BYTES, 0, ""))
    assert teller.send(long)[0] == REFUSED
    fits = notary.encode(notary.Register(bytes(32), "x" * notary.MAX_NAME_BYTES, 0, ""))
    assert teller.send(fits)[0] == OK


# --- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kv", "bank", "notary"])
@settings(deadline=None)
@given(data=st.binary(max_size=40))
def test_arbitrary_operations_never_crash_an_application(name, data):
    """I-25: hostile bytes are refused, not an application error."""
    machine = executor(load_application(name))
    run(machine, [request(1, 1, 1, data)])
    assert machine.application_errors == 0


@pytest.mark.parametrize("name", ["kv", "bank", "notary"])
def test_deeply_nested_operations_are_plain_refusals(name):
    """I-2: how deep a decoder may recurse depends on the caller's stack, which replicas do not share."""
    machine = executor(load_application(name))
    nested = b"\x93\x01\xc4\x01k" + b"\x91" * 5000
    extra = b"\x94\x02" + b"\x01" * 2 + b"\x91" * 5000
    done = run(machine, [request(1, 1, 1, nested), request(1, 1, 2, extra)])
    assert [r.result for r in done.receipts] == [b"not an operation of %b" % name.encode()] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kv", "put a"),
        ("kv", "range a b 0"),
        ("kv", "range a b 5 6"),
        ("kv", "get " + "k" * 1025),
        ("kv", "get 0xzz"),
        ("bank", "balance -1"),
        ("bank", "balance x"),
        ("bank", "deposit_checking 1 -5"),
        ("bank", "deposit_checking 1 99999999999999"),
        ("bank", ""),
        ("notary", "register ab name 5"),
        ("notary", "lookup zz"),
        ("notary", "list 1234"),
        ("notary", "list - -1"),
        ("notary", "register " + "ab" * 32 + " " + "n" * 5000 + " 1"),
    ],
)
def test_nonsense_words_are_explained(name, words):
    with pytest.raises(TepbftError) as caught:
        load_operations(name).parse(words.split(" "))
    assert caught.value.remedy


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_rendered_bytes_can_be_typed_again(data):
    assert parse_bytes(render_bytes(data)) == data


@pytest.mark.parametrize("word", ["", "-", "٣", "1e3", "1" * 30, "--1"])
def test_numbers_are_plain_decimal(word):
    with pytest.raises(TepbftError):
        parse_number(word, "N", -10, 10)
