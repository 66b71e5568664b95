"""Raw results: nothing whole is ever lost, nothing damaged is ever counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.errors import TepbftError
from tepbft.lab.records import Record, append_record, file_of, latest, read_records


def a_record(point: str = "p", repeat: int = 0, *, failed: bool = False) -> Record:
    """A record."""
    record = Record(experiment="e", point=point, series="s", x=1.0, repeat=repeat, quick=True)
    if failed:
        record.error = {"thing": "t", "reason": "r", "remedy": "m"}
    else:
        record.result = {"tps": 5.0}
    return record


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = file_of(tmp_path / "new" / "folder", "e")
    assert read_records(path) == []
    records = [a_record("a"), a_record("b"), a_record("a", 1, failed=True)]
    for record in records:
        append_record(path, record)
    assert read_records(path) == records
    assert len(path.read_bytes().splitlines()) == 3


@settings(max_examples=40)
@given(cut=st.integers(1, 400), count=st.integers(1, 3))
def test_a_run_that_was_interrupted_anywhere_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, count: int
) -> None:
    """Whatever part of the last line is there: all lines before it count, and the next one is whole."""
    path = file_of(tmp_path_factory.mktemp("cut"), "e")
    for number in range(count):
        append_record(path, a_record(f"p{number}"))
    data = path.read_bytes()
    last = len(data.splitlines(keepends=True)[-1])
    path.write_bytes(data[: len(data) - min(cut, last)])
    assert [record.point for record in read_records(path)] == [f"p{n}" for n in range(count - 1)]
    append_record(path, a_record("next"))
    assert [record.point for record in read_records(path)] == [*(f"p{n}" for n in range(count - 1)), "next"]


@pytest.mark.parametrize("rest", [b"{", b"nonsense\n", b"\x00\x00\n", b'{"experiment":"e"}\n'])
def test_a_damaged_last_line_is_redone(tmp_path: Path, rest: bytes) -> None:
    path = file_of(tmp_path, "e")
    append_record(path, a_record())
    path.write_bytes(path.read_bytes() + rest)
    assert len(read_records(path)) == 1
    append_record(path, a_record("q"))
    assert [record.point for record in read_records(path)] == ["p", "q"]


def test_damage_in_the_middle_is_told_with_its_line(tmp_path: Path) -> None:
    path = file_of(tmp_path, "e")
    append_record(path, a_record())
    whole = path.read_bytes()
    path.write_bytes(whole + b"damage\n" + whole)
    with pytest.raises(TepbftError, match="line 2"):
        read_records(path)
    with pytest.raises(TepbftError):
        append_record(path, a_record())
    assert path.read_bytes() == whole + b"damage\n" + whole


def test_a_repetition_replaces_an_error() -> None:
    found = latest([a_record(failed=True), a_record(repeat=1), a_record()])
    assert len(found) == 2 and found["p", 0, True].result is not None


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TepbftError):
        append_record(file_of(tmp_path / "file", "e"), a_record())
