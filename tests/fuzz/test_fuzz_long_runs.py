"""The entry for long runs works, and finds what is there to be found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fuzz.atheris_targets import check, main, run_plain, seeds
from fuzz.fuzz_targets import TARGETS, Target
from tepbft.errors import PeerFault


def target_named(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def test_names_are_distinct() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)


def test_seeds_are_valid_and_the_same_each_time() -> None:
    target = target_named("client_message")
    found = seeds(target)
    assert found and found == seeds(target)
    for data in found:
        target.decode(data)


def test_a_target_that_holds(tmp_path: Path) -> None:
    assert run_plain(target_named("replace"), 0.2, tmp_path) > 0
    assert not list(tmp_path.iterdir())


def test_a_target_that_breaks_is_found_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The canary: a decoder that trusts a length."""
    sound = target_named("replace")

    def careless(data: bytes) -> int:
        if not data:
            raise PeerFault("malformed")
        return data[data[0]]

    target = Target("careless", careless, sound.valid)
    assert run_plain(target, 5, tmp_path) == -1
    (path,) = tmp_path.iterdir()
    assert str(path) in capsys.readouterr().out
    with pytest.raises(IndexError):
        check(target, path.read_bytes())


def test_without_atheris_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--seconds", "1"]) == 2
