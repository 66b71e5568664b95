"""A client session under everything that a node may say to it: it believes no liar, and never raises."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.fuzz_shapes import values
from support.world import World
from tepbft.client.events import FromNode, NodeConnected, SessionOptions, Tick
from tepbft.client.receipts import verify_receipt
from tepbft.client.session import Session
from tepbft.core.block import Receipt
from tepbft.wire import ClientMessage, NotAdmitted, Outcome, ProvenReceipt, encode

EXAMPLES = int(os.environ.get("TEPBFT_FUZZ_EXAMPLES", "40"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def addressed(session: Session, message: Any, seq: int) -> Any:
    """The same message, about a request of this client."""
    mine = {"client": session.client_id, "session": session.number, "seq": seq}
    match message:
        case Outcome() if message.receipts:
            receipts: list[Receipt] = [msgspec.structs.replace(found, **mine) for found in message.receipts]
            return msgspec.structs.replace(message, receipts=receipts)
        case NotAdmitted() if message.requests:
            codes = [(session.client_id, session.number, seq, code) for *_, code in message.requests]
            return msgspec.structs.replace(message, requests=codes)
        case ProvenReceipt():
            return msgspec.structs.replace(message, receipt=msgspec.structs.replace(message.receipt, **mine))
        case _:
            return message


@FUZZ
@given(
    st.lists(
        st.tuples(values(ClientMessage), st.integers(-1, 3), st.integers(0, 4), st.booleans()), max_size=25
    ),
    st.integers(0, 2),
)
def test_one_liar_decides_nothing(said: list[tuple[Any, int, int, bool]], liar: int) -> None:
    """f = 1: whatever one node says (and nodes that do not exist), no request is complete, and the next step
    still works."""
    world = World(3)
    client = world.clients[0]

    def check(proof: ProvenReceipt) -> int:
        return verify_receipt(world.genesis, proof).certified_height

    session = Session(
        world.chain_id, client.id, 1, client.signer, 3, 1, SessionOptions(proof_after=1),
        rng=Random(1), check_proof=check,
    )  # fmt: skip
    for _ in range(3):
        session.submit(b"x", 0)
    for moment, (message, node, seq, mine) in enumerate(said):
        sender = liar if 0 <= node < 3 else node
        event = addressed(session, message, seq) if mine else message
        effects = session.step(FromNode(sender, event), moment * 700.0)
        effects_after = session.step(Tick(), moment * 700.0)
        assert not effects.completed and not effects_after.completed
        for send in effects_after.send:
            assert encode(send.message)
    session.step(NodeConnected(liar), 1e6)
    assert session.step(Tick(), 1e6).send, "it still repeats its requests"
    assert session.outstanding == 3
