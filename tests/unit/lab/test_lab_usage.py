"""What the system says of processors."""

from __future__ import annotations

import pytest

from tepbft.lab.usage import processor_time


def test_time_that_passed_and_was_stolen(tmp_path):
    """Guests' time, after the first eight fields, is in them already."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 1 20 700 30 0 9 40 5 6\ncpu0 50 1 10 350 15 0 4 20 0 0\n")
    assert processor_time(stat) == (900, 40)


@pytest.mark.parametrize(
    "text", ["", "cpu\n", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"]
)
def test_a_system_that_does_not_say(tmp_path, text):
    stat = tmp_path / "stat"
    stat.write_text(text)
    assert processor_time(stat) == (0, 0)
    assert processor_time(tmp_path / "nothing") == (0, 0)


def test_this_system_says_so():
    passed, stolen = processor_time()
    assert passed > stolen >= 0
