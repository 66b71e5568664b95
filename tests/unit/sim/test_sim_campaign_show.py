"""Traces and their pictures: well-formed, complete in themselves, and hostile files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tepbft.cli.main import run
from tepbft.errors import TepbftError
from tepbft.sim.job import Job, run_job
from tepbft.sim.show import collect, place, render_html, render_svg
from tepbft.sim.tracefile import FIELDS, Trace, event_record, read_trace, write_trace

SVG = "{http://www.w3.org/2000/svg}"
HEAD = {"event": "run", "nodes": 3, "protocol": "tep", "seed": 1, "byzantine": {"2": "silent"}}


def message(at_ms: int, sender: int, to: int, name: str = "Commit", height: int = 4) -> dict[str, Any]:
    return event_record((at_ms, "message", to, sender, name, at_ms - 2, 0, 1, height))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def small() -> Trace:
    events = [
        event_record((1000, "start", 0, 0)),
        message(1004, 0, 1),
        message(1005, 0, 1),
        event_record((1006, "lost", 2, 0, "Prepare", 1006, 0, 1, 5)),
        event_record((1007, "execute", 1, 4, 1)),
        event_record((1008, "partition", -1, "one", "0>1", "1>0")),
        event_record((1009, "crash", 1, 0)),
        event_record((1020, "start", 1, 1)),
        event_record((1030, "view", 1, 2)),
        event_record((1040, "violation", 1, "I-1", "two blocks <at> one height & more")),
    ]
    return Trace(dict(HEAD), events, {"event": "result", "violations": ["I-1 at 1040 ms"]})


def test_the_picture_is_xml_with_lanes_arrows_and_marks() -> None:
    found = texts(render_svg(small()))
    for words in ("host 0", "host 1", "host 2", "Byzantine: silent", "Commit v1 h4", "Prepare v1 h5 to 2",
                  "executed h4", "crash", "starts in view 1", "enters view 2", "VIOLATION I-1"):  # fmt: skip
        assert words in found, words
    assert any("1 retransmissions not drawn" in words for words in found)
    assert found.count("Commit v1 h4") == 1


def test_a_page_hides_types_and_needs_nothing_else() -> None:
    page = render_html(small())
    assert 'data-c="m-Commit"' in page and 'data-c="again"' in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<link" not in page and "src=" not in page


def test_a_part_can_be_drawn() -> None:
    found = texts(render_svg(small(), 1020, 1030))
    assert "enters view 2" in found and "crash" not in found and "Commit v1 h4" not in found


def test_labels_of_one_lane_never_share_a_row() -> None:
    items, _ = collect(small(), 0, None)
    many = [message(1004, 0, 1, height=height) for height in range(30)]
    items, _ = collect(Trace(dict(HEAD), many + small().events), 0, None)
    layout = place([item for item in items if not item.repeats], 3)
    rows = [(item.lane, item.y) for item in layout.items]
    assert len(rows) == len(set(rows))
    assert [item.y for item in layout.items if item.lane == 1] == sorted(
        item.y for item in layout.items if item.lane == 1
    )


def test_words_from_a_trace_are_escaped() -> None:
    trace = small()
    trace.head["seed"] = "<script>alert(1)</script>"
    trace.events.append(message(1050, 0, 1, name='"><script>'))
    assert "<script>alert" not in render_html(trace) and '"><script>' not in render_html(trace)
    ElementTree.fromstring(render_svg(trace))


def test_a_trace_reads_back_and_its_run_is_the_untraced_one(tmp_path: Path) -> None:
    """Watching changes nothing: the same trace hash."""
    job, path = Job(profile="everything"), tmp_path / "run.jsonl"
    traced = write_trace(job, 6, path)
    plain = run_job(job, 6)
    assert traced.result == plain.result
    trace = read_trace(path)
    assert trace.nodes == 3 and trace.head["replay"] == job.command(6)
    assert trace.result["trace_hash"] == plain.result.trace_hash
    kinds = {event["event"] for event in trace.events}
    assert {"message", "execute", "start", "end"} <= kinds
    assert all(kind in FIELDS for kind in kinds), kinds - set(FIELDS)
    ElementTree.fromstring(render_svg(trace))


def test_the_commands_write_and_draw(tmp_path: Path) -> None:
    path, svg, html = (str(tmp_path / name) for name in ("t.jsonl", "t.svg", "t.html"))
    assert run(["sim", "--seed", "2", "--faults", "calm", "--trace", path, "--json"]) == 0
    assert run(["sim", "show", path, "-o", svg]) == 0
    assert run(["sim", "show", path, "-o", html, "--from", "1000", "--to", "1500"]) == 0
    ElementTree.parse(svg)
    assert Path(html).read_text().startswith("<!doctype html>")
    assert run(["sim", "show", path, "-o", str(tmp_path / "t.png")]) == 2
    assert run(["sim", "show", str(tmp_path / "none")]) == 1


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["nonsense"],
        [json.dumps({"event": "start"})],
        [json.dumps({"event": "run", "nodes": 10**9})],
        [json.dumps(HEAD), "[]"],
        [json.dumps(HEAD), json.dumps({"event": "start", "at_ms": "x", "host": 0})],
        [json.dumps(HEAD), json.dumps({"event": "start", "at_ms": 1, "host": 3})],
        [json.dumps(HEAD), json.dumps({**message(9, 0, 1), "sender": 77})],
        [json.dumps(HEAD), json.dumps({**message(9, 0, 1), "height": None})],
        [json.dumps(HEAD), "x" * 100_000],
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(TepbftError):
        read_trace(path)
