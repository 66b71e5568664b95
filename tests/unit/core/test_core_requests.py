"""Requests as objects and requests in the extension's table are the same: every value, every refusal (A3.1).

A replica with the extension and one without agree on the same blocks, so what one of them accepts and
the other refuses would halt the ledger, and what they hash differently would split it.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from hashlib import sha256

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.fuzz_mutations import hostile
from tepbft.core.block import Request, digest_of, encode_body
from tepbft.core.requests import WAYS, Native, Plain
from tepbft.crypto.schemes import scheme_named
from tepbft.errors import PeerFault
from tepbft.native import AVAILABLE, native
from tepbft.types import MAX_AUTHENTICATOR_BYTES, MAX_BLOCK_REQUESTS, MAX_OPERATION_BYTES

CHAIN = sha256(b"a chain").digest()
EDGES = (0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1)

extension = pytest.mark.skipif(not AVAILABLE, reason="the extension does not run on this machine")
numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**63 - 1))
clients = st.one_of(st.sampled_from([bytes(16), b"\xff" * 16]), st.binary(min_size=16, max_size=16))
sizes = st.sampled_from([0, 1, 7, 55, 56, 63, 64, 65, 119, 120, 255, 256])
contents = st.one_of(st.binary(max_size=200), sizes.map(lambda size: b"x" * size))
requests = st.builds(Request, clients, numbers, numbers, contents, st.binary(max_size=144))
bodies = st.lists(requests, max_size=40).map(encode_body)


def outcome(way, body: bytes) -> list[tuple[Request, bytes]] | None:
    """What `way` finds in `body`; None if it refuses."""
    try:
        found, digests = way.open_body(CHAIN, body)
    except PeerFault as refused:
        assert refused.code == "malformed_block"
        return None
    return list(zip(found, digests, strict=True))


def of(*requests: Request) -> bytes:
    return encode_body(list(requests))


def raw(client=bytes(16), session=1, seq=1, op=b"op", auth=b""):
    """A body with one request, whatever it consists of."""
    return msgspec.msgpack.encode([[client, session, seq, op, auth]])


@pytest.mark.parametrize("way", WAYS)
@given(listed=st.lists(requests, max_size=40))
def test_what_was_encoded_is_found_again_with_its_digests(way, listed):
    assert outcome(way, encode_body(listed)) == [(one, digest_of(CHAIN, one)) for one in listed]
    assert list(way.request_digests(CHAIN, listed)) == [digest_of(CHAIN, one) for one in listed]


@extension
@given(st.one_of(st.binary(max_size=300), st.integers(0, 260).map(lambda size: b"x" * size)))
def test_processors_without_instructions_for_it_hash_the_same(data: bytes) -> None:
    """SHA-256 in C; what a processor has instead is in all the other tests."""
    assert native.sha256_plain(data) == sha256(data).digest()


@extension
@settings(max_examples=600)
@given(hostile(bodies))
def test_both_ways_accept_and_refuse_the_same_bytes(body):
    assert outcome(Plain, body) == outcome(Native, body)


@extension
@settings(max_examples=600)
@given(st.binary(max_size=120))
@example(b"")
@example(b"\x90")
@example(b"\x91\x95")
def test_both_ways_accept_and_refuse_the_same_noise(noise):
    for body in (noise, b"\x91\x95\xc4\x10" + noise, b"\x91\x95\xc4\x10" + bytes(16) + noise):
        assert outcome(Plain, body) == outcome(Native, body)


REFUSED = {
    "a body that is no array": msgspec.msgpack.encode(1),
    "nothing": b"",
    "something behind": of(Request(bytes(16), 1, 1, b"op", b"")) + b"\x00",
    "an announcement of four thousand million requests": b"\xdd\xff\xff\xff\xff",
    "an announcement of more than are there": b"\xdc\x40\x00" + bytes(100),
    "a client of 15 bytes": raw(client=bytes(15)),
    "a client of 17 bytes": raw(client=bytes(17)),
    "a client in text": raw(client="0123456789abcdef"),
    "a negative number": raw(session=-1),
    "a number of 64 bits": raw(seq=2**63),
    "the greatest of them": raw(seq=2**64 - 1),
    "a number with a point": raw(seq=1.0),
    "no number": raw(seq=None),
    "an operation in text": raw(op="op"),
    "an operation that is too long": raw(op=bytes(MAX_OPERATION_BYTES + 1)),
    "an authenticator that is too long": raw(auth=bytes(MAX_AUTHENTICATOR_BYTES + 1)),
    "four fields": msgspec.msgpack.encode([[bytes(16), 1, 1, b"op"]]),
    "six fields": msgspec.msgpack.encode([[bytes(16), 1, 1, b"op", b"", 1]]),
    "a map": msgspec.msgpack.encode([{"client": bytes(16)}]),
    "a short list announced at length": b"\xdc\x00\x00",
    "a number that is longer than it must be": b"\x91\x95\xc4\x10"
    + bytes(16)
    + b"\xcc\x01\x01\xc4\x00\xc4\x00",
    "bytes whose length is": b"\x91\x95\xc5\x00\x10" + bytes(16) + b"\x01\x01\xc4\x00\xc4\x00",
    "a length beyond the end": b"\x91\x95\xc4\x10" + bytes(16) + b"\x01\x01\xc6\x7f\xff\xff\xff",
    "one request too many": encode_body([Request(bytes(16), 1, 1, b"", b"")] * (MAX_BLOCK_REQUESTS + 1)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_hostile_bodies_are_refused(way, name):
    assert outcome(way, REFUSED[name]) is None


@pytest.mark.parametrize("way", WAYS)
def test_what_is_just_allowed_is_accepted(way):
    longest = Request(
        bytes(16), 2**63 - 1, 2**63 - 1, bytes(MAX_OPERATION_BYTES), bytes(MAX_AUTHENTICATOR_BYTES)
    )
    assert outcome(way, of(longest)) == [(longest, digest_of(CHAIN, longest))]
    many = [Request(bytes(16), 1, seq, b"", b"") for seq in range(MAX_BLOCK_REQUESTS)]
    assert len(outcome(way, encode_body(many))) == MAX_BLOCK_REQUESTS


@pytest.mark.parametrize("way", WAYS)
def test_every_prefix_of_a_body_is_refused(way):
    body = of(Request(b"c" * 16, 200, 70_000, b"o" * 300, b"a" * 64), Request(b"d" * 16, 1, 2, b"", b""))
    assert all(outcome(way, body[:length]) is None for length in range(len(body)))


def crowd(count: int) -> list[Request]:
    """Requests of clients that all fall on one place of the extension's table of clients."""
    seconds = [index * 0x9E37_79B9_7F4A_7C15 % 2**64 for index in range(count)]
    named = [word.to_bytes(8, "little") + index.to_bytes(8, "little") for index, word in enumerate(seconds)]
    return [Request(client, 1, 1, b"op", b"a") for client in named]


@pytest.mark.parametrize("way", WAYS)
def test_many_clients_are_told_apart(way):
    listed = crowd(MAX_BLOCK_REQUESTS // 2) * 2
    assert outcome(way, encode_body(listed)) == [(one, digest_of(CHAIN, one)) for one in listed]


# --- going through them ---------------------------------------------------------------------------


def some(count: int = 20) -> list[Request]:
    return [Request(bytes([i % 3]) * 16, 1, i, b"op%d" % i, b"auth%d" % i) for i in range(count)]


def shapes(way, listed):
    """Requests and digests, as they come to the walks: a block's, a client's, slices, mixtures."""
    opened, digests = way.open_body(CHAIN, encode_body(listed))
    plain = Plain.request_digests(CHAIN, listed)
    yield opened, digests
    yield listed, plain
    yield tuple(listed), tuple(plain)
    yield opened, plain
    yield listed, digests
    for start, stop in ((0, 5), (3, 20), (-4, None), (7, 7), (5, 900)):
        yield opened[start:stop], digests[start:stop]
    inner = slice(2, 9)
    yield opened[1:][inner], digests[1:][inner]
    yield opened[0:5], digests[5:10]  # not of the same requests: taken as they are given


@pytest.mark.parametrize("way", WAYS)
def test_walks_give_what_stands_there(way):
    for opened, digests in shapes(way, some()):
        objects, names = list(opened), list(digests)
        pairs = list(zip(objects, names, strict=True))
        assert list(way.signed(opened, digests)) == [(r.client, name, r.auth) for r, name in pairs]
        assert way.content_bytes(opened) == sum(len(r.op) + len(r.auth) for r in objects)


@pytest.mark.parametrize("way", WAYS)
def test_as_many_digests_as_requests_are_expected(way):
    opened, digests = way.open_body(CHAIN, encode_body(some()))
    for fewer in (digests[:-1], list(digests)[:-1]):
        with pytest.raises(ValueError):
            list(way.signed(opened, fewer))
    with pytest.raises(ValueError):
        list(way.signed(some(), list(digests)[1:]))


@pytest.mark.parametrize("way", WAYS)
def test_digests_are_those_of_the_chain_that_is_asked_for(way):
    """A table has those of the chain that it was opened for; for another it computes them."""
    opened, _ = way.open_body(CHAIN, encode_body(some()))
    for chain in (CHAIN, bytes(32)):
        expected = [digest_of(chain, one) for one in some()]
        assert list(way.request_digests(chain, opened)) == expected
        assert list(way.request_digests(chain, opened[3:])) == expected[3:]


# --- putting them together ------------------------------------------------------------------------

few = st.lists(requests, max_size=5)


@pytest.mark.parametrize("way", WAYS)
@given(listed=st.lists(few, max_size=5), cut=st.integers(0, 30))
def test_what_came_in_parts_is_one_body(way, listed, cut):
    """Opened, cut at any place, and joined again, in any mixture: every value is where it was."""
    everything = [one for part in listed for one in part]
    hashed = [way.open_body(CHAIN, encode_body(part)) for part in listed]
    whole, digests = way.join_hashed(hashed)
    assert list(whole) == list(way.join([part for part, _ in hashed])) == everything
    assert list(digests) == [digest_of(CHAIN, one) for one in everything]
    assert way.body_of(whole) == encode_body(everything)
    assert way.body_of(whole[cut:]) == encode_body(everything[cut:])
    assert way.body_of(whole[:cut]) == encode_body(everything[:cut])
    halves = [(whole[:cut], digests[:cut]), (whole[cut:], digests[cut:])]
    again, names = way.join_hashed(halves)
    assert (list(again), list(names)) == (everything, list(digests))
    mixed, names = way.join_hashed([halves[0], (everything[cut:], list(digests[cut:]))])
    assert (list(mixed), list(names)) == (everything, list(digests))
    assert list(way.signed(again, names)) == list(way.signed(everything, list(digests)))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, MAX_BLOCK_REQUESTS])
@pytest.mark.parametrize("way", WAYS)
def test_a_body_announces_its_length_as_it_must(way, count):
    listed = [Request(bytes([seq % 3]) * 16, 1, seq, b"", b"") for seq in range(count)]
    another = listed[: MAX_BLOCK_REQUESTS - count][:1]
    opened = way.open_body(CHAIN, encode_body([*listed, *another]))[0][:count]
    assert way.body_of(opened) == encode_body(listed)
    joined = way.join([opened[:8], opened[8:]])
    assert way.body_of(joined) == encode_body(listed)
    assert list(joined[-3:]) == listed[-3:]


@extension
def test_a_body_beyond_what_is_ever_opened_is_still_encoded_as_it_must():
    many = 66_000
    listed = [Request(bytes(16), 1, seq, b"", b"") for seq in range(many)]
    bodies = [encode_body(listed[at : at + MAX_BLOCK_REQUESTS]) for at in range(0, many, MAX_BLOCK_REQUESTS)]
    joined = Native.join([Native.open_body(CHAIN, body)[0] for body in bodies])
    assert Native.body_of(joined) == encode_body(listed)
    assert Native.body_of(joined[1:]) == encode_body(listed[1:])


near = st.builds(
    Request,
    st.sampled_from([bytes(16), b"\xff" * 16]),
    st.integers(0, 1),
    st.one_of(st.integers(0, 4), st.integers(2**63 - 3, 2**63 - 1)),
    st.just(b"op"),
    st.just(b""),
)


@pytest.mark.parametrize("way", WAYS)
@given(st.lists(near, max_size=12), st.integers(0, 12))
def test_runs_are_numbered_one_by_one_and_as_long_as_can_be(way, listed, cut):
    opened, _ = way.open_body(CHAIN, encode_body(listed))
    for asked in (opened, listed, way.join([opened[:cut], opened[cut:]])):
        found = way.runs(asked)
        assert [(c, s, first + more) for c, s, first, count in found for more in range(count)] == [
            (one.client, one.session, one.seq) for one in listed
        ]
        for (client, session, first, count), following in itertools.pairwise(found):
            assert following[:3] != (client, session, first + count)
    assert way.runs(opened[cut:]) == way.runs(listed[cut:])


@pytest.mark.parametrize("way", WAYS)
def test_parts_may_go_once_they_are_joined(way):
    parts = [way.open_body(CHAIN, encode_body(some()[at : at + 5]))[0][1:] for at in range(0, 20, 5)]
    joined = way.join(parts)
    del parts
    gc.collect()
    assert list(joined) == [one for index, one in enumerate(some()) if index % 5]


@extension
def test_only_tables_of_one_chain_are_joined():
    body = encode_body(some())
    one = native.open_body(bytes(40), body, Request, 99, 99, 99)
    other = native.open_body(b"x" * 40, body, Request, 99, 99, 99)
    for parts in ([one, other], [one, some()], [some()], 5):
        with pytest.raises(TypeError):
            native.join(parts)
    with pytest.raises(ValueError):
        native.join([])
    with pytest.raises(TypeError):
        native.runs(some())


@pytest.mark.parametrize("way", WAYS)
def test_requests_outlive_the_block_that_they_came_in(way):
    opened, digests = way.open_body(CHAIN, encode_body(some()))
    part, names = opened[5:8], digests[5:8]
    walk = iter(way.signed(opened[5:8], digests[5:8]))
    del opened, digests
    gc.collect()
    assert list(part) == some()[5:8]
    assert list(names) == [digest_of(CHAIN, one) for one in some()[5:8]]
    assert [auth for *_, auth in walk] == [b"auth5", b"auth6", b"auth7"]


@pytest.mark.parametrize("way", WAYS)
def test_places_that_do_not_exist(way):
    opened, digests = way.open_body(CHAIN, encode_body(some(3)))
    for sequence in (opened, digests):
        assert sequence[-1] == sequence[2]
        for place in (3, -4, 2**70):
            with pytest.raises(IndexError):
                sequence[place]
        with pytest.raises(TypeError):
            sequence["0"]


@pytest.mark.parametrize("name", ["secp256k1", "ed25519", "p256", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_verifiers_find_the_same_bad_requests(way, name):
    from tepbft.client.credentials import new_credentials

    scheme = scheme_named(name)
    known, stranger = new_credentials(name, "known"), new_credentials(name, "stranger")
    signers = {one.client: scheme.signer(one.secret, 3) for one in (known, stranger)}
    listed = []
    for seq in range(8):
        client = (stranger if seq == 3 else known).client
        request = Request(client, 1, seq, b"op", b"")
        auth = signers[client].sign(digest_of(CHAIN, request))
        listed.append(msgspec.structs.replace(request, auth=b"forged" if seq == 5 else auth))
    verifier = scheme.verifier([known.registration()], node=0, mac_keys=None)
    opened, digests = way.open_body(CHAIN, encode_body(listed))
    assert verifier.verify(digests, opened) == [3, 5]
    assert verifier.verify(digests[4:], opened[4:]) == [1]


# --- the extension itself -------------------------------------------------------------------------


@extension
def test_a_list_that_shrinks_on_the_way_is_noticed():
    listed, names = some(), [bytes(32)] * 20
    walk = native.with_authenticators(listed, names)
    next(walk)
    del listed[1:]
    with pytest.raises(RuntimeError):
        list(walk)


@extension
def test_arguments_of_other_types_are_refused():
    body = encode_body(some())
    for prefix, wrong in (
        (b"short", body),
        (bytes(40), bytearray(body)),
        ("x" * 40, body),
        (bytes(40), None),
    ):
        with pytest.raises(TypeError):
            native.open_body(prefix, wrong, Request, 1, 1, 1)
    for listed in ([Request(b"short", 1, 1, b"", b"")], [Request(bytes(16), 1, 1, bytearray(3), b"")]):
        with pytest.raises(TypeError):
            native.request_digests(bytes(40), listed)
    with pytest.raises(OverflowError):
        native.request_digests(bytes(40), [Request(bytes(16), -1, 1, b"", b"")])
    with pytest.raises(AttributeError):
        native.request_digests(bytes(40), [None])
    with pytest.raises(TypeError):
        native.request_digests(bytes(40), 5)
    with pytest.raises(TypeError):
        native.with_authenticators(5, 5)
    with pytest.raises(TypeError):
        type(native.open_body(bytes(40), body, Request, 99, 99, 99))()


@extension
def test_a_factory_that_fails_is_heard():
    def fails(*_):
        raise LookupError("no")

    batch = native.open_body(bytes(40), encode_body(some()), fails, 99, 99, 99)
    with pytest.raises(LookupError):
        batch[0]


def test_the_environment_does_without_the_extension():
    code = "import tepbft.native as n, tepbft.core.requests as r; print(n.AVAILABLE, len(r.WAYS))"
    environment = {**os.environ, "TEPBFT_NATIVE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "1"]
