"""How much of its time a node has something to do."""

from __future__ import annotations

from tepbft.runtime.utilisation import MEMORY_MS, Utilisation


def used(*stretches: tuple[int, int]) -> tuple[Utilisation, int]:
    """A node that worked and waited for so many milliseconds in turn, and the time now."""
    now = 1000
    found = Utilisation(now)
    for worked, waited in stretches:
        now += worked
        found.waits(now)
        now += waited
        found.works(now)
    return found, now


def test_the_share_is_that_of_the_time_at_work():
    found, now = used((30, 70), (30, 70))
    assert found.share(now) == 0.3
    assert not found.high(now)


def test_what_is_under_way_counts():
    """A node that does not come to wait at all is as busy as can be."""
    found, now = used((10, 90))
    assert found.share(now + 900) == 0.91
    assert found.high(now + 900)


def test_a_node_that_has_just_begun_has_done_nothing():
    assert used()[0].share(1000) == 0.0


def test_the_past_fades():
    """A second of work after a minute of idleness is what counts, and the other way round."""
    found, now = used((0, 60_000), *[(9, 1)] * (MEMORY_MS * 4 // 10))
    assert found.high(now)
    found, now = used((60_000, 0), *[(1, 9)] * (MEMORY_MS * 4 // 10))
    assert not found.high(now)
