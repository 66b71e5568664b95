"""Verification against a member table, and domain separation of everything signed (I-26)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from tepbft.core.configuration import Configuration, Member
from tepbft.core.verification import Verifier
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.keys import KINDS, KeyKind, tc_id_of
from tepbft.trusted.port import (
    ATTEST,
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PREPARE,
    VIEW_CHANGE,
    Attest,
    Depart,
    DepartureUi,
    Install,
    Order,
    Register,
    SignCheckpoint,
    Ui,
    binding,
    departure_body,
    numbered_body,
    order_body,
    preimage,
)
from tepbft.trusted.sequsig import sequential_binding, sequential_preimage
from tepbft.trusted.verify import UiVerifier
from tepbft.types import MAX_NODES

CHAIN, OTHER_CHAIN = b"c" * 32, b"d" * 32
X, Y = b"x" * 32, b"y" * 32
HOST_KEYS = [SigningKey(bytes([node]) * 32) for node in range(3)]


def cluster(
    chain_id: bytes = CHAIN, kinds: Sequence[KeyKind] = ("p256", "secp256k1", "p256")
) -> tuple[Configuration, list[HbUsig]]:
    """A configuration whose components have keys of these kinds."""
    components = [HbUsig.fresh(kind=kind) for kind in kinds]
    members = tuple(
        Member(
            node=node,
            tc_id=made.identity().tc_id,
            tc_key=made.identity().key,
            node_key=bytes(HOST_KEYS[node].verify_key),
            operator_key=bytes(32),
            certificate=bytes(32),
            host="127.0.0.1",
            peer_port=1,
            client_port=2,
            http_port=3,
        )
        for node, made in enumerate(components)
    )
    cfg = Configuration(0, 0, members)
    for node, made in enumerate(components):
        made.provision(chain_id, node, 0, cfg.digest(), 0, 8)
    return cfg, components


CLUSTER = cluster()


@pytest.mark.parametrize("kind", KINDS)
def test_every_statement_verifies_as_itself_and_as_nothing_else(kind: KeyKind) -> None:
    cfg, components = cluster(kinds=("p256", kind, "secp256k1"))
    verifier: Verifier = UiVerifier(CHAIN)
    made = components[1]
    statements: list[tuple[int, bytes, Ui | DepartureUi]] = []
    for kind, height in ((PREPARE, 1), (COMMIT, 2)):
        ui = made.call(Order(kind, 0, height, X))
        assert isinstance(ui, Ui)
        statements.append((kind, order_body(0, height, X), ui))
    ui = made.call(SignCheckpoint(1, X))
    assert isinstance(ui, Ui)
    statements.append((CHECKPOINT, numbered_body(1, X), ui))
    departed = made.call(Depart(1, X))
    assert isinstance(departed, DepartureUi)
    body = departure_body(1, departed.lock_view, departed.floor, departed.registers, X)
    statements.append((VIEW_CHANGE, body, departed))
    ui = made.call(Install(1, X))
    assert isinstance(ui, Ui)
    statements.append((NEW_VIEW, numbered_body(1, X), ui))
    for kind, body, answer in statements:
        for other_kind, other_body, _ in statements:
            for node in range(3):
                for seq in range(1, 6):
                    good = verifier.ui(cfg, node, seq, other_kind, other_body, answer.signature)
                    assert good == ((other_kind, other_body, node, seq) == (kind, body, 1, answer.seq))
    for kind, body, answer in statements:
        assert not UiVerifier(OTHER_CHAIN).ui(cfg, 1, answer.seq, kind, body, answer.signature)
        moved = msgspec.structs.replace(cfg, floor=1)
        renumbered = msgspec.structs.replace(cfg, number=1)
        for other in (moved, renumbered):
            assert not verifier.ui(other, 1, answer.seq, kind, body, answer.signature)


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_comes_from_the_member_table_a09(kind: KeyKind) -> None:
    cfg, components = cluster(kinds=(kind, "secp256k1", "p256"))
    ui = components[0].call(Order(PREPARE, 0, 1, X))
    assert isinstance(ui, Ui)
    verifier = UiVerifier(CHAIN)
    body = order_body(0, 1, X)
    assert verifier.ui(cfg, 0, ui.seq, PREPARE, body, ui.signature)
    for tc_key, tc_id in (
        (cfg.members[1].tc_key, cfg.members[1].tc_id),
        (cfg.members[0].tc_key, bytes(16)),
        (b"", cfg.members[0].tc_id),
        (cfg.members[0].tc_key[:-1], cfg.members[0].tc_id),
        (cfg.members[2].tc_key, cfg.members[2].tc_id),
    ):
        members = (msgspec.structs.replace(cfg.members[0], tc_key=tc_key, tc_id=tc_id), *cfg.members[1:])
        assert not verifier.ui(Configuration(0, 0, members), 0, ui.seq, PREPARE, body, ui.signature)


@settings(max_examples=200, deadline=None)
@given(
    node=st.integers(-2, 70),
    seq=st.one_of(st.integers(-1, 5), st.just(1 << 63), st.just(1 << 64)),
    kind=st.one_of(st.integers(-1, 7), st.just(256)),
    body=st.binary(max_size=80),
    signature=st.binary(max_size=90),
)
def test_hostile_bytes_never_raise(node: int, seq: int, kind: int, body: bytes, signature: bytes) -> None:
    cfg, _ = CLUSTER
    verifier = UiVerifier(CHAIN)
    assert not verifier.ui(cfg, node, seq, kind, body, signature)
    assert not verifier.signed(cfg, node, body, signature)
    assert not verifier.attested(body, signature[:16], node, seq, body[:32], signature)


@pytest.mark.parametrize(
    "key", [b"", b"\x04" * 65, b"\x02" + bytes(32), bytes(65), b"\x03" + b"\xff" * 32, b"\x05" + bytes(32)]
)
def test_bad_points_do_not_verify(key: bytes) -> None:
    assert not UiVerifier(CHAIN).attested(key, tc_id_of(key), 0, 1, X, bytes(70))


def test_signed_is_by_the_host_key() -> None:
    cfg, _ = cluster()
    verifier = UiVerifier(CHAIN)
    signature = HOST_KEYS[2].sign(b"hello").signature
    assert verifier.signed(cfg, 2, b"hello", signature)
    assert not verifier.signed(cfg, 1, b"hello", signature)
    assert not verifier.signed(cfg, 2, b"hullo", signature)
    for node_key in (b"", bytes(32), bytes(31), b"\xff" * 32):
        members = (msgspec.structs.replace(cfg.members[0], node_key=node_key), *cfg.members[1:])
        assert not verifier.signed(Configuration(0, 0, members), 0, b"hello", signature)


@pytest.mark.parametrize("kind", KINDS)
def test_attestation_by_a_component_that_is_no_member(kind: KeyKind) -> None:
    made = HbUsig.fresh(kind=kind)
    made.provision(CHAIN, 2, 5, X, 70, 8)
    identity = made.identity()
    ui = made.call(Attest(Y))
    assert isinstance(ui, Ui)
    verifier = UiVerifier(CHAIN)
    good = (identity.key, identity.tc_id, 2, ui.seq, Y, ui.signature)
    assert verifier.attested(*good)
    other = HbUsig.fresh().identity()
    for place, wrong in enumerate((other.key, other.tc_id, 1, ui.seq + 1, X, bytes(71))):
        assert not verifier.attested(*good[:place], wrong, *good[place + 1 :])
    assert not UiVerifier(OTHER_CHAIN).attested(*good)


def test_caches_are_bounded_i17() -> None:
    verifier = UiVerifier(CHAIN)
    member = CLUSTER[0].members[0]
    for number in range(40 * MAX_NODES):
        node_key = number.to_bytes(32, "little")
        cfg = Configuration(number, 0, (msgspec.structs.replace(member, node_key=node_key),))
        verifier.ui(cfg, 0, 1, PREPARE, b"", b"")
        verifier.signed(cfg, 0, b"", bytes(64))
    assert len(verifier._components._found) <= 16 * MAX_NODES
    assert len(verifier._hosts) <= 16 * MAX_NODES


# --- I-26 ---------------------------------------------------------------------------------------

few = st.integers(0, 2)
digests = st.sampled_from([X, Y])
ids = st.sampled_from([b"i" * 16, b"j" * 16])
registers = st.lists(st.builds(Register, few, st.sampled_from([PREPARE, COMMIT]), digests), max_size=2).map(
    tuple
)
bodies = st.one_of(
    st.tuples(st.sampled_from([PREPARE, COMMIT]), st.builds(order_body, few, few, digests)),
    st.tuples(st.sampled_from([NEW_VIEW, CHECKPOINT]), st.builds(numbered_body, few, digests)),
    st.tuples(st.just(VIEW_CHANGE), st.builds(departure_body, few, few, few, registers, digests)),
    st.tuples(st.just(ATTEST), digests),
)
bound = st.tuples(st.sampled_from([CHAIN, OTHER_CHAIN]), few, digests, few, ids)
height_bound = st.tuples(st.just("hb"), bound, few, bodies)
sequential = st.tuples(st.just("seq"), bound, few, st.tuples(st.integers(0, 255), digests))
statements = st.one_of(height_bound, sequential)
Statement = tuple[str, tuple[bytes, int, bytes, int, bytes], int, tuple[int, bytes]]


def signed_bytes(statement: Statement) -> bytes:
    usig, where, seq, (kind, body) = statement
    if usig == "hb":
        return preimage(binding(*where), seq, kind, body)
    return sequential_preimage(sequential_binding(*where), seq, kind, body)


@settings(max_examples=600, deadline=None)
@given(statements, statements)
def test_i26_different_statements_have_different_preimages(one: Statement, two: Statement) -> None:
    assert (signed_bytes(one) == signed_bytes(two)) == (one == two)


@settings(max_examples=600, deadline=None)
@given(statements, st.data())
def test_i26_neighbours_have_different_preimages(one: Statement, data: st.DataObject) -> None:
    """Pairs that differ in exactly one part, which random pairs rarely do."""
    usig, where, seq, body = one
    part = data.draw(st.integers(0, 7))
    if part < 5:
        changed = data.draw(bound)
        two: Statement = (usig, (*where[:part], changed[part], *where[part + 1 :]), seq, body)  # type: ignore[assignment]
    elif part == 5:
        two = (usig, where, data.draw(few), body)
    elif part == 6:
        two = (usig, where, seq, (data.draw(st.integers(0, 255)), body[1]))
    else:
        two = (usig, where, seq, data.draw(bodies)) if usig == "hb" else ("hb", where, seq, body)
    assert (signed_bytes(one) == signed_bytes(two)) == (one == two)


@given(registers, registers, digests, digests)
def test_i26_departure_bodies_are_injective(
    one: tuple[Register, ...], two: tuple[Register, ...], d1: bytes, d2: bytes
) -> None:
    same = departure_body(1, 0, 0, one, d1) == departure_body(1, 0, 0, two, d2)
    assert same == ((one, d1) == (two, d2))
