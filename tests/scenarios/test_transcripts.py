"""Stories of a cluster: commands, and below them what every node did (see `support.transcript`).

`pytest tests/scenarios/test_transcripts.py --rewrite` writes down what happens now; the
difference is then for a person to review.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.transcript import SEPARATOR, Unclear, perform

FILES = sorted((Path(__file__).parent / "tep").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_story(path: Path, pytestconfig: pytest.Config) -> None:
    """What happens is what is written, line by line."""
    written = path.read_text(encoding="utf-8")
    happened = perform(written)
    if pytestconfig.getoption("rewrite"):
        path.write_text(happened, encoding="utf-8")
        return
    assert happened.splitlines() == written.splitlines(), f"{path.name}: run with --rewrite and review"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stories_are_short_and_commented(path: Path) -> None:
    """A story is read in one go; it begins by saying what it shows."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60 and lines[0].startswith("# ")


def test_every_trace_of_the_design_has_its_story() -> None:
    """CE1 to CE9."""
    stems = [path.stem for path in FILES]
    assert all(any(stem.startswith(f"ce{trace}_") for stem in stems) for trace in range(1, 10))


def test_output_does_not_depend_on_keys() -> None:
    """Keys are random; two performances are equal."""
    text = "# Twice the same.\ncluster n=3\nsubmit x\nrun 300\nshow\n"
    first = perform(text)
    assert first == perform(text) == perform(first)
    assert SEPARATOR in first and "A, B, C committed and executed [x] at height 1" in first


@pytest.mark.parametrize(
    "line",
    ["run 5", "cluster n=3\nfly A", "cluster n=3\ncrash a", "cluster n=3\nexpect more", "cluster n=3\nrun"],
)
def test_unclear_lines_are_named(line: str) -> None:
    with pytest.raises(Unclear):
        perform(line)


def test_expectations_fail_the_story() -> None:
    """Also when the file is being rewritten."""
    with pytest.raises(AssertionError, match="executed"):
        perform("cluster n=3\nexpect executed A = 1\n")
