"""The history of key figures: appended, listed, drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lab_samples import a_result

from tepbft.errors import TepbftError
from tepbft.lab.history import KEY_FIGURES, measure_entry, read_history, recent_rows
from tepbft.lab.history_plot import render_history
from tepbft.lab.options import check_options


def test_key_figures_can_be_measured() -> None:
    for options in KEY_FIGURES.values():
        check_options(options)
    assert {options.nodes for options in KEY_FIGURES.values()} == {3}
    assert KEY_FIGURES["one client"].outstanding_per_client(None) == 1


def test_entries_are_appended_listed_and_drawn(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "history.ndjson"
    assert read_history(path) == []
    told: list[str] = []
    entries = [measure_entry(path, told.append, a_result) for _ in range(3)]
    assert read_history(path) == entries and len(told) == 3 * len(KEY_FIGURES)
    assert all(entry.commit != "?" and entry.machine["cores"] for entry in entries)
    columns, rows = recent_rows(entries)
    assert len(rows) == 3 and all(len(row) == len(columns) for row in rows)
    assert rows[0][2].endswith("/s") and rows[0][3].endswith("%")
    ET.fromstring(render_history(entries, html=False).split("?>", 1)[1])
    html = render_history(entries, html=True)
    assert html.count("<svg") == 4 and "<script" not in html


def test_a_run_that_did_not_hold_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.ndjson"
    with pytest.raises(TepbftError, match="differ"):
        measure_entry(path, lambda _: None, lambda options: a_result(options, errors=["they differ"]))
    assert not path.exists()


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.ndjson"
    measure_entry(path, lambda _: None, a_result)
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    with pytest.raises(TepbftError, match="line 2"):
        read_history(path)
