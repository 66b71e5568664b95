"""Signatures of requests in a table: verified by the extension, with the same answer as one by one."""

from __future__ import annotations

from random import Random

import pytest

from tepbft.client.credentials import Credentials, new_credentials
from tepbft.core.block import Request, encode_body
from tepbft.core.requests import Native, Plain
from tepbft.crypto import ed25519, secp256k1
from tepbft.crypto.schemes import scheme_named
from tepbft.native import AVAILABLE, native

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the extension is not here")

CHAIN = bytes(range(32))
SCHEMES = ("secp256k1", "ed25519")


def _auth(kind: str, good: bytes, rng: Random) -> bytes:
    match kind:
        case "good":
            return good
        case "flipped":
            place = rng.randrange(len(good))
            return good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :]
        case "short":
            return good[:-1]
        case "long":
            return good + b"\0"
        case "empty":
            return b""
        case "zeros":
            return bytes(64)
        case "ones":
            return b"\xff" * 64
        case _:
            return rng.randbytes(64)


def _batch(scheme: str, known: list[Credentials], stranger: Credentials, seed: int) -> list[Request]:
    rng = Random(seed)
    signers = {c.client: scheme_named(scheme).signer(c.secret, 3) for c in [*known, stranger]}
    requests = []
    for seq in range(60):
        client = rng.choice([*known, *known, stranger])
        bare = Request(client.client, 1, seq, rng.randbytes(rng.randrange(80)), b"")
        good = signers[client.client].sign(Plain.request_digests(CHAIN, [bare])[0])
        kind = rng.choice(
            ["good", "good", "good", "flipped", "short", "long", "empty", "zeros", "ones", "noise"]
        )
        if kind == "good" and rng.random() < 0.1:  # another's signature
            good = signers[rng.choice(known).client].sign(Plain.request_digests(CHAIN, [bare])[0])
        requests.append(Request(bare.client, bare.session, bare.seq, bare.op, _auth(kind, good, rng)))
    return requests


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(6))
def test_a_table_and_a_list_come_to_the_same(scheme: str, seed: int) -> None:
    known = [new_credentials(scheme, f"client{number}") for number in range(3)]
    requests = _batch(scheme, known, new_credentials(scheme, "stranger"), seed)
    verifier = scheme_named(scheme).verifier([c.registration() for c in known], node=0, mac_keys=None)
    digests = Plain.request_digests(CHAIN, requests)
    expected = verifier.verify(digests, requests)
    assert expected and len(expected) < len(requests), "some are good and some are not"
    table, views = Native.open_body(CHAIN, encode_body(requests))
    assert verifier.verify(views, table) == expected
    assert verifier.verify(views[7:31], table[7:31]) == [i - 7 for i in expected if 7 <= i < 31]
    assert verifier.verify(views[5:5], table[5:5]) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_does_not_belong_together_is_verified_one_by_one(scheme: str) -> None:
    """A table with another's digests must not be judged by its own."""
    client = new_credentials(scheme, "client")
    sign = scheme_named(scheme).signer(client.secret, 3).sign
    bare = [Request(client.client, 1, seq, b"x", b"") for seq in range(4)]
    digests = Plain.request_digests(CHAIN, bare)
    signed = [Request(r.client, 1, r.seq, r.op, sign(d)) for r, d in zip(bare, digests, strict=True)]
    verifier = scheme_named(scheme).verifier([client.registration()], node=0, mac_keys=None)
    table, views = Native.open_body(CHAIN, encode_body(signed))
    other, _ = Native.open_body(bytes(32), encode_body(signed))
    assert verifier.verify(views, table) == []
    assert verifier.verify(other.digests, table) == [0, 1, 2, 3], "digests for another chain"
    assert verifier.verify(list(views), table) == []
    with pytest.raises(ValueError, match="3 digests for 4 requests"):
        verifier.verify(views[:3], table)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tables_are_what_the_extension_verifies(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = new_credentials(scheme, "client")
    module = {"secp256k1": secp256k1, "ed25519": ed25519}[scheme]
    verifier = scheme_named(scheme).verifier([client.registration()], node=0, mac_keys=None)
    monkeypatch.setattr(module.Verifier, "_verify_each", lambda *_: pytest.fail("one by one"))
    table, views = Native.open_body(CHAIN, encode_body([Request(client.client, 1, 1, b"", bytes(64))]))
    assert verifier.verify(views, table) == [0]


def test_a_key_of_the_wrong_size_is_refused_before_the_library_reads_it() -> None:
    client = b"c" * 16
    table, views = Native.open_body(CHAIN, encode_body([Request(client, 1, 1, b"", bytes(64))]))
    for keys in ({client: bytes(31)}, {client: bytes(33)}, {client: bytearray(32)}, {client: None}):
        with pytest.raises(TypeError, match="a key is 32 bytes"):
            native.verify_eddsa(1, keys, table, views)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a key is 64 bytes"):
        native.verify_ecdsa(1, 1, 1, {client: bytes(33)}, table, views)
    assert native.verify_eddsa(1, {}, table, views) == [0], "a stranger's: nothing is called"
    assert native.verify_eddsa(1, {}, [], []) is None
