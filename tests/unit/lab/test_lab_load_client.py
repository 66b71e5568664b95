"""One client of the load: numbers, window, declined requests, repetitions."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from tepbft.lab.load_client import RETRY_US, LoadClient
from tepbft.lab.supply import Supply


class Numbers:
    """A supply whose requests are their numbers."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self) -> tuple[int, bytes]:
        self.taken += 1
        return self.taken, b"%d" % self.taken


def client(window: int = 8) -> LoadClient:
    return LoadClient(0, cast(Supply, Numbers()), window)


def test_the_window_counts_from_the_lowest_open_number() -> None:
    one = client()
    assert one.issue(one.room(), 0, 0) == [b"%d" % seq for seq in range(1, 9)]
    assert one.room() == 0
    for seq in (2, 3, 4):
        del one.outstanding[seq]
    assert one.room() == 0  # number 1 is still open: number 9 would be out of the window
    del one.outstanding[1]
    assert one.room() == 4


def test_declined_requests_go_again_lowest_first() -> None:
    one = client()
    one.issue(4, 0, 0)
    one.decline(3)
    one.decline(2)
    assert one.room() == 2
    assert one.issue(1, 5, 6) == [b"2"] and one.outstanding[2] == (b"2", 5, 6)
    assert one.issue(1, 7, 8) == [b"3"]
    assert one.issue(1, 9, 9) == [b"5"]


def test_repetitions_back_off() -> None:
    one = client()
    one.issue(1, 0, 0)
    at = [now for now in range(0, 10 * RETRY_US, RETRY_US // 4) if one.overdue(now, RETRY_US)]
    assert at == [RETRY_US, 3 * RETRY_US, 7 * RETRY_US]
    assert one.again(1, 5) == b"1" and one.again(9, 5) is None


@given(st.lists(st.tuples(st.sampled_from(["issue", "answer", "decline"]), st.integers(0, 7)), max_size=60))
def test_no_number_is_ever_out_of_the_window_or_lost(steps: list[tuple[str, int]]) -> None:
    one = client(window=6)
    numbers = cast(Any, one.supply)
    answered: set[int] = set()
    for what, which in steps:
        open_now = sorted(one.outstanding)
        if what == "issue":
            one.issue(min(which, max(0, one.room())), 0, 0)
        elif open_now:
            seq = open_now[which % len(open_now)]
            if what == "decline":
                one.decline(seq)
            else:
                del one.outstanding[seq]
                answered.add(seq)
        everything = set(range(1, numbers.taken + 1))
        assert set(one.outstanding) | set(one.free) | answered == everything
        unanswered = everything - answered
        assert not unanswered or max(everything) - min(unanswered) < 6
