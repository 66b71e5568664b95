"""SmallBank: customers with a savings and a checking account, six operations.

All amounts are integers. A customer's accounts exist from the start with the opening
balance; they are stored from the first change on, so a benchmark needs no load phase.
State: `u` + customer (8 bytes, big-endian) holds savings and checking (two signed
8-byte integers, little-endian); `f` holds the net flow of money into the bank from
outside. Money neither appears nor vanishes: see `audit`.

Every operation returns savings and checking of its (first) customer afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct

from tepbft.errors import ContractBroken
from tepbft.execution.apps.words import parse_number, usage_error
from tepbft.execution.port import Context, OperationRefused

OPENING_BALANCE = 10_000
"""What each of a customer's two accounts holds at first."""
OVERDRAFT_PENALTY = 1
MAX_AMOUNT = 1 << 40
MAX_BALANCE = 1 << 60
MAX_CUSTOMER = (1 << 32) - 1

USAGE = """\
balance CUSTOMER
deposit_checking CUSTOMER AMOUNT
transact_savings CUSTOMER AMOUNT   (negative: withdraw)
amalgamate FROM TO                 (all money of FROM to checking of TO)
write_check CUSTOMER AMOUNT        (overdrafts cost a penalty of 1)
send_payment FROM TO AMOUNT        (checking to checking)"""

_Customer = Annotated[int, Meta(ge=0, le=MAX_CUSTOMER)]
_Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
_SignedAmount = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]


class Balance(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Read both accounts."""

    customer: _Customer


class DepositChecking(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """Pay in from outside."""

    customer: _Customer
    amount: _Amount


class TransactSavings(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """Pay into savings from outside, or out if negative; savings must not become negative."""

    customer: _Customer
    amount: _SignedAmount


class Amalgamate(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=4):
    """Move everything `source` has to checking of `target`."""

    source: _Customer
    target: _Customer


class WriteCheck(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=5):
    """Pay out of checking; if both accounts together do not cover it, a penalty is charged."""

    customer: _Customer
    amount: _Amount


class SendPayment(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=6):
    """Move money between two checking accounts; it must be there."""

    source: _Customer
    target: _Customer
    amount: _Amount


Operation: TypeAlias = Balance | DepositChecking | TransactSavings | Amalgamate | WriteCheck | SendPayment
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)
_encode = msgspec.msgpack.Encoder().encode
_ACCOUNTS = struct.Struct("<qq")
_FLOW = struct.Struct("<q")
_USER = struct.Struct(">cQ")
_FLOW_KEY = b"f"
_INSUFFICIENT = "insufficient funds"


def encode(operation: Operation) -> bytes:
    """Bytes of an operation, to put into a request."""
    return _encode(operation)


def _load(context: Context, customer: int) -> tuple[int, int]:
    data = context.get(_USER.pack(b"u", customer))
    if data is None:
        return OPENING_BALANCE, OPENING_BALANCE
    savings, checking = _ACCOUNTS.unpack(data)
    return savings, checking


def _store(context: Context, customer: int, savings: int, checking: int) -> bytes:
    if not (-MAX_BALANCE <= savings <= MAX_BALANCE and -MAX_BALANCE <= checking <= MAX_BALANCE):
        raise OperationRefused("a balance would be out of range")
    data = _ACCOUNTS.pack(savings, checking)
    context.put(_USER.pack(b"u", customer), data)
    return data


def _flow(context: Context, amount: int) -> None:
    data = context.get(_FLOW_KEY)
    total = amount if data is None else _FLOW.unpack(data)[0] + amount
    if not -MAX_BALANCE <= total <= MAX_BALANCE:
        raise OperationRefused("the flow of money would be out of range")
    context.put(_FLOW_KEY, _FLOW.pack(total))


class Bank:
    """The application `bank`."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out one operation; the result is savings and checking of its first customer."""
        try:
            op = _decoder.decode(operation)
        except (msgspec.MsgspecError, ValueError):
            raise OperationRefused("not an operation of bank") from None
        if isinstance(op, Balance):
            return _ACCOUNTS.pack(*_load(context, op.customer))
        if isinstance(op, DepositChecking):
            return self._change(context, op.customer, 0, op.amount)
        if isinstance(op, SendPayment):
            return self._send_payment(context, op)
        if isinstance(op, TransactSavings):
            if _load(context, op.customer)[0] + op.amount < 0:
                raise OperationRefused(_INSUFFICIENT)
            return self._change(context, op.customer, op.amount, 0)
        if isinstance(op, WriteCheck):
            covered = sum(_load(context, op.customer)) >= op.amount
            return self._change(context, op.customer, 0, -op.amount - (0 if covered else OVERDRAFT_PENALTY))
        return self._amalgamate(context, op)

    def _change(self, context: Context, customer: int, to_savings: int, to_checking: int) -> bytes:
        savings, checking = _load(context, customer)
        _flow(context, to_savings + to_checking)
        return _store(context, customer, savings + to_savings, checking + to_checking)

    def _send_payment(self, context: Context, op: SendPayment) -> bytes:
        if op.source == op.target:
            raise OperationRefused("source and target are the same")
        savings, checking = _load(context, op.source)
        if checking < op.amount:
            raise OperationRefused(_INSUFFICIENT)
        target_savings, target_checking = _load(context, op.target)
        _store(context, op.target, target_savings, target_checking + op.amount)
        return _store(context, op.source, savings, checking - op.amount)

    def _amalgamate(self, context: Context, op: Amalgamate) -> bytes:
        if op.source == op.target:
            raise OperationRefused("source and target are the same")
        total = sum(_load(context, op.source))
        if total < 0:
            raise OperationRefused(_INSUFFICIENT)
        savings, checking = _load(context, op.target)
        _store(context, op.target, savings, checking + total)
        return _store(context, op.source, 0, 0)


# --- audit ------------------------------------------------------------------------------------


class Scannable(Protocol):
    """Any reader of the state: a store, or an overlay over one."""

    def get(self, key: bytes) -> bytes | None:
        """Value of a state key."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """State keys in [start, end), in order."""
        ...


class Audit(Struct, frozen=True):
    """Whether the books agree: `total` must equal 2 * OPENING_BALANCE * `customers` + `flow`."""

    customers: int
    """Customers with a stored balance."""
    total: int
    """Sum of all stored balances."""
    flow: int
    """Money that came in from outside less what went out."""
    balanced: bool


def audit(reader: Scannable) -> Audit:
    """Add up the whole bank; ContractBroken if a record is unreadable."""
    customers = total = 0
    for key, value in reader.scan(b"au", b"av"):
        if len(value) != _ACCOUNTS.size:
            raise ContractBroken(f"unreadable accounts under {key.hex()}")
        customers += 1
        total += sum(_ACCOUNTS.unpack(value))
    data = reader.get(b"a" + _FLOW_KEY)
    flow = 0 if data is None else _FLOW.unpack(data)[0]
    return Audit(customers, total, flow, total == 2 * OPENING_BALANCE * customers + flow)


def audit_total(reader: Scannable) -> int:
    """Sum of all stored balances; ContractBroken if money appeared or vanished."""
    books = audit(reader)
    if not books.balanced:
        raise ContractBroken(f"the bank's books do not agree: {books}")
    return books.total


# --- command line -----------------------------------------------------------------------------


def parse(words: Sequence[str]) -> bytes:
    """Words of a command line to an operation; TepbftError with the usage on nonsense."""

    def customer(word: str) -> int:
        return parse_number(word, "CUSTOMER", 0, MAX_CUSTOMER)

    def amount(word: str, low: int = 0) -> int:
        return parse_number(word, "AMOUNT", low, MAX_AMOUNT)

    match list(words):
        case ["balance", who]:
            operation: Operation = Balance(customer(who))
        case ["deposit_checking", who, much]:
            operation = DepositChecking(customer(who), amount(much))
        case ["transact_savings", who, much]:
            operation = TransactSavings(customer(who), amount(much, -MAX_AMOUNT))
        case ["amalgamate", source, target]:
            operation = Amalgamate(customer(source), customer(target))
        case ["write_check", who, much]:
            operation = WriteCheck(customer(who), amount(much))
        case ["send_payment", source, target, much]:
            operation = SendPayment(customer(source), customer(target), amount(much))
        case _:
            raise usage_error(" ".join(words), USAGE)
    return _encode(operation)


def render(operation: bytes, result: bytes) -> object:
    """The result of an operation as plain values for JSON."""
    op = _decoder.decode(operation)
    customer = op.source if isinstance(op, Amalgamate | SendPayment) else op.customer
    savings, checking = _ACCOUNTS.unpack(result)
    return {"customer": customer, "savings": savings, "checking": checking}
