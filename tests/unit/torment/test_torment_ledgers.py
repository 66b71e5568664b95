"""The comparison afterwards finds what it is there to find."""

from __future__ import annotations

from tepbft.client.events import Outcome
from tepbft.core.block import OK
from tepbft.execution.apps import kv
from tepbft.torment.ledgers import Ledger, compare
from tepbft.torment.load import Call, History

CLIENT = b"\x07" * 32
REQUEST = (CLIENT, 1, 1)


def history(height: int, leaf: bytes) -> History:
    """One acknowledged call."""
    outcome = Outcome(1, 1, height, OK, b"", leaf, (0, 1), 1.0)
    found = History()
    found.calls.append(Call(0, kv.encode(kv.Put(b"k", b"v")), 0, 1, outcome))
    return found


def ledger(name: str, digest: bytes = b"d", *heights: int) -> Ledger:
    """Blocks with the one request at `heights`."""
    found = Ledger(name)
    for height in (1, 2, 3):
        found.headers[height] = digest + bytes([height])
        found.outcomes[height] = [(REQUEST, OK, b"leaf")] if height in heights else []
    return found


def test_one_chain_with_everything_is_well() -> None:
    found = compare([ledger("node0", b"d", 2), ledger("node1", b"d", 2)], history(2, b"leaf"), [CLIENT])
    assert (found.lost, found.twice, found.forked, found.blocks, found.problems) == (0, 0, False, 3, [])


def test_a_request_that_is_not_where_it_was_acknowledged_is_lost() -> None:
    for call in (history(3, b"leaf"), history(2, b"other")):
        found = compare([ledger("node0", b"d", 2)], call, [CLIENT])
        assert found.lost == 1 and found.problems


def test_two_executions_are_noticed() -> None:
    """A9: one request takes effect once."""
    assert compare([ledger("node0", b"d", 1, 2)], history(2, b"leaf"), [CLIENT]).twice == 1


def test_two_chains_are_a_fork() -> None:
    found = compare([ledger("node0", b"d", 2), ledger("node1", b"e", 2)], history(2, b"leaf"), [CLIENT])
    assert found.forked and "node0 and node1" in found.problems[0]


def test_unknown_outcomes_stay_open_and_gaps_are_measured() -> None:
    found = history(2, b"leaf")
    found.calls.append(Call(1, kv.encode(kv.Get(b"k")), 5))
    assert [op.returned_ms for op in found.operations()] == [1, None]
    assert found.longest_gap_ms(until_us=9_001) == 9.0
