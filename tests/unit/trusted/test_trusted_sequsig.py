"""The classical USIG: one counter, no value twice, sealing as for HB-USIG (A10 item 1)."""

from __future__ import annotations

import pytest

from tepbft.core.configuration import Configuration, Member
from tepbft.errors import TrustedRefusal
from tepbft.trusted.port import ATTEST, COMMIT, PREPARE, Ui, order_body
from tepbft.trusted.sealing import SealRefused
from tepbft.trusted.sequsig import SeqUiVerifier, SeqUsig
from tepbft.trusted.verify import UiVerifier

CHAIN, OTHER = b"c" * 32, b"d" * 32
X, Y = b"x" * 32, b"y" * 32


def pair() -> tuple[SeqUsig, Configuration]:
    made = SeqUsig.fresh()
    identity = made.identity()
    member = Member(0, identity.tc_id, identity.key, bytes(32), bytes(32), bytes(32), "127.0.0.1", 1, 2, 3)
    cfg = Configuration(0, 0, (member,))
    made.provision(CHAIN, 0, 0, cfg.digest())
    return made, cfg


def test_every_call_takes_the_next_value() -> None:
    made, cfg = pair()
    verifier = SeqUiVerifier(CHAIN)
    for expected, (kind, digest) in enumerate(
        [(PREPARE, X), (PREPARE, X), (COMMIT, X), (PREPARE, Y)], start=1
    ):
        ui = made.create_ui(digest, kind)
        assert ui.seq == expected == made.identity().seq
        assert verifier.verify_ui(cfg, 0, kind, digest, ui)
        assert not verifier.verify_ui(cfg, 0, kind + 1, digest, ui)
        assert not verifier.verify_ui(cfg, 0, kind, OTHER, ui)
        assert not verifier.verify_ui(cfg, 0, kind, digest, Ui(ui.seq + 1, ui.signature))
        assert not verifier.verify_ui(cfg, 1, kind, digest, ui)
        assert not verifier.verify_ui(Configuration(1, 0, cfg.members), 0, kind, digest, ui)
        assert not SeqUiVerifier(OTHER).verify_ui(cfg, 0, kind, digest, ui)
        assert made.last is not None
        assert (made.last.counter, made.last.kind, made.last.digest) == (expected, kind, digest)
        assert made.last.signature == ui.signature


@pytest.mark.parametrize("seq", [0, -1, 1 << 63])
def test_values_out_of_bounds_do_not_verify(seq: int) -> None:
    _, cfg = pair()
    assert not SeqUiVerifier(CHAIN).verify_ui(cfg, 0, PREPARE, X, Ui(seq, bytes(70)))


def test_no_statement_of_one_generator_verifies_as_one_of_the_other_i26() -> None:
    made, cfg = pair()
    ui = made.create_ui(X, PREPARE)
    verifier = UiVerifier(CHAIN)
    for body in (X, order_body(0, 1, X), order_body(0, 0, X)):
        assert not verifier.ui(cfg, 0, ui.seq, PREPARE, body, ui.signature)
    proof = made.attest(X)
    identity = made.identity()
    assert not verifier.attested(identity.key, identity.tc_id, 0, proof.seq, X, proof.signature)


def test_attesting_is_outside_the_stream() -> None:
    made, _ = pair()
    proof = made.attest(X)
    identity = made.identity()
    verifier = SeqUiVerifier(CHAIN)
    assert identity.seq == 0 and proof.seq == 0
    assert verifier.attested(identity.key, identity.tc_id, 0, X, proof)
    assert not verifier.attested(identity.key, identity.tc_id, 0, Y, proof)
    assert not verifier.attested(identity.key, identity.tc_id, 1, X, proof)
    assert not verifier.attested(identity.key, bytes(16), 0, X, proof)
    assert not verifier.attested(b"", bytes(16), 0, X, proof)


def refused(made: SeqUsig, action: str, *arguments: object) -> str:
    with pytest.raises(TrustedRefusal) as found:
        getattr(made, action)(*arguments)
    return found.value.code


def test_refusals() -> None:
    fresh = SeqUsig.fresh()
    for action, arguments in (("create_ui", (X, 1)), ("attest", (X,)), ("begin_config", (1, X))):
        assert refused(fresh, action, *arguments) == "unprovisioned"
    assert refused(fresh, "provision", b"", 0, 0, X) == "malformed"
    assert refused(fresh, "provision", CHAIN, 64, 0, X) == "malformed"
    made, cfg = pair()
    made.provision(CHAIN, 0, 0, cfg.digest())
    assert refused(made, "provision", OTHER, 0, 0, cfg.digest()) == "config"
    assert refused(made, "provision", CHAIN, 1, 0, cfg.digest()) == "config"
    for bad in ((b"", 1), (X, 256), (X, -1), (X, ATTEST)):
        assert refused(made, "create_ui", *bad) == "malformed"
    assert refused(made, "attest", b"") == "malformed"
    assert refused(made, "begin_config", 0xFFFFFFFF, X) == "malformed"
    assert refused(made, "begin_config", 0, X) == "config"
    assert made.identity().seq == 0
    made.seal()
    for action, arguments in (
        ("create_ui", (X, 1)),
        ("attest", (X,)),
        ("begin_config", (1, X)),
        ("provision", (CHAIN, 0, 0, cfg.digest())),
        ("seal", ()),
    ):
        assert refused(made, action, *arguments) == "halted"


def test_a_configuration_has_a_stream_of_its_own() -> None:
    made, _ = pair()
    made.create_ui(X, PREPARE)
    made.begin_config(1, Y)
    assert made.last is None
    assert made.create_ui(X, PREPARE).seq == 1
    made.begin_config(1, Y)  # again: nothing happens
    assert made.create_ui(X, PREPARE).seq == 2


def test_sealing_keeps_key_and_counter_and_works_once() -> None:
    made, cfg = pair()
    made.create_ui(X, PREPARE)
    blob = made.seal()
    back = SeqUsig.restore(blob, made.platform)
    assert back.identity().warm and back.last == made.last
    ui = back.create_ui(Y, COMMIT)
    assert ui.seq == 2 and SeqUiVerifier(CHAIN).verify_ui(cfg, 0, COMMIT, Y, ui)
    with pytest.raises(SealRefused):
        SeqUsig.restore(blob, made.platform)
    data = back.export_state()
    assert SeqUsig.import_state(data).export_state() == data
    with pytest.raises(SealRefused):
        SeqUsig.import_state(data + b"\x00")
