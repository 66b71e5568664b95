"""Keys of components: two kinds, one encoding each, and nothing that a hostile byte could upset."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from coincurve import PrivateKey as LibraryKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.errors import TepbftError
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.keys import (
    DEFAULT_KIND,
    KINDS,
    ComponentKey,
    KeyKind,
    PrivateKey,
    PublicKey,
    fresh_key,
    load_public,
    private_key,
)
from tepbft.trusted.kind import KIND_FILE, read_kind, write_kind
from tepbft.trusted.sealing import SealRefused
from tepbft.trusted.sequsig import SeqUsig

MESSAGE = b"a statement"
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def loaded(key: PrivateKey) -> PublicKey:
    found = load_public(key.public)
    assert found is not None
    return found


PAIRS = {kind: (key, loaded(key)) for kind, key in ((kind, fresh_key(kind)) for kind in KINDS)}
SIGNED = {kind: key.sign(MESSAGE) for kind, (key, _) in PAIRS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_signs_what_its_public_key_verifies_and_nothing_else(kind: KeyKind) -> None:
    key = fresh_key(kind)
    signature = key.sign(MESSAGE)
    assert key.kind == kind and len(signature) <= 80
    assert loaded(key).verify(MESSAGE, signature)
    assert not loaded(key).verify(MESSAGE + b"!", signature)
    assert not loaded(fresh_key(kind)).verify(MESSAGE, signature)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_the_same_from_its_secret(kind: KeyKind) -> None:
    key = fresh_key(kind)
    again = private_key(key.secret())
    assert again.kind == kind and again.public == key.public
    assert loaded(key).verify(MESSAGE, again.sign(MESSAGE))
    assert ComponentKey(again).tc_id == ComponentKey(key).tc_id


@pytest.mark.parametrize(
    "secret",
    [b"", bytes(31), bytes(32), b"\xff" * 32, b"\x02" + bytes(32), b"\x02" + b"\xff" * 32, b"\x03" * 33],
)
def test_what_is_no_secret_makes_no_key(secret: bytes) -> None:
    with pytest.raises(ValueError):
        private_key(secret)


def test_kinds_do_not_verify_each_other() -> None:
    for kind, (key, _) in PAIRS.items():
        for other, (_, public) in PAIRS.items():
            assert public.verify(MESSAGE, key.sign(MESSAGE)) == (kind == other)


def test_a_new_key_is_on_the_curve_that_is_quick_to_verify() -> None:
    assert ComponentKey(fresh_key()).kind == DEFAULT_KIND == "secp256k1"


def test_each_kind_has_one_encoding() -> None:
    """Two names for one key would be two components (A8.2)."""
    secret = bytes(31) + b"\x07"
    compressed = LibraryKey(secret).public_key.format(compressed=True)
    assert load_public(compressed) is not None
    assert load_public(LibraryKey(secret).public_key.format(compressed=False)) is None
    point = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    assert load_public(point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)) is not None
    of_the_other_curve = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert load_public(of_the_other_curve + b"\x00") is None
    found = load_public(
        of_the_other_curve
    )  # its 33 bytes may be a point on secp256k1 as well: of nobody's key
    assert found is None or not found.verify(MESSAGE, PAIRS["p256"][0].sign(MESSAGE))


def test_only_the_lower_s_verifies() -> None:
    """Nobody can turn one valid signature into another."""
    key, public = PAIRS["secp256k1"]
    signature = key.sign(MESSAGE)
    mirrored = SECP256K1_ORDER - int.from_bytes(signature[32:], "big")
    assert public.verify(MESSAGE, signature)
    assert not public.verify(MESSAGE, signature[:32] + mirrored.to_bytes(32, "big"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_hostile_bytes_never_verify_and_never_raise(kind: KeyKind, data: st.DataObject) -> None:
    (_, public), good = PAIRS[kind], SIGNED[kind]
    wrong = data.draw(
        st.one_of(
            st.binary(max_size=90),
            st.binary(min_size=64, max_size=64),
            st.integers(0, len(good) - 1).map(lambda at: good[:at]),
            st.integers(0, 8 * len(good) - 1).map(
                lambda bit: (int.from_bytes(good, "big") ^ (1 << bit)).to_bytes(len(good), "big")
            ),
            st.binary(min_size=1, max_size=4).map(lambda more: good + more),
        )
    )
    assert not public.verify(MESSAGE, wrong)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=70), st.binary(min_size=32, max_size=32).map(lambda x: b"\x02" + x)))
def test_hostile_keys_never_raise(encoded: bytes) -> None:
    found = load_public(encoded)
    assert found is None or not found.verify(MESSAGE, bytes(64))


# --- components ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [HbUsig, SeqUsig])
def test_a_component_keeps_its_kind_over_a_seal(make: type[HbUsig] | type[SeqUsig], kind: KeyKind) -> None:
    made = make.fresh(kind=kind)
    back = make.import_state(made.export_state())
    assert back.identity().key == made.identity().key
    assert len(made.identity().key) == {"p256": 65, "secp256k1": 33}[kind]


@pytest.mark.parametrize("make", [HbUsig, SeqUsig])
def test_a_sealed_scalar_alone_is_a_key_on_p256(make: type[HbUsig] | type[SeqUsig]) -> None:
    """As it was before there were two kinds: such components come back."""
    made = make.fresh(kind="p256")
    fields = msgspec.msgpack.decode(made.export_state())
    assert len(fields[1]) == 32


def test_a_state_with_another_kind_is_refused() -> None:
    fields = msgspec.msgpack.decode(HbUsig.fresh().export_state())
    for bad in (b"\x03" + fields[1][1:], fields[1][:31], fields[1] + b"x", bytes(33)):
        with pytest.raises(SealRefused):
            HbUsig.import_state(msgspec.msgpack.encode([fields[0], bad, *fields[2:]]))


# --- what a folder asks for ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_which_kind(tmp_path: Path, kind: KeyKind) -> None:
    assert read_kind(tmp_path) == DEFAULT_KIND
    write_kind(tmp_path, kind)
    assert read_kind(tmp_path) == kind


@pytest.mark.parametrize("content", [b"", b"rsa\n", b"\xff\xfe", b"p256 secp256k1", b"p" * 1000])
def test_a_folder_that_names_no_kind_is_told_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KIND_FILE).write_bytes(content)
    with pytest.raises(TepbftError, match="is no kind of key") as caught:
        read_kind(tmp_path)
    assert "secp256k1, p256" in caught.value.remedy
