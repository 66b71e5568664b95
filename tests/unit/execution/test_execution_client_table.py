"""The client table against the obvious model of A9, and exactly-once execution (I-12, A-39)."""

from __future__ import annotations

import itertools

import pytest
from execution_world import CHAIN, DictReader, client, executor, request, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import CONFLICT, DUPLICATE, OK, OUT_OF_WINDOW, REFUSED, STALE, digest_of

WINDOW = 4


class Model:
    """A9 as it is written: sets and dicts, no bitmaps."""

    def __init__(self) -> None:
        self.session = -1
        self.low = 0
        self.done: set[int] = set()
        self.replies: dict[int, bytes] = {}

    def execute(self, session: int, seq: int, op: bytes) -> int:
        if session < self.session:
            return STALE
        if session > self.session:
            self.session, self.low, self.done, self.replies = session, 0, set(), {}
        if seq <= self.low or seq in self.done:
            return CONFLICT if self.replies.get(seq, op) != op else DUPLICATE
        if seq > self.low + WINDOW:
            return OUT_OF_WINDOW
        self.done.add(seq)
        self.replies[seq] = op
        while self.low + 1 in self.done:
            self.low += 1
            self.done.discard(self.low)
        self.replies = {n: o for n, o in self.replies.items() if n > self.low - WINDOW}
        return REFUSED if op == b"refuse" else OK


operations = st.tuples(
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 14),
    st.sampled_from([b"add x", b"add y", b"refuse"]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(operations, st.booleans(), st.booleans()), max_size=60))
def test_statuses_follow_the_model_whatever_is_installed_and_reloaded(steps):
    """A9: the table agrees with the model, across block ends, installs and reloads from the store."""
    reader = DictReader()
    machine = executor(reader=reader, window=WINDOW)
    models = {1: Model(), 2: Model()}
    batch: list = []
    for (who, session, seq, op), ends, installs in [*steps, ((1, 0, 1, b"add x"), True, True)]:
        batch.append((who, session, seq, op))
        if not ends:
            continue
        expected = [models[w].execute(s, n, o) for w, s, n, o in batch]
        executed = run(machine, [request(*item) for item in batch])
        assert [r.status for r in executed.receipts] == expected
        batch = []
        if installs:
            settle(machine, reader, machine.height)
            machine.restore(machine.head)  # everything is read again from the store
    for who, model in models.items():
        for seq in range(16):
            found = machine.outcome(client(who), max(model.session, 0), seq)
            assert (found is not None) == (seq in model.replies)
            if found:
                digest = digest_of(CHAIN, request(who, model.session, seq, model.replies[seq]))
                assert found[1].request_digest == digest


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4]))[::3])
def test_a39_any_order_inside_the_window_executes_each_request_once(order):
    """A-39, CE6: reordered pipelined requests all execute, exactly once (I-12)."""
    machine = executor(window=WINDOW)
    first = run(machine, [request(1, 1, seq, b"add total") for seq in order])
    assert [r.status for r in first.receipts] == [OK] * 4
    again = run(machine, [request(1, 1, seq, b"add total") for seq in order])
    assert [r.status for r in again.receipts] == [DUPLICATE] * 4
    assert machine.get(b"atotal") == b"4"


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=80), st.lists(st.integers(1, 6), max_size=30))
def test_i12_effects_count_once_per_number(numbers, cuts):
    """I-12: however often and in whatever order numbers are ordered, each has its effect at most once."""
    machine = executor(window=WINDOW)
    statuses: list[tuple[int, int]] = []
    rest = [request(1, 1, n, b"add n%d" % n) for n in numbers]
    for cut in [*cuts, len(rest)]:
        now, rest = rest[:cut], rest[cut:]
        statuses += [(r.seq, r.status) for r in run(machine, now).receipts]
    for number in range(1, 13):
        executed = [s for n, s in statuses if n == number and s == OK]
        assert len(executed) <= 1
        assert machine.get(b"an%d" % number) == (b"1" if executed else None)


def test_duplicate_is_answered_with_the_kept_reply_and_its_height():
    """S-44: a retransmission gets the first answer, also from a table that was installed."""
    reader = DictReader()
    machine = executor(reader=reader)
    first = run(machine, [request(1, 1, 1, b"add x")])
    settle(machine, reader, 1)
    machine.restore(machine.head)
    again = run(machine, [request(1, 1, 1, b"add x")])
    assert again.replies == [(1, first.receipts[0])]
    assert again.receipts[0].status == DUPLICATE
    assert again.receipts[0].result == b""


def test_a42_second_operation_under_one_number_is_a_conflict_without_effect():
    """A-42, S-42: the loser learns CONFLICT; the winner's answer stays."""
    machine = executor()
    executed = run(machine, [request(1, 1, 1, b"add x"), request(1, 1, 1, b"add y")])
    assert [r.status for r in executed.receipts] == [OK, CONFLICT]
    assert executed.replies[1] == (1, executed.receipts[1])
    assert machine.get(b"ay") is None
    assert machine.outcome(client(1), 1, 1) == (1, executed.receipts[0])


def test_s43_new_session_opens_a_fresh_window_and_retires_the_old_one():
    """A-41, S-41, S-43: also a request that is itself out of the window begins the session."""
    machine = executor()
    run(machine, [request(1, 1, 1, b"add x"), request(1, 1, 2, b"add x")])
    executed = run(
        machine,
        [
            request(1, 2, 99, b"add x"),
            request(1, 1, 3, b"add x"),
            request(1, 2, 1, b"add x"),
            request(1, 1, 1, b"add x"),
        ],
    )
    assert [r.status for r in executed.receipts] == [OUT_OF_WINDOW, STALE, OK, STALE]
    assert machine.outcome(client(1), 1, 1) is None
    assert machine.get(b"ax") == b"3"
    assert machine.is_decided(client(1), 1, 3)
    assert not machine.is_decided(client(1), 2, 2)


def test_session_begun_by_a_skipped_request_shows_in_clients_root():
    """A-37: every change of the table, this one included, is in the header."""
    one, two = executor(), executor()
    for machine in (one, two):
        run(machine, [request(1, 1, 1, b"")])
    a = run(one, [request(1, 1, 1, b"")])
    b = run(two, [request(1, 2, 9, b"")])
    assert a.header.clients_root == one.head.clients_root != b.header.clients_root
    assert a.writes.writes == {}
    assert b.header.state_root == a.header.state_root


def test_a40_asking_changes_nothing():
    """A-40: classification at reception leaves the table alone."""
    machine = executor()
    run(machine, [request(1, 1, 1, b"add x")])
    for session, seq in ((2, 1), (1, 1), (0, 1), (1, 50)):
        ask = request(1, session, seq, b"add x")
        machine.classify(ask.client, ask.session, ask.seq, digest_of(CHAIN, ask))
        machine.is_decided(client(1), session, seq)
    assert run(machine, [request(1, 1, 2, b"add x")]).receipts[0].status == OK


def test_huge_numbers_are_out_of_window():
    """S-42: a huge number costs nothing."""
    machine = executor()
    executed = run(machine, [request(1, 1, 2**63 - 1, b"add x"), request(1, 2**63 - 1, 0, b"add x")])
    assert [r.status for r in executed.receipts] == [OUT_OF_WINDOW, DUPLICATE]
    assert not machine.is_decided(client(1), 2**63 - 1, 2**63 - 1)
