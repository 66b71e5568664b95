"""What the load consists of: operations of the shipped applications, of a given size, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from tepbft.errors import TepbftError
from tepbft.execution.apps import bank, kv, notary
from tepbft.execution.bundle import encode_bundle

KEYS = 100_000
"""Distinct keys of the `kv` load."""
CUSTOMERS = 10_000
HOT_CUSTOMERS = 100
"""Customers of the `bank` load that a quarter of all accesses go to."""
MAX_AMOUNT = 50
_KV_OVERHEAD_BYTES = 16


def _kv(rng: Random, payload: int) -> Iterator[bytes]:
    """Puts of random values under uniformly drawn keys; the operation has `payload` bytes."""
    value_bytes = max(1, payload - _KV_OVERHEAD_BYTES)
    pool = rng.randbytes(value_bytes + 4096)
    below = KEYS
    draw, encode, put = rng.random, kv.encode, kv.Put
    while True:
        start = int(draw() * 4096)
        key = b"k%08d" % int(draw() * below)
        yield encode(put(key, pool[start : start + value_bytes]))


def _customer(rng: Random) -> int:
    return rng.randrange(HOT_CUSTOMERS if rng.random() < 0.25 else CUSTOMERS)


def smallbank(rng: Random, payload: int = 0) -> Iterator[bytes]:
    """SmallBank in the usual mix: a quarter payments, the five others alike."""
    while True:
        draw = rng.random()
        who, much = _customer(rng), rng.randint(1, MAX_AMOUNT)
        operation: bank.Operation
        if draw < 0.25:
            operation = bank.SendPayment(who, (who + 1 + rng.randrange(CUSTOMERS)) % (CUSTOMERS + 1), much)
        elif draw < 0.40:
            operation = bank.Balance(who)
        elif draw < 0.55:
            operation = bank.DepositChecking(who, much)
        elif draw < 0.70:
            operation = bank.TransactSavings(who, much)
        elif draw < 0.85:
            operation = bank.Amalgamate(who, (who + 1) % CUSTOMERS)
        else:
            operation = bank.WriteCheck(who, much)
        yield bank.encode(operation)


def _notary(rng: Random, payload: int) -> Iterator[bytes]:
    """New documents, their names filled up to `payload` bytes."""
    number = 0
    while True:
        number += 1
        name = f"document-{number}".ljust(max(1, min(notary.MAX_NAME_BYTES, payload - 48)), ".")
        yield notary.encode(notary.Register(rng.randbytes(32), name, number, "text/plain"))


_LOADS: dict[str, Callable[[Random, int], Iterator[bytes]]] = {
    "kv": _kv,
    "bank": smallbank,
    "notary": _notary,
}
APPLICATIONS = tuple(_LOADS)


def operations(app: str, payload: int, seed: str, bundle: int = 1) -> Iterator[bytes]:
    """Endless operations of `app` with about `payload` bytes each (`bank` has its own size); with
    `bundle` above 1, bundles of so many of them."""
    found = _LOADS.get(app)
    if found is None:
        raise TepbftError(
            f"application {app!r}",
            "there is no load for it",
            f"Choose one of: {', '.join(_LOADS)}.",
            exit_code=2,
        )
    single = found(Random(seed), payload)
    return single if bundle == 1 else _bundles(single, bundle)


def _bundles(single: Iterator[bytes], size: int) -> Iterator[bytes]:
    while True:
        yield encode_bundle(list(islice(single, size)))
