"""Host and operator keys, and the admission of a new trusted component (A8.2, A8.3)."""

from __future__ import annotations

import msgspec
import pytest

from tepbft.core.admission import OperatorSignature, config_block, possession_digest
from tepbft.core.block import CONFIG
from tepbft.core.configuration import Configuration, Member, ReplaceTc, decode_replace, replace_preimage
from tepbft.crypto.hash import digest
from tepbft.crypto.node_key import NodeKey, verify_ed25519
from tepbft.crypto.operator import sign_replacement
from tepbft.errors import TepbftError
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Attest
from tepbft.trusted.verify import UiVerifier

CHAIN = digest(b"a chain")
OPERATORS = [bytes([node + 1]) * 32 for node in range(3)]


def _member(node: int) -> Member:
    tc = HbUsig.fresh().identity()
    return Member(
        node=node,
        tc_id=tc.tc_id,
        tc_key=tc.key,
        node_key=NodeKey.from_seed(bytes([node + 101]) * 32).public,
        operator_key=NodeKey.from_seed(OPERATORS[node]).public,
        certificate=bytes(32),
        host="127.0.0.1",
        peer_port=1,
        client_port=2,
        http_port=3,
    )


CFG = Configuration(0, 0, tuple(_member(node) for node in range(3)))
RULE = OperatorSignature(UiVerifier(CHAIN))


def _fresh(chain: bytes = CHAIN, node: int = 2) -> HbUsig:
    component = HbUsig.fresh()
    component.provision(chain, node, 0, bytes(32), 0, 16)
    return component


def _replacement() -> ReplaceTc:
    component = _fresh()
    return sign_replacement(CHAIN, CFG, 2, OPERATORS[2], component.identity(), component.call)


def test_node_keys_sign_deterministically_and_verify() -> None:
    key = NodeKey.from_seed(bytes(32))
    assert key.sign(b"message") == NodeKey.from_seed(bytes(32)).sign(b"message")
    assert verify_ed25519(key.public, b"message", key.sign(b"message"))
    assert not verify_ed25519(key.public, b"massage", key.sign(b"message"))
    assert not verify_ed25519(NodeKey.from_seed(b"\x01" * 32).public, b"message", key.sign(b"message"))
    assert "secret" not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        NodeKey.from_seed(b"short")


def test_rfc_8032_test_vector_1() -> None:
    key = NodeKey.from_seed(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), b"\xff" * 32, bytes(33)])
def test_garbage_keys_never_raise_nor_verify(public: bytes) -> None:
    assert not verify_ed25519(public, b"message", bytes(64))
    assert not verify_ed25519(public, b"", b"")
    assert not verify_ed25519(public, b"", b"\xff" * 64)


def test_an_operator_admits_a_fresh_component() -> None:
    op = _replacement()
    assert RULE.admits(CHAIN, CFG, op)
    block = config_block(0, 5, 77, op)
    assert (block.kind, block.count, block.height, block.ts) == (CONFIG, 0, 5, 77)
    assert decode_replace(block.body) == op


def test_possession_covers_what_the_operator_signs() -> None:
    op = _replacement()
    assert possession_digest(CHAIN, op) == digest(b"TEP1/POSS" + replace_preimage(CHAIN, op))


@pytest.mark.parametrize(
    "change",
    [
        {"node": 1},
        {"node": 63},
        {"old_tc_id": bytes(16)},
        {"new_tc_id": bytes(16)},
        {"possession_seq": 99},
        {"possession": b""},
        {"possession": bytes(72)},
        {"evidence": b""},
        {"evidence": bytes(64)},
        {"new_tc_key": HbUsig.fresh().identity().key},
    ],
)
def test_every_altered_field_is_refused(change: dict[str, object]) -> None:
    assert not RULE.admits(CHAIN, CFG, msgspec.structs.replace(_replacement(), **change))


def test_a_replacement_is_of_one_chain_and_one_operator() -> None:
    op = _replacement()
    assert not RULE.admits(digest(b"another chain"), CFG, op)
    other = NodeKey.from_seed(OPERATORS[0]).sign(replace_preimage(CHAIN, op))
    assert not RULE.admits(CHAIN, CFG, msgspec.structs.replace(op, evidence=other))


def test_a_component_of_another_chain_does_not_attest_for_this_one() -> None:
    component = _fresh(chain=digest(b"another chain"))
    op = sign_replacement(CHAIN, CFG, 2, OPERATORS[2], component.identity(), component.call)
    assert not RULE.admits(CHAIN, CFG, op)


def test_the_helper_refuses_the_wrong_operator_and_an_unwilling_component() -> None:
    component = _fresh()
    with pytest.raises(TepbftError, match="not the one in the genesis"):
        sign_replacement(CHAIN, CFG, 2, OPERATORS[1], component.identity(), component.call)
    with pytest.raises(TepbftError, match="no such node"):
        sign_replacement(CHAIN, CFG, 3, OPERATORS[1], component.identity(), component.call)
    unbound = HbUsig.fresh()
    assert unbound.call(Attest(bytes(32)))
    with pytest.raises(TepbftError, match="did not attest"):
        sign_replacement(CHAIN, CFG, 2, OPERATORS[2], unbound.identity(), unbound.call)
