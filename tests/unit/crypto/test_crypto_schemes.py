"""Client authentication: every scheme accepts what its client made, and nothing else (A-42's premise)."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.crypto import p256
from tepbft.crypto.schemes import SCHEMES, Scheme, scheme_named
from tepbft.errors import TepbftError

NODES = 4
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Party:
    """A client of a scheme and the verifier of one node that knows it."""

    def __init__(self, scheme: Scheme, node: int = 1) -> None:
        self.scheme = scheme
        self.secret = scheme.generate_secret()
        self.entry = scheme.register(self.secret, "alice")
        self.signer = scheme.signer(self.secret, NODES)
        self.verifier = scheme.verifier([self.entry], node=node, mac_keys=self.mac_keys(node))

    def mac_keys(self, node: int) -> dict[bytes, bytes] | None:
        derive = self.scheme.node_mac_keys
        if derive is None:
            return None
        return {self.entry.client: derive(self.secret, self.entry.client, node)}

    def request(self, auth: bytes, client: bytes | None = None) -> Request:
        return Request(client or self.entry.client, 1, 1, b"op", auth)

    def accepts(self, digest: bytes, auth: bytes) -> bool:
        return self.verifier.verify([digest], [self.request(auth)]) == []


PARTIES = {name: Party(scheme) for name, scheme in SCHEMES.items()}
SIGNATURES = [name for name, scheme in SCHEMES.items() if not scheme.weaker]
AUTHENTICATED = [*SIGNATURES, "mac"]
DIGEST = sha256(b"message").digest()


def test_registry_marks_weaker_schemes_and_says_why() -> None:
    assert list(SCHEMES) == ["secp256k1", "ed25519", "p256", "mac", "none"]
    assert [name for name, scheme in SCHEMES.items() if scheme.weaker] == ["mac", "none"]
    assert all("Weaker" in SCHEMES[name].note for name in ("mac", "none"))
    with pytest.raises(TepbftError, match="not known"):
        scheme_named("rot13")


@pytest.mark.parametrize("name", SCHEMES)
def test_good_authenticators_pass_in_batches(name: str) -> None:
    party = PARTIES[name]
    digests = [sha256(bytes([i])).digest() for i in range(5)]
    requests = [party.request(party.signer.sign(digest)) for digest in digests]
    assert party.verifier.verify(digests, requests) == []
    assert party.verifier.verify([], []) == []
    assert party.verifier.known(party.entry.client)
    assert not party.verifier.known(bytes(16))


@pytest.mark.parametrize("name", AUTHENTICATED)
def test_exactly_the_bad_indices_are_reported(name: str) -> None:
    party = PARTIES[name]
    digests = [sha256(bytes([i])).digest() for i in range(4)]
    requests = [party.request(party.signer.sign(digest)) for digest in digests]
    requests[1] = party.request(requests[2].auth)
    requests[3] = party.request(requests[3].auth, client=b"\x07" * 16)
    assert party.verifier.verify(digests, requests) == [1, 3]


@pytest.mark.parametrize("name", SCHEMES)
def test_unknown_clients_fail(name: str) -> None:
    party, stranger = PARTIES[name], Party(SCHEMES[name])
    request = stranger.request(stranger.signer.sign(DIGEST))
    assert party.verifier.verify([DIGEST], [request]) == [0]


@pytest.mark.parametrize("name", AUTHENTICATED)
def test_every_flipped_bit_of_an_authenticator_fails(name: str) -> None:
    node = 1
    party = PARTIES[name]
    good = party.signer.sign(DIGEST)
    part = range(16 * node, 16 * node + 16) if name == "mac" else range(len(good))
    for at in part:
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        assert not party.accepts(DIGEST, bytes(bad)), at
    assert not party.accepts(DIGEST, good + b"\x00")
    assert not party.accepts(DIGEST, good[:-1])
    assert not party.accepts(DIGEST, b"")


@pytest.mark.parametrize("name", SCHEMES)
@given(garbage=st.one_of(st.binary(max_size=1024), st.binary(min_size=64, max_size=64)))
@settings(max_examples=40, deadline=None)
def test_garbage_never_raises_nor_passes(name: str, garbage: bytes) -> None:
    party = PARTIES[name]
    if garbage == b"" and name == "none":
        assert party.accepts(DIGEST, garbage)
    else:
        assert not party.accepts(DIGEST, garbage)


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("edge", [0, 1, p256.ORDER, SECP256K1_ORDER, 2**256 - 1])
def test_edge_scalars_never_raise_nor_pass(name: str, edge: int) -> None:
    raw = edge.to_bytes(32, "big")
    assert not PARTIES[name].accepts(DIGEST, raw + raw)


@pytest.mark.parametrize("made", AUTHENTICATED)
@pytest.mark.parametrize("checked", AUTHENTICATED)
def test_an_authenticator_of_one_scheme_is_none_of_another(made: str, checked: str) -> None:
    auth = PARTIES[made].signer.sign(DIGEST)
    assert PARTIES[checked].accepts(DIGEST, auth) == (made == checked)


@pytest.mark.parametrize(("name", "order"), [("secp256k1", SECP256K1_ORDER), ("p256", p256.ORDER)])
def test_the_mirrored_signature_is_refused(name: str, order: int) -> None:
    """r | n - s is a second signature that anyone could derive: only the low one counts."""
    party = PARTIES[name]
    for i in range(8):
        digest = sha256(bytes([i])).digest()
        auth = party.signer.sign(digest)
        s = int.from_bytes(auth[32:], "big")
        assert s <= order // 2
        mirrored = auth[:32] + (order - s).to_bytes(32, "big")
        assert party.accepts(digest, auth)
        assert not party.accepts(digest, mirrored)


@pytest.mark.parametrize("name", SCHEMES)
def test_identities_follow_from_secrets(name: str) -> None:
    scheme = SCHEMES[name]
    one, other = scheme.generate_secret(), scheme.generate_secret()
    assert one != other
    assert scheme.identify(one) == scheme.identify(one) == scheme.register(one, "x").client
    assert scheme.identify(one) != scheme.identify(other)
    assert len(scheme.identify(one)) == 16
    assert scheme.register(one, "x").key == scheme.public_key(one)


@pytest.mark.parametrize("name", SIGNATURES)
def test_keys_that_are_none_are_refused_at_construction(name: str) -> None:
    entry = PARTIES[name].entry
    for key in (b"", b"\x01", entry.key + b"\x00"):
        with pytest.raises(TepbftError, match=r"not a .* public key"):
            SCHEMES[name].verifier([RegisteredClient(entry.client, "x", key)], node=0)
    with pytest.raises(TepbftError, match="registered twice"):
        SCHEMES[name].verifier([entry, entry], node=0)


@pytest.mark.parametrize("name", ["mac", "none"])
def test_schemes_without_keys_refuse_one(name: str) -> None:
    party = PARTIES[name]
    entry = RegisteredClient(party.entry.client, "x", b"key")
    with pytest.raises(TepbftError):
        SCHEMES[name].verifier([entry], node=1, mac_keys=party.mac_keys(1))


@pytest.mark.parametrize("name", AUTHENTICATED)
def test_signers_take_digests_only(name: str) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PARTIES[name].signer.sign(b"short")
    with pytest.raises(ValueError):
        SCHEMES[name].signer(b"too short", NODES)


class TestMac:
    """What makes the scheme weaker, and what holds nevertheless."""

    def test_each_node_checks_its_own_entry_with_its_own_key(self) -> None:
        client = PARTIES["mac"]
        auth = client.signer.sign(DIGEST)
        assert len(auth) == 16 * NODES
        for node in range(NODES):
            verifier = client.scheme.verifier([client.entry], node=node, mac_keys=client.mac_keys(node))
            assert verifier.verify([DIGEST], [client.request(auth)]) == []
        confused = client.scheme.verifier([client.entry], node=0, mac_keys=client.mac_keys(1))
        assert confused.verify([DIGEST], [client.request(auth)]) == [0]

    def test_a_client_can_please_one_node_and_poison_another(self) -> None:
        client = PARTIES["mac"]
        auth = bytearray(client.signer.sign(DIGEST))
        auth[16 * 2] ^= 1
        request = client.request(bytes(auth))
        pleased = client.scheme.verifier([client.entry], node=1, mac_keys=client.mac_keys(1))
        poisoned = client.scheme.verifier([client.entry], node=2, mac_keys=client.mac_keys(2))
        assert pleased.verify([DIGEST], [request]) == []
        assert poisoned.verify([DIGEST], [request]) == [0]

    def test_keys_differ_per_client_and_node(self) -> None:
        derive = SCHEMES["mac"].node_mac_keys
        assert derive is not None
        secret = bytes(range(32))
        keys = {derive(secret, client, node) for client in (bytes(16), b"\x01" * 16) for node in range(3)}
        assert len(keys) == 6

    def test_missing_keys_are_a_clear_error(self) -> None:
        client = PARTIES["mac"]
        for keys in (None, {}, {client.entry.client: b"short"}):
            with pytest.raises(TepbftError, match=r"macs\.json"):
                client.scheme.verifier([client.entry], node=0, mac_keys=keys)
