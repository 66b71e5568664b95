"""Requests signed in advance: numbered without gaps, valid, and honest about what was signed late."""

from __future__ import annotations

from typing import Any

from tepbft.client.credentials import new_credentials
from tepbft.core.block import Request, decode_body, digest_of, encode_body
from tepbft.core.configuration import Genesis, Parameters
from tepbft.crypto.schemes import scheme_named
from tepbft.lab.supply import Supply


def a_supply() -> tuple[Supply, Any, Genesis]:
    """A supply, its client's credentials, and the genesis that it signs for."""
    credentials = new_credentials("secp256k1", "somebody")
    genesis = Genesis("tep", "kv", "secp256k1", 1, bytes(32), (), (credentials.registration(),), Parameters())
    return Supply(genesis, credentials, 77, "kv", 100, "1/x"), credentials, genesis


def decoded(raw: bytes) -> Request:
    """A request as a block would hold it; `raw` stands in a block as it is."""
    request = decode_body(b"\x91" + raw)[0]
    assert encode_body([request]) == b"\x91" + raw
    return request


def test_requests_verify_and_are_numbered_without_gaps() -> None:
    supply, credentials, genesis = a_supply()
    supply.prepare(5)
    taken = [supply.take() for _ in range(8)]
    assert [seq for seq, _ in taken] == list(range(1, 9)) and supply.taken == 8
    assert supply.signed_live == 3
    requests = [decoded(raw) for _, raw in taken]
    assert [request.seq for request in requests] == list(range(1, 9))
    assert {request.session for request in requests} == {77}
    digests = [digest_of(genesis.chain_id, request) for request in requests]
    verifier = scheme_named("secp256k1").verifier([credentials.registration()], node=0, mac_keys=None)
    assert not verifier.verify(digests, requests)


def test_what_was_prepared_is_what_would_have_been_made() -> None:
    """Signing in advance changes no operation: only the signatures may differ (they are not random here)."""
    first, _, _ = a_supply()
    second, _, _ = a_supply()
    first.prepare(10)
    operations = [[decoded(supply.take()[1]).op for _ in range(10)] for supply in (first, second)]
    assert operations[0] == operations[1]
