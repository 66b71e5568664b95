"""`python -m tepbft.model`: exit codes, JSON, usage."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tepbft.model.__main__ import CLEAN, SHALLOW, USAGE, VIOLATION, lacking, main


def test_clean_campaign_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing found, enough seen."""
    assert main(["--walks", "200", "--seed", "2"]) == CLEAN
    assert "no violation" in capsys.readouterr().out


def test_violation_exits_1_and_prints_a_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    """A planted defect: JSON with the shrunk schedule, deterministic per seed."""
    arguments = ["--walks", "100", "--mutant", "clone", "--json"]
    assert main(arguments) == VIOLATION
    first = capsys.readouterr().out
    assert main(arguments) == VIOLATION
    assert capsys.readouterr().out == first
    report = json.loads(first)
    assert report["violation"]["schedule"][-1].startswith("VIOLATION of I-")


@pytest.mark.parametrize(
    "arguments",
    [["--mutant", "nothing"], ["--nodes", "2"], ["--walks", "0"], ["--walks", "x"], ["--seed", "-1"]],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant is refused with a reason."""
    assert main(arguments) == USAGE
    assert "error" in capsys.readouterr().err


def test_shallow_campaign_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    """A campaign that saw next to nothing does not count as clean (D4)."""
    codes = {main(["--walks", "1", "--seed", str(seed)]) for seed in range(6)}
    capsys.readouterr()
    assert SHALLOW in codes and VIOLATION not in codes
    assert len(lacking(Counter(), 5000, True)) == 9
