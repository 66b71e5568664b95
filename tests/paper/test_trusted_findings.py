"""What the papers leave open about the trusted component, one test per finding.

Each test first shows the literal reading going wrong (with the classical, detect-only
generator or with a component that lacks the rule), where that can be shown in a few
lines, and then that the shipped component does not.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from tepbft.core.certificates import CommitCertificate, Vote
from tepbft.core.configuration import Configuration, Member
from tepbft.core.verification import check_commit_certificate
from tepbft.errors import TrustedRefusal
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.keys import KINDS, KeyKind
from tepbft.trusted.port import (
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PREPARE,
    VIEW_CHANGE,
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    EnterView,
    Install,
    Order,
    Refused,
    Register,
    SignCheckpoint,
    TcAnswer,
    Ui,
    departure_body,
    numbered_body,
    order_body,
)
from tepbft.trusted.sealing import SealRefused
from tepbft.trusted.sequsig import SeqUsig
from tepbft.trusted.verify import UiVerifier

CHAIN, OTHER_CHAIN = b"c" * 32, b"d" * 32
X, Y, Z = (sha256(name).digest() for name in (b"X", b"Y", b"Z"))
A, B, C = 0, 1, 2


class Cluster:
    """Three nodes' trusted components under one configuration (n = 3, f = 1)."""

    def __init__(self, kind: KeyKind) -> None:
        self.kind = kind
        self.tc = [HbUsig.fresh(kind=kind) for _ in range(3)]
        self.cfg = Configuration(0, 0, tuple(member(node, made) for node, made in enumerate(self.tc)))
        self.verifier = UiVerifier(CHAIN)
        for node in range(3):
            self.provision(node)

    def provision(self, node: int) -> None:
        self.tc[node].provision(CHAIN, node, 0, self.cfg.digest(), 0, 16)

    def counts(self, node: int, kind: int, body: bytes, answer: TcAnswer) -> bool:
        """True if anybody in this configuration would count the answer as this statement."""
        assert isinstance(answer, Ui | DepartureUi)
        return self.verifier.ui(self.cfg, node, answer.seq, kind, body, answer.signature)


def member(node: int, made: HbUsig) -> Member:
    who = made.identity()
    return Member(node, who.tc_id, who.key, bytes(32), bytes(32), bytes(32), "127.0.0.1", 1, 2, 3)


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(request.param)


def refused(answer: TcAnswer) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def test_a01_height_is_a_register_and_seq_is_the_counter(cluster: Cluster) -> None:
    """One counter cannot be both "the height" and "one more per call"; two fields can."""
    literal = SeqUsig.fresh()
    literal.provision(CHAIN, A, 0, cluster.cfg.digest())
    counters = [literal.create_ui(X, kind).seq for kind in (PREPARE, CHECKPOINT, PREPARE)]
    assert counters[-1] == 3  # the second block's identifier: the checkpoint between took "height" 2
    tc = cluster.tc[A]
    seqs = []
    for request in (Order(PREPARE, 0, 1, X), SignCheckpoint(1, Z), Order(PREPARE, 0, 2, Y)):
        answer = tc.call(request)
        assert isinstance(answer, Ui)
        seqs.append(answer.seq)
    assert seqs == [1, 2, 3]
    assert refused(tc.call(Order(PREPARE, 0, 2, Z))) == "register"
    departed = tc.call(Depart(1, X))
    assert isinstance(departed, DepartureUi)
    assert [(register.height, register.digest) for register in departed.registers] == [(1, X), (2, Y)]


def test_a02_checkpoints_do_not_make_departures_look_incomplete(cluster: Cluster) -> None:
    tc = cluster.tc[B]
    tc.call(Order(COMMIT, 0, 1, X))
    tc.call(SignCheckpoint(1, Z))
    tc.call(Order(COMMIT, 0, 2, Y))
    departed = tc.call(Depart(1, X))
    assert isinstance(departed, DepartureUi)
    assert departed.registers == (Register(1, COMMIT, X), Register(2, COMMIT, Y))


def test_a03_a_ui_is_good_for_one_statement_only(cluster: Cluster) -> None:
    """Kind, view, height, digest, sender and call are all in the signed bytes (I-26)."""
    answer = cluster.tc[A].call(Order(PREPARE, 0, 1, X))
    assert isinstance(answer, Ui)
    assert cluster.counts(A, PREPARE, order_body(0, 1, X), answer)
    for kind, body in (
        (COMMIT, order_body(0, 1, X)),
        (PREPARE, order_body(3, 1, X)),  # another view with the same primary
        (PREPARE, order_body(0, 2, X)),
        (PREPARE, order_body(0, 1, Y)),
        (CHECKPOINT, numbered_body(1, X)),
        (NEW_VIEW, numbered_body(0, X)),
        (VIEW_CHANGE, order_body(0, 1, X)),
    ):
        assert not cluster.counts(A, kind, body, answer)
    assert not cluster.counts(B, PREPARE, order_body(0, 1, X), answer)
    assert not cluster.counts(A, PREPARE, order_body(0, 1, X), Ui(answer.seq + 1, answer.signature))


def test_a06_no_vote_after_a_view_change(cluster: Cluster) -> None:
    """A detect-only generator signs the late vote; HB-USIG refuses it, new or repeated."""
    literal = SeqUsig.fresh()
    literal.provision(CHAIN, C, 0, cluster.cfg.digest())
    literal.create_ui(X, VIEW_CHANGE)
    assert literal.create_ui(X, COMMIT).seq == 2
    tc = cluster.tc[C]
    tc.call(Order(COMMIT, 0, 1, X))
    assert isinstance(tc.call(Depart(1, Z)), DepartureUi)
    for request in (Order(COMMIT, 0, 2, Y), Order(COMMIT, 0, 1, X), Install(0, X)):
        assert refused(tc.call(request)) == "view"
    assert isinstance(tc.call(Order(COMMIT, 1, 1, Y)), Ui)


def test_a06_entering_a_view_also_closes_the_lower_ones(cluster: Cluster) -> None:
    tc = cluster.tc[C]
    tc.call(EnterView(2))
    assert refused(tc.call(Order(COMMIT, 1, 1, X))) == "view"


def test_a07_a_checkpoint_hides_no_vote(cluster: Cluster) -> None:
    """CE1: the vote for block 2 was signed before Checkpoint(1), and is attested all the same."""
    tc = cluster.tc[B]
    tc.call(Order(COMMIT, 0, 1, X))
    tc.call(Order(COMMIT, 0, 2, Y))
    tc.call(SignCheckpoint(1, Z))
    departed = tc.call(Depart(2, Z))
    assert isinstance(departed, DepartureUi)
    assert Register(2, COMMIT, Y) in departed.registers


def test_a10_two_signatures_of_one_statement_are_one_vote(cluster: Cluster) -> None:
    """ECDSA is randomised and malleable, so nothing may be keyed on its bytes; re-emission is identical."""
    tc = cluster.tc[B]
    answer = tc.call(Order(COMMIT, 0, 1, X))
    assert answer == tc.call(Order(COMMIT, 0, 1, X))
    again = HbUsig.import_state(tc.export_state())
    one, two = tc.call(Order(COMMIT, 0, 2, X)), again.call(Order(COMMIT, 0, 2, X))
    assert isinstance(one, Ui) and isinstance(two, Ui)
    assert one.seq == two.seq
    assert (one.signature != two.signature) == (cluster.kind == "p256"), "the other kind derives its nonces"
    for ui in (one, two):
        assert cluster.counts(B, COMMIT, order_body(0, 2, X), ui)


def test_a11_a_ui_is_bound_to_chain_configuration_node_and_component(cluster: Cluster) -> None:
    answer = cluster.tc[A].call(Order(PREPARE, 0, 1, X))
    assert isinstance(answer, Ui)
    body = order_body(0, 1, X)
    assert not UiVerifier(OTHER_CHAIN).ui(cluster.cfg, A, answer.seq, PREPARE, body, answer.signature)
    later = Configuration(1, 0, cluster.cfg.members)
    assert not cluster.verifier.ui(later, A, answer.seq, PREPARE, body, answer.signature)
    same_key_elsewhere = Configuration(0, 0, tuple(reversed(cluster.cfg.members)))
    assert not cluster.verifier.ui(same_key_elsewhere, C, answer.seq, PREPARE, body, answer.signature)
    with pytest.raises(TrustedRefusal):
        cluster.tc[A].provision(OTHER_CHAIN, A, 0, cluster.cfg.digest(), 0, 16)
    with pytest.raises(TrustedRefusal):
        cluster.tc[A].provision(CHAIN, B, 0, cluster.cfg.digest(), 0, 16)


def test_a12_a_restart_never_brings_an_identity_back_without_its_registers(cluster: Cluster) -> None:
    """CE8, I-20: either the registers come back (warm), or nobody counts what it says (cold)."""
    made = cluster.tc[C]
    made.call(Order(COMMIT, 0, 1, X))
    blob, platform = made.seal(), made.platform
    warm = HbUsig.restore(blob, platform)
    assert warm.identity().tc_id == cluster.cfg.members[C].tc_id
    assert refused(warm.call(Order(COMMIT, 0, 1, Y))) == "register"
    with pytest.raises(SealRefused):  # run, sign, crash, restore the same blob again (F-19)
        HbUsig.restore(blob, platform)
    cold = cluster.tc[C] = HbUsig.fresh(platform)
    cluster.provision(C)
    departed = cold.call(Depart(1, Z))
    assert isinstance(departed, DepartureUi) and departed.registers == ()
    assert not cluster.counts(C, VIEW_CHANGE, departure_body(1, 0, 0, (), Z), departed)
    assert not cluster.counts(C, COMMIT, order_body(1, 1, Y), cold.call(Order(COMMIT, 1, 1, Y)))


def test_a12_a_cold_component_can_prove_itself_before_it_is_a_member(cluster: Cluster) -> None:
    cold = cluster.tc[C] = HbUsig.fresh()
    cluster.provision(C)
    who = cold.identity()
    proof = cold.call(Attest(X))
    assert isinstance(proof, Ui)
    assert cluster.verifier.attested(who.key, who.tc_id, C, proof.seq, X, proof.signature)
    assert not cluster.counts(C, COMMIT, X, proof)
    members = (*cluster.cfg.members[:C], member(C, cold))
    admitted = Configuration(1, 5, members)
    cold.call(BeginConfig(1, admitted.digest(), 5))
    vote = cold.call(Order(COMMIT, 0, 6, X))
    assert isinstance(vote, Ui)
    body = order_body(0, 6, X)
    assert cluster.verifier.ui(admitted, C, vote.seq, COMMIT, body, vote.signature)
    assert not cluster.verifier.ui(cluster.cfg, C, vote.seq, COMMIT, body, vote.signature)


def test_a13_seq_counts_every_statement_without_gaps(cluster: Cluster) -> None:
    tc = cluster.tc[B]
    requests = [
        Order(COMMIT, 0, 3, X),
        SignCheckpoint(1, X),
        Order(COMMIT, 0, 1, X),
        Depart(1, X),
        Install(1, X),
        Attest(X),
        BeginConfig(1, X, 4),
        Order(COMMIT, 0, 5, X),
    ]
    answers = [tc.call(request) for request in requests]
    assert [answer.seq for answer in answers if isinstance(answer, Ui | DepartureUi)] == [1, 2, 3, 4, 5, 6, 7]


def test_ce3_a_vote_made_before_leaving_is_attested(cluster: Cluster) -> None:
    """C votes X for A only, then tells B it saw nothing: its own component contradicts it (I-4)."""
    tc = cluster.tc[C]
    vote = tc.call(Order(COMMIT, 0, 1, X))
    departed = tc.call(Depart(1, Z))
    assert isinstance(departed, DepartureUi) and cluster.counts(C, COMMIT, order_body(0, 1, X), vote)
    honest = departure_body(1, 0, 0, (Register(1, COMMIT, X),), Z)
    silent = departure_body(1, 0, 0, (), Z)
    assert cluster.counts(C, VIEW_CHANGE, honest, departed)
    assert not cluster.counts(C, VIEW_CHANGE, silent, departed)
    assert refused(tc.call(Depart(1, X))) == "view_change"


def test_ce3_forgetting_by_raising_the_floor_shows(cluster: Cluster) -> None:
    """The host may drop registers, but the floor that dropped them is attested (V3)."""
    tc = cluster.tc[C]
    tc.call(Order(COMMIT, 0, 1, X))
    tc.call(AdvanceFloor(1))
    departed = tc.call(Depart(1, Z))
    assert isinstance(departed, DepartureUi) and departed.registers == () and departed.floor == 1
    assert not cluster.counts(C, VIEW_CHANGE, departure_body(1, 0, 0, (), Z), departed)


def test_ce5_one_new_view_statement_per_view(cluster: Cluster) -> None:
    """A-57: B cannot give A one NEW-VIEW and C another."""
    literal = SeqUsig.fresh()
    literal.provision(CHAIN, B, 0, cluster.cfg.digest())
    assert [literal.create_ui(digest, NEW_VIEW).seq for digest in (X, Y)] == [1, 2]
    tc = cluster.tc[B]
    first = tc.call(Install(1, X))
    assert cluster.counts(B, NEW_VIEW, numbered_body(1, X), first)
    assert refused(tc.call(Install(1, Y))) == "new_view"
    assert tc.call(Install(1, X)) == first


def votes(cluster: Cluster, primary: HbUsig, backup: int, digest: bytes) -> CommitCertificate:
    found = []
    for node, tc, kind in ((A, primary, PREPARE), (backup, cluster.tc[backup], COMMIT)):
        answer = tc.call(Order(kind, 0, 1, digest))
        assert isinstance(answer, Ui)
        found.append(Vote(node, answer.seq, answer.signature))
    return CommitCertificate(0, 0, 1, digest, tuple(found))


def test_ce7_a_second_component_of_one_node_does_not_count(cluster: Cluster) -> None:
    """A runs two components and prepares X under one, Y under the other: B and C would both decide."""
    second = HbUsig.fresh()
    second.provision(CHAIN, A, 0, cluster.cfg.digest(), 0, 16)
    for_b = votes(cluster, cluster.tc[A], B, X)
    for_c = votes(cluster, second, C, Y)
    assert check_commit_certificate(cluster.cfg, for_b, cluster.verifier)
    assert not check_commit_certificate(cluster.cfg, for_c, cluster.verifier)


def test_ce7_a_copied_state_equivocates_which_is_why_the_counter_is_the_platforms(cluster: Cluster) -> None:
    """Two live copies of one state do decide twice; sealing hands out at most one."""
    clone = HbUsig.import_state(cluster.tc[A].export_state())
    assert check_commit_certificate(cluster.cfg, votes(cluster, cluster.tc[A], B, X), cluster.verifier)
    assert check_commit_certificate(cluster.cfg, votes(cluster, clone, C, Y), cluster.verifier)
    platform = cluster.tc[A].platform
    blob = cluster.tc[A].seal()
    HbUsig.restore(blob, platform)
    with pytest.raises(SealRefused):
        HbUsig.restore(blob, platform)
