"""Proven receipts: the genesis is enough to verify one, and nothing less than the whole will do
(I-14, I-15, I-19, S-45)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from client_world import Chain, operator_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.client.receipt_file import receipt_from_json, receipt_to_json
from tepbft.client.receipts import ReceiptRefused, verify_receipt
from tepbft.core.block import encode_body
from tepbft.core.configuration import Genesis, decode_genesis, encode_genesis
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import PeerFault, TepbftError
from tepbft.wire import ProvenReceipt, client_codec, encode

replace = msgspec.structs.replace


def _chain() -> tuple[Chain, ProvenReceipt]:
    chain = Chain(5)
    chain.execute([chain.request(1, b"one")])
    height = chain.execute([chain.request(seq, b"op%d" % seq) for seq in range(2, 32)])
    chain.execute([chain.request(32, b"last")])
    return chain, chain.prove(height, 3)


CHAIN, PROOF = _chain()


def refused(proof: ProvenReceipt, check: str, genesis: Genesis = CHAIN.genesis) -> None:
    with pytest.raises(ReceiptRefused) as caught:
        verify_receipt(genesis, proof)
    assert caught.value.check == check
    assert check in str(caught.value)


def test_a_receipt_verifies_from_the_genesis_alone() -> None:
    genesis = decode_genesis(encode_genesis(CHAIN.genesis))
    found = verify_receipt(genesis, receipt_from_json(receipt_to_json(PROOF)))
    assert (found.height, found.certified_height, found.configuration) == (2, 3, 0)
    assert (found.session, found.seq, found.status, found.result) == (1, 5, 0, b"5po")
    assert found.signers == (0, 1, 2)
    assert found.timestamp_ms == CHAIN.headers[2].ts
    assert found.is_for(b"op5")
    assert not found.is_for(b"op6")


def test_every_position_of_a_block_is_provable() -> None:
    for index in range(30):
        assert verify_receipt(CHAIN.genesis, CHAIN.prove(2, index)).seq == index + 2


def test_it_survives_the_wire() -> None:
    assert client_codec.decode(encode(PROOF)) == PROOF


# --- what is refused, each with the check that found it -----------------------------------------


def test_another_chain_is_refused() -> None:
    refused(PROOF, "chain", replace(CHAIN.genesis, nonce=b"\x01" * 32))
    refused(replace(PROOF, chain_id=bytes(32)), "chain")


@pytest.mark.parametrize(
    "change",
    [
        {"result": b"forged"},
        {"status": 1},
        {"seq": 6},
        {"session": 2},
        {"client": bytes(16)},
        {"request_digest": bytes(32)},
    ],
)
def test_a_forged_receipt_is_refused(change: dict[str, Any]) -> None:
    refused(replace(PROOF, receipt=replace(PROOF.receipt, **change)), "position")


def test_a_wrong_merkle_path_is_refused() -> None:
    refused(replace(PROOF, index=2), "position")
    refused(replace(PROOF, index=30), "position")
    refused(replace(PROOF, neighbours=PROOF.neighbours[:-1]), "position")
    refused(replace(PROOF, neighbours=list(reversed(PROOF.neighbours))), "position")
    refused(replace(PROOF, path=PROOF.path[:-1]), "position")
    refused(replace(PROOF, path=[*PROOF.path, bytes(32)]), "position")
    refused(replace(PROOF, path=list(reversed(PROOF.path))), "position")


def test_headers_have_to_follow_one_another() -> None:
    first, second = PROOF.headers
    refused(replace(PROOF, headers=[first, replace(second, height=4)]), "headers")
    refused(replace(PROOF, headers=[first, replace(second, parent=bytes(32))]), "headers")
    refused(replace(PROOF, headers=[replace(first, ts=1), second]), "headers")
    refused(replace(PROOF, headers=[CHAIN.headers[0], *PROOF.headers]), "headers")


def test_a_certificate_of_another_height_is_refused() -> None:
    """S-45: a valid certificate that covers something else."""
    refused(replace(PROOF, headers=PROOF.headers[:1]), "certificate")
    other = Chain(5)
    other.execute([])
    refused(replace(PROOF, certificate=other.certify(other.head)), "certificate")


def test_too_few_voters_are_refused() -> None:
    """I-15: f+1 distinct members, here 3 of 5."""
    votes = PROOF.certificate.votes
    for few in (
        votes[:2],
        (),
        (votes[0], votes[1], votes[1]),
        (votes[0], votes[1], replace(votes[1], node=2)),
    ):
        refused(replace(PROOF, certificate=replace(PROOF.certificate, votes=few)), "certificate")
    assert verify_receipt(CHAIN.genesis, CHAIN.prove(2, 3, nodes=range(5))).signers == (0, 1, 2, 3, 4)


def test_duplicate_and_foreign_voters_do_not_count() -> None:
    votes = CHAIN.prove(2, 3, nodes=range(4)).certificate.votes
    duplicated = (*votes, votes[0])
    foreign = (*votes[:3], replace(votes[3], node=5))
    for wrong in (duplicated, foreign):
        refused(replace(PROOF, certificate=replace(PROOF.certificate, votes=wrong)), "certificate")


def test_one_bad_signature_spoils_a_certificate() -> None:
    votes = list(PROOF.certificate.votes)
    votes[1] = replace(votes[1], seq=votes[1].seq + 1)
    refused(replace(PROOF, certificate=replace(PROOF.certificate, votes=tuple(votes))), "certificate")


# --- the file -------------------------------------------------------------------------------------


def test_any_flipped_byte_of_a_receipt_file_is_refused() -> None:
    good = receipt_to_json(PROOF)
    assert receipt_from_json(good) == PROOF
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 7)
        with pytest.raises(TepbftError):
            verify_receipt(CHAIN.genesis, receipt_from_json(bytes(bad)))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_edit_of_a_receipt_file_is_refused(data: st.DataObject) -> None:
    good = receipt_to_json(PROOF)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 8)))
    bad = good[:start] + data.draw(st.binary(max_size=8)) + good[end:]
    if bad != good:
        with pytest.raises(TepbftError):
            receipt_from_json(bad)


def test_the_readable_part_cannot_say_something_else() -> None:
    good = receipt_to_json(PROOF)
    for wrong in (
        good.replace(b'"status": "ok"', b'"status": "refused"'),
        good.replace(b'"seq": 5', b'"seq": 6'),
        good.replace(b"  ", b" "),
        good + b"\n",
        good.replace(b'"format"', b'"extra": 1,\n  "format"'),
    ):
        assert wrong != good
        with pytest.raises(TepbftError, match="receipt file"):
            receipt_from_json(wrong)


@given(garbage=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_garbage_is_a_clear_error(garbage: bytes) -> None:
    for data in (garbage, b"[" * 100_000, b"{}", b"null"):
        with pytest.raises(TepbftError, match="receipt file"):
            receipt_from_json(data)


# --- the chain of configurations -------------------------------------------------------------------


def _reconfigured() -> tuple[Chain, ProvenReceipt]:
    chain = Chain(3)
    chain.execute([chain.request(1, b"before")])
    chain.replace(2)
    height = chain.execute([chain.request(2, b"after")])
    return chain, chain.prove(height, 0, nodes=(1, 2))


RECONFIGURED, LINKED = _reconfigured()


def linked(**change: Any) -> ProvenReceipt:
    return replace(LINKED, links=[replace(LINKED.links[0], **change)])


def test_a_receipt_of_a_later_configuration_verifies() -> None:
    """I-19: the replaced component signs, and the link proves that it may."""
    found = verify_receipt(RECONFIGURED.genesis, receipt_from_json(receipt_to_json(LINKED)))
    assert (found.height, found.configuration, found.signers) == (3, 1, (1, 2))


def test_an_earlier_receipt_may_be_certified_by_a_later_configuration() -> None:
    found = verify_receipt(RECONFIGURED.genesis, RECONFIGURED.prove(1, 0))
    assert (found.height, found.certified_height, found.configuration) == (1, 3, 1)


def test_two_replacements_chain_up() -> None:
    chain = Chain(3)
    chain.replace(2)
    chain.replace(0)
    height = chain.execute([chain.request(1, b"op")])
    assert verify_receipt(chain.genesis, chain.prove(height, 0)).configuration == 2
    proof = chain.prove(height, 0)
    refused(replace(proof, links=proof.links[:1]), "configuration", chain.genesis)
    refused(replace(proof, links=proof.links[::-1]), "configuration", chain.genesis)
    refused(replace(proof, links=[proof.links[0]] * 2), "configuration", chain.genesis)


def test_links_have_to_be_there_and_lead_to_the_certificate() -> None:
    genesis = RECONFIGURED.genesis
    refused(replace(LINKED, links=[]), "configuration", genesis)
    refused(replace(LINKED, links=LINKED.links * 2), "configuration", genesis)
    lower = replace(LINKED.certificate, cfg=0)
    refused(replace(LINKED, links=[], certificate=lower), "certificate", genesis)


def test_a_link_binds_its_block() -> None:
    genesis = RECONFIGURED.genesis
    link = LINKED.links[0]
    refused(linked(ts=link.ts + 1), "configuration", genesis)
    refused(linked(height=link.height + 1), "configuration", genesis)
    refused(linked(cfg=1), "configuration", genesis)
    refused(linked(body=b"garbage"), "configuration", genesis)
    refused(linked(body=encode_body([])), "configuration", genesis)
    refused(linked(header=replace(link.header, state_root=b"\x01" * 32)), "certificate", genesis)


def test_a_link_needs_the_certificate_of_the_configuration_that_it_ends() -> None:
    genesis = RECONFIGURED.genesis
    certificate = LINKED.links[0].certificate
    refused(linked(certificate=replace(certificate, votes=certificate.votes[:1])), "certificate", genesis)
    refused(linked(certificate=replace(certificate, cfg=1)), "certificate", genesis)
    refused(linked(certificate=LINKED.certificate), "certificate", genesis)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"evidence": b""}, "admission"),
        ({"evidence": bytes(64)}, "admission"),
        ({"evidence": NodeKey.from_seed(operator_seed(0)).sign(b"another operator")}, "admission"),
        ({"possession_seq": 7}, "admission"),
        ({"possession": b""}, "admission"),
        ({"old_tc_id": bytes(16)}, "configuration"),
        ({"new_tc_id": bytes(16)}, "configuration"),
        ({"new_tc_id": CHAIN.genesis.members[0].tc_id}, "configuration"),
    ],
)
def test_a_certified_but_inadmissible_replacement_is_refused(change: dict[str, Any], check: str) -> None:
    """Even f+1 trusted components that order it do not make a replacement admissible."""
    chain = Chain(3)
    chain.replace(2, **change)
    height = chain.execute([chain.request(1, b"op")])
    refused(chain.prove(height, 0, nodes=(0, 1)), check, chain.genesis)


def test_replacements_have_to_keep_their_distance() -> None:
    """S-37: `min_config_gap` binds whoever verifies, too."""
    chain = Chain(3)
    chain.replace(2)
    chain.replace(2)
    height = chain.execute([chain.request(1, b"op")])
    refused(chain.prove(height, 0), "configuration", chain.genesis)


def test_whatever_byte_is_flipped_on_the_wire_no_other_outcome_is_proven() -> None:
    """I-14: only the number of leaves, which no signature covers, may vary without harm."""
    good = encode(LINKED)
    truth = verify_receipt(RECONFIGURED.genesis, LINKED)
    for at in range(0, len(good), 3):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        try:
            proof = client_codec.decode(bytes(bad))
            assert isinstance(proof, ProvenReceipt)
            found = verify_receipt(RECONFIGURED.genesis, proof)
        except (PeerFault, TepbftError, AssertionError):
            continue
        assert found == truth, at
