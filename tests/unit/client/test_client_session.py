"""The client session: numbers, window, repetition, and what it believes (A9, A-39 to A-45, I-12, I-14)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft import wire
from tepbft.client.matching import Matcher, claim_of
from tepbft.client.session import (
    NOT_ADMITTED,
    ClientEffects,
    FromNode,
    NodeConnected,
    Outcome,
    ProofChecker,
    Session,
    SessionOptions,
    Tick,
)
from tepbft.core.block import (
    CONFLICT,
    DUPLICATE,
    OK,
    OUT_OF_WINDOW,
    REFUSED,
    STALE,
    Header,
    Receipt,
    Request,
    digest_of,
)
from tepbft.core.certificates import CheckpointCertificate
from tepbft.errors import TepbftError

CHAIN = sha256(b"chain").digest()
CLIENT = b"c" * 16


class Mark:
    """A signer that is cheap and recognisable."""

    def sign(self, digest: bytes) -> bytes:
        return digest[:4]


def session(n: int = 3, check: ProofChecker | None = None, **options: Any) -> Session:
    return Session(
        CHAIN,
        CLIENT,
        77,
        Mark(),
        n,
        (n - 1) // 2,
        SessionOptions(**options),
        rng=Random(1),
        check_proof=check,
    )


def sent(effects: ClientEffects) -> list[tuple[tuple[int, ...], list[int]]]:
    """(to, numbers) of the Submit messages."""
    return [
        (send.to, [request.seq for request in send.message.requests])
        for send in effects.send
        if isinstance(send.message, wire.Submit)
    ]


def requests_of(effects: ClientEffects) -> list[Request]:
    return [
        request
        for send in effects.send
        if isinstance(send.message, wire.Submit)
        for request in send.message.requests
    ]


def receipt(request: Request, status: int = OK, result: bytes = b"done") -> Receipt:
    return Receipt(request.client, request.session, request.seq, digest_of(CHAIN, request), status, result)


def tell(
    one: Session, node: int, height: int, receipts: Iterable[Receipt], now_ms: float = 1, view: int = 0
) -> list[Outcome]:
    message = wire.Outcome(view, height, list(receipts))
    return one.step(FromNode(node, message), now_ms).completed


def started(one: Session, ops: int = 1, now_ms: float = 0) -> list[Request]:
    for i in range(ops):
        one.submit(b"op%d" % i, now_ms)
    return requests_of(one.step(Tick(), now_ms))


# --- numbering and window ---------------------------------------------------------------------------


def test_submissions_between_two_ticks_leave_in_one_frame_to_all() -> None:
    one = session()
    assert [one.submit(b"x", 0) for _ in range(3)] == [1, 2, 3]
    effects = one.step(Tick(), 0)
    assert sent(effects) == [((0, 1, 2), [1, 2, 3])]
    first = requests_of(effects)[0]
    assert (first.client, first.session, first.op) == (CLIENT, 77, b"x")
    assert first.auth == digest_of(CHAIN, first)[:4]
    assert effects.send[0].message.chain_id == CHAIN
    assert sent(one.step(Tick(), 0)) == []


def test_the_window_is_counted_from_the_oldest_unanswered_request() -> None:
    """A-39: nothing above low + W, even if all but the oldest are answered."""
    one = session(window=4)
    requests = started(one, 10)
    assert [request.seq for request in requests] == [1, 2, 3, 4]
    for request in requests[1:]:
        for node in (0, 1):
            tell(one, node, 5, [receipt(request)])
    assert (one.low, one.outstanding) == (0, 1)
    assert sent(one.step(Tick(), 2)) == []
    for node in (0, 1):
        tell(one, node, 6, [receipt(requests[0])])
    assert one.low == 4
    assert sent(one.step(Tick(), 3)) == [((0, 1, 2), [5, 6, 7, 8])]


def test_large_batches_are_split_into_frames_that_nodes_accept() -> None:
    one = session(window=64)
    for _ in range(64):
        one.submit(bytes(1 << 18), 0)
    effects = one.step(Tick(), 0)
    assert len(effects.send) > 1
    assert [request.seq for request in requests_of(effects)] == list(range(1, 65))
    assert all(len(wire.encode(send.message)) < wire.MAX_FRAME_BYTES // 2 for send in effects.send)


def test_queues_are_bounded_and_say_so() -> None:
    one = session(window=1, queue_requests=2, operation_bytes=10, queue_bytes=15)
    with pytest.raises(TepbftError, match="11 bytes"):
        one.submit(bytes(11), 0)
    one.submit(bytes(5), 0)
    one.submit(bytes(5), 0)
    assert one.full
    with pytest.raises(TepbftError, match="client queue"):
        one.submit(b"", 0)
    started(one, 0)
    assert one.submit(bytes(10), 0) == 3
    with pytest.raises(TepbftError, match="wait already"):
        one.submit(b"x", 0)
    assert (one.outstanding, one.waiting, one.idle) == (1, 2, False)


@pytest.mark.parametrize(
    "options",
    [{"window": 0}, {"client_send": "some"}, {"retransmit_ms": 0}, {"queue_bytes": 1}, {"proof_after": 0}],
)
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TepbftError, match="client options"):
        session(**options)


# --- matching ---------------------------------------------------------------------------------------


def test_f_plus_1_equal_answers_complete_a_request() -> None:
    one = session(5)
    (request,) = started(one, 1, now_ms=10)
    assert tell(one, 0, 7, [receipt(request)], 11) == []
    assert tell(one, 4, 7, [receipt(request)], 12) == []
    (outcome,) = tell(one, 2, 7, [receipt(request)], 14.5, view=9)
    assert outcome == Outcome(77, 1, 7, OK, b"done", receipt(request).digest(), (0, 2, 4), 4.5)
    assert (outcome.ok, outcome.status_name) == (True, "ok")
    assert one.idle
    assert tell(one, 1, 7, [receipt(request)]) == []


def test_one_node_counts_once() -> None:
    one = session()
    (request,) = started(one)
    for _ in range(5):
        assert tell(one, 1, 7, [receipt(request)] * 3) == []


@pytest.mark.parametrize(
    "other",
    [
        {"height": 8},
        {"status": REFUSED},
        {"result": b"else"},
        {"result": b"x" * 5000},
        {"request_digest": bytes(32)},
        {"client": bytes(16)},
        {"session": 78},
        {"seq": 2},
    ],
)
def test_answers_that_differ_in_anything_but_the_view_do_not_match(other: dict[str, Any]) -> None:
    """A-43."""
    one = session()
    request = started(one, 2)[0]
    fields = {
        "client": CLIENT,
        "session": 77,
        "seq": 1,
        "request_digest": digest_of(CHAIN, request),
        "status": OK,
        "result": b"done",
    }
    changed = {**fields, **other}
    height = changed.pop("height", 7)
    assert tell(one, 0, 7, [Receipt(**fields)], view=1) == []
    assert tell(one, 1, height, [Receipt(**changed)], view=1) == []
    (outcome,) = tell(one, 2, 7, [Receipt(**fields)], view=4)
    assert outcome.nodes == (0, 2)


def test_long_results_are_compared_by_digest_and_returned_whole() -> None:
    one = session()
    (request,) = started(one)
    long = receipt(request, result=b"r" * 5000)
    assert len(claim_of(7, long)[2]) < 300
    lookalike = receipt(request, result=claim_of(7, long)[2])
    assert claim_of(7, lookalike) != claim_of(7, long)
    tell(one, 0, 7, [long])
    assert tell(one, 1, 7, [long])[0].result == b"r" * 5000


@pytest.mark.parametrize("status", [REFUSED, CONFLICT, STALE])
def test_refusals_are_outcomes(status: int) -> None:
    one = session()
    (request,) = started(one)
    tell(one, 0, 7, [receipt(request, status)])
    (outcome,) = tell(one, 1, 7, [receipt(request, status)])
    assert (outcome.status, outcome.ok, one.idle) == (status, False, True)


@pytest.mark.parametrize("status", [DUPLICATE, OUT_OF_WINDOW, 6, 255])
def test_what_is_no_outcome_is_not_taken_for_one(status: int) -> None:
    """The original receipt, with its original height, is what answers a repetition (S-44)."""
    one = session()
    (request,) = started(one)
    for node in range(3):
        assert tell(one, node, 9, [receipt(request, status)]) == []
    tell(one, 0, 7, [receipt(request)])
    assert tell(one, 2, 7, [receipt(request)])[0].height == 7


def test_a_node_may_correct_itself_but_never_counts_twice() -> None:
    matcher = Matcher()
    right, wrong = (1, 0, b"right"), (1, 0, b"wrong")
    assert matcher.add(0, wrong, 2) is None
    assert matcher.add(0, right, 2) is None
    assert matcher.add(1, wrong, 2) is None
    assert matcher.add(2, right, 2) == (0, 2)
    assert len(matcher) == 3


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_schedule_makes_a_session_believe_f_liars(data: st.DataObject) -> None:
    """I-14, I-12, S-45: replies are lost, repeated and reordered, f nodes agree on lies; every
    completed request completes once, with the truth, and all complete once the truth gets through."""
    f = data.draw(st.integers(1, 3))
    n = 2 * f + 1
    one = session(n, window=8)
    requests = started(one, 8)
    liars = set(data.draw(st.permutations(range(n)))[:f])
    done: dict[int, Outcome] = {}

    def deliver(node: int, request: Request, lie: int) -> None:
        height = 10 + request.seq
        said = receipt(request)
        if node in liars:
            said, height = [
                (receipt(request, result=b"lie"), height),
                (receipt(request), height + 1),
                (receipt(request, REFUSED), height),
                (Receipt(CLIENT, 77, request.seq, bytes(32), OK, b"done"), height),
            ][lie]
        for outcome in tell(one, node, height, [said]):
            assert outcome.seq not in done
            assert (outcome.status, outcome.result, outcome.height) == (OK, b"done", 10 + outcome.seq)
            done[outcome.seq] = outcome

    steps = data.draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.sampled_from(requests), st.integers(0, 3)), max_size=120)
    )
    for node, request, lie in steps:
        deliver(node, request, lie)
    for request in requests:
        for node in range(n):
            deliver(node, request, 0)
    assert sorted(done) == list(range(1, 9))
    assert (one.low, one.idle) == (8, True)


@given(
    junk=st.lists(
        st.tuples(
            st.integers(-1, 4),
            st.sampled_from(
                [
                    wire.Welcome(CHAIN, 1, 2**62, 63),
                    wire.Submit(CHAIN, []),
                    wire.NotAdmitted(
                        [(CLIENT, 77, 1, "?"), (CLIENT, 77, 99, "busy"), (bytes(16), 1, 1, "busy")]
                    ),
                    wire.NoProof(CLIENT, 77, 1, "no"),
                    wire.WantProof(CLIENT, 77, 1),
                    wire.Outcome(2**62, 2**62, [Receipt(bytes(16), 0, 1, bytes(32), 0, b"")]),
                    None,
                ]
            ),
        )
    )
)
@settings(max_examples=40, deadline=None)
def test_unexpected_messages_are_ignored(junk: list[tuple[int, Any]]) -> None:
    one = session()
    (request,) = started(one)
    for node, message in junk:
        assert one.step(FromNode(node, message), 1).completed == []
    tell(one, 0, 7, [receipt(request)])
    assert tell(one, 1, 7, [receipt(request)])[0].ok
    assert 0 <= one.primary_hint < 3


# --- repetition -------------------------------------------------------------------------------------


def test_unanswered_requests_are_repeated_with_back_off_to_all_nodes() -> None:
    one = session(retransmit_ms=100, retransmit_max_ms=400)
    original = started(one)
    times = []
    for now_ms in range(0, 3000, 5):
        effects = one.step(Tick(), now_ms)
        if effects.send:
            assert sent(effects) == [((0, 1, 2), [1])]
            assert requests_of(effects) == original  # the very same bytes
            times.append(now_ms)
    gaps = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    assert 75 <= gaps[0] <= 130
    assert 150 <= gaps[1] <= 255
    assert all(300 <= gap <= 505 for gap in gaps[2:])
    assert len(gaps) > 5


def test_primary_first_sends_to_the_hinted_primary_and_then_to_all() -> None:
    one = session(5, client_send="primary_first", retransmit_ms=100)
    for node in (0, 2, 4):
        one.step(FromNode(node, wire.Welcome(CHAIN, node, 3, 3)), 0)
    one.step(FromNode(1, wire.Welcome(CHAIN, 1, 0, 2)), 0)
    assert one.primary_hint == 3
    one.submit(b"op", 0)
    assert sent(one.step(Tick(), 0)) == [((3,), [1]), ((0, 1, 2, 4), [1])]  # these know it from now on
    assert sent(one.step(Tick(), 200)) == [((0, 1, 2, 3, 4), [1])]
    one.submit(b"op", 200)
    assert sent(one.step(Tick(), 200)) == [((3,), [2])]
    for node in (0, 2, 4):
        tell(one, node, 1, [], view=5)
    assert one.primary_hint == 0


def test_primary_first_introduces_itself_where_it_is_not_known_any_more() -> None:
    """A node answers on the connection on which it heard of a client."""
    one = session(3, client_send="primary_first", retransmit_ms=10_000)
    started(one, 2)
    one.step(NodeConnected(2), 1)
    assert sent(one.step(Tick(), 1)) == [((2,), [1])]
    one.step(FromNode(1, wire.NotAdmitted([(CLIENT, 77, 1, "busy")])), 2)
    one.submit(b"op", 2)
    assert sent(one.step(Tick(), 2)) == [((0,), [3]), ((1,), [3])]
    one.step(NodeConnected(0), 3)
    assert sent(one.step(Tick(), 3)) == [((0,), [1, 2, 3])]
    assert sent(one.step(Tick(), 20_000)) == [((0, 1, 2), [1, 2, 3])]
    one.step(NodeConnected(2), 20_001)
    assert sent(one.step(Tick(), 20_001)) == [((2,), [1, 2, 3])]  # what was repeated goes to all


def test_jitter_comes_from_the_given_generator_alone() -> None:
    def trace() -> list[float]:
        one = session(retransmit_ms=100)
        started(one)
        return [now for now in range(0, 2000, 5) if one.step(Tick(), now).send]

    assert trace() == trace()


def test_busy_is_repeated_soon_and_only_to_those_who_were_busy() -> None:
    one = session(5, retransmit_ms=10_000, busy_ms=40, busy_max_ms=80)
    started(one, 2)
    for node in (1, 3):
        one.step(FromNode(node, wire.NotAdmitted([(CLIENT, 77, 2, "busy")])), 0)
    assert sent(one.step(Tick(), 20)) == []
    assert sent(one.step(Tick(), 60)) == [((1, 3), [2])]
    assert sent(one.step(Tick(), 500)) == []
    one.step(FromNode(1, wire.NotAdmitted([(CLIENT, 77, 2, "out_of_window")])), 500)
    assert sent(one.step(Tick(), 550)) == []
    assert sent(one.step(Tick(), 605)) == [((1,), [2])]


def test_a_flood_of_busy_sends_nothing_by_itself() -> None:
    one = session(busy_ms=40)
    started(one)
    for _ in range(1000):
        assert one.step(FromNode(1, wire.NotAdmitted([(CLIENT, 77, 1, "busy")])), 1).send == []
    assert sent(one.step(Tick(), 60)) == [((1,), [1])]


def test_a_reconnected_node_gets_what_is_outstanding() -> None:
    one = session()
    started(one, 3)
    tell(one, 0, 7, [])
    one.step(NodeConnected(2), 1)
    one.submit(b"new", 1)
    effects = one.step(Tick(), 1)
    assert sorted(sent(effects)) == [((0, 1, 2), [4]), ((2,), [1, 2, 3])]
    assert sent(one.step(Tick(), 1)) == []


# --- what f+1 nodes decline --------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["unknown_client", "bad_signature", "too_large"])
def test_a_session_ends_when_f_plus_1_nodes_decline_it(code: str) -> None:
    one = session(window=2)
    started(one, 3)
    refusal = wire.NotAdmitted([(CLIENT, 77, 1, code)])
    for _ in range(3):
        assert one.step(FromNode(0, refusal), 1).completed == []
    completed = one.step(FromNode(2, refusal), 5).completed
    assert [(o.seq, o.status, o.ok, o.result) for o in completed] == [
        (seq, NOT_ADMITTED, False, code.encode()) for seq in (1, 2, 3)
    ]
    assert completed[0].nodes == (0, 2)
    assert completed[0].status_name == "not_admitted"
    assert one.idle
    with pytest.raises(TepbftError, match=code):
        one.submit(b"more", 6)


def test_f_nodes_cannot_end_a_session() -> None:
    one = session(5)
    (request,) = started(one)
    for node in (0, 1):
        for code in ("unknown_client", "bad_signature"):
            one.step(FromNode(node, wire.NotAdmitted([(CLIENT, 77, 1, code)])), 1)
    one.step(FromNode(2, wire.NotAdmitted([(CLIENT, 77, 1, "unknown_client")])), 1)
    tell(one, 2, 7, [receipt(request)])
    tell(one, 3, 7, [receipt(request)])
    assert tell(one, 4, 7, [receipt(request)])[0].ok


# --- proofs -----------------------------------------------------------------------------------------


def proof_of(found: Receipt, height: int = 7) -> wire.ProvenReceipt:
    header = Header(height, 0, *[bytes(32)] * 6)
    certificate = CheckpointCertificate(0, height, header.digest(), ())
    return wire.ProvenReceipt(CHAIN, found, 0, 1, [], [], [header], certificate, [])


def asked(one: Session) -> int:
    """Tick until a node is asked for a proof; which one."""
    for now_ms in range(0, 100_000, 50):
        for send in one.step(Tick(), now_ms).send:
            if isinstance(send.message, wire.WantProof):
                assert send.message == wire.WantProof(CLIENT, 77, 1)
                return send.to[0]
    raise AssertionError("no node was asked")


def test_one_verified_proof_is_enough() -> None:
    """A-33: only one correct node may have the block; its proof completes the request."""
    one = session(check=lambda proof: proof.headers[0].height)
    (request,) = started(one)
    nodes = [asked(one), asked(one)]
    assert nodes[0] != nodes[1]
    proof = proof_of(receipt(request))
    assert one.step(FromNode(nodes[0], proof), 9).completed == []  # not asked any more
    (outcome,) = one.step(FromNode(nodes[1], proof), 9).completed
    assert (outcome.height, outcome.nodes, outcome.proven, outcome.ok) == (7, (nodes[1],), True, True)


def test_proofs_that_are_wrong_unasked_or_of_something_else_are_ignored() -> None:
    checked = []

    def check(proof: wire.ProvenReceipt) -> int:
        checked.append(proof)
        raise TepbftError("receipt", "wrong", "")

    one = session(check=check)
    (request,) = started(one)
    right = proof_of(receipt(request))
    one.step(FromNode(0, right), 1)
    assert checked == []
    node = asked(one)
    for wrong in (
        proof_of(Receipt(CLIENT, 77, 1, bytes(32), OK, b"done")),
        proof_of(receipt(request, DUPLICATE)),
    ):
        one.step(FromNode(node, wrong), 1)
        assert checked == []
        node = asked(one)
    for _ in range(10):
        assert one.step(FromNode(node, right), 1).completed == []
    assert len(checked) == 1
    assert one.outstanding == 1
