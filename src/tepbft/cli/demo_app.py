"""One ledger with two applications: the bank and the notary, side by side.

An operation is one byte that names the application, and the application's own operation.
Each sees a part of the state of its own, so neither can touch the other's keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tepbft.execution.apps import bank, notary
from tepbft.execution.port import Application, Context, OperationRefused

APP_NAME = "tepbft.cli.demo_app:DemoLedger"
BANK, NOTARY = b"B", b"N"
USAGE = "\n".join(
    f"{name} {line}" if line and not line.startswith(" ") else line
    for name, usage in (("bank", bank.USAGE), ("notary", notary.USAGE))
    for line in usage.splitlines()
)


class _Part:
    """A context whose keys all begin with one byte of the ledger's."""

    __slots__ = ("_context", "_prefix", "client", "height", "seed", "timestamp_ms")

    def __init__(self, context: Context, prefix: bytes) -> None:
        self._context = context
        self._prefix = prefix
        self.height = context.height
        self.timestamp_ms = context.timestamp_ms
        self.seed = context.seed
        self.client = context.client

    def get(self, key: bytes) -> bytes | None:
        """Value under `key`, or None."""
        return self._context.get(self._prefix + key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        self._context.put(self._prefix + key, value)

    def delete(self, key: bytes) -> None:
        """Remove `key`, if it is there."""
        self._context.delete(self._prefix + key)

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """At most `limit` pairs with start <= key < end, in key order."""
        prefix = self._prefix
        for key, value in self._context.range(prefix + start, prefix + end, limit):
            yield key[1:], value


class DemoLedger:
    """The application `tepbft.cli.demo_app:DemoLedger`."""

    def __init__(self) -> None:
        self._parts: dict[bytes, Application] = {BANK: bank.Bank(), NOTARY: notary.Notary()}

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out one operation in the part that its first byte names."""
        tag = operation[:1]
        part = self._parts.get(tag)
        if part is None:
            raise OperationRefused("an operation begins with B (bank) or N (notary)")
        return part.execute(_Part(context, tag), operation[1:])


def wrap_bank(operation: bytes) -> bytes:
    """The bank's operation as one of this ledger."""
    return BANK + operation


def wrap_notary(operation: bytes) -> bytes:
    """The notary's operation as one of this ledger."""
    return NOTARY + operation


def parse(words: Sequence[str]) -> bytes:
    """`bank …` or `notary …` to an operation; TepbftError with the usage on nonsense."""
    if words and words[0] == "notary":
        return wrap_notary(notary.parse(words[1:]))
    return wrap_bank(bank.parse(words[1:] if words and words[0] == "bank" else words))


def render(operation: bytes, result: bytes) -> object:
    """The result of an operation as plain values for JSON."""
    if operation[:1] == NOTARY:
        return notary.render(operation[1:], result)
    return bank.render(operation[1:], result)
