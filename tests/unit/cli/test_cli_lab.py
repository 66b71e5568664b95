"""The commands `bench` and `lab` without a benchmark: what they refuse, list, draw and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tepbft.cli import bench as bench_command
from tepbft.cli.main import run
from tepbft.lab.experiments import catalogue
from tepbft.lab.options import BenchOptions
from tepbft.lab.result import BenchResult


def canned(options: BenchOptions, **changes: Any) -> BenchResult:
    """A result of `options`."""
    values: dict[str, Any] = {name: 0 for name in BenchResult.__struct_fields__}
    values |= {
        "options": options,
        "tps": 1234.0,
        "limit_tps": 2000.0,
        "ratio": 0.617,
        "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "mean": 1.0},
        "messages_per_tx": {},
        "bytes_per_tx": {},
        "replicas_agree": True,
        "limited_by_client": False,
        "errors": [],
        "timeline": [],
        "rss_series": [],
        "machine": {},
        "commit": "",
        "started_at": "",
    }
    return BenchResult(**{**values, **changes})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[BenchOptions]:
    """Stands for the benchmark; the options that it was given."""
    seen: list[BenchOptions] = []

    def measure(options: BenchOptions, directory: Path | None, quiet: bool) -> BenchResult:
        seen.append(options)
        return canned(
            options,
            replicas_agree=options.seed != 13,
            errors=["they differ"] if options.seed == 13 else [],
            limited_by_client=options.seed == 14,
        )

    monkeypatch.setattr(bench_command, "measure", measure)
    return seen


def test_json_alone_is_one_line_on_standard_output(
    measured: list[BenchOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--nodes", "5", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["tps"] == 1234.0
    assert measured[0].nodes == 5


@pytest.mark.parametrize(
    "words", [["--json", "FILE"], ["FILE", "--json"], ["--json", "FILE", "--nodes", "5"]]
)
def test_json_with_a_file_writes_it(
    measured: list[BenchOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    target = tmp_path / "result.json"
    assert run(["bench", *(str(target) if word == "FILE" else word for word in words)]) == 0
    assert capsys.readouterr().out == ""
    assert set(json.loads(target.read_text())) == set(BenchResult.__struct_fields__)


def test_a_file_without_json_is_wrong_usage(measured: list[BenchOptions]) -> None:
    assert run(["bench", "result.json"]) == 2 and not measured


def test_replicas_that_disagree_fail_the_command(
    measured: list[BenchOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--seed", "13"]) == 1
    assert "they differ" in capsys.readouterr().out


def test_a_load_that_was_too_slow_is_no_peak(
    measured: list[BenchOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--seed", "14"]) == 0
    shown = capsys.readouterr()
    assert "no peak" in shown.out and "limited by the load" in shown.err


def test_switches_become_options(measured: list[BenchOptions]) -> None:
    line = (
        "bench --nodes 5 --scheme none --app bank --payload 50 --clients 4 --pipeline 9 --rate 2_000 "
        "--warmup 1 --seconds 5 --block-size 64 --in-flight 2 --checkpoint-interval 8 --crashed 1 "
        "--strict-sequential --in-process --not-durable --generators 2 --seed 3 "
        "--kill-primary 2 --set t_request_ms=500 --json"
    )
    assert run(line.split()) == 0
    assert measured == [
        BenchOptions(
            nodes=5, scheme="none", app="bank", payload=50, clients=4, pipeline=9, rate=2000, warmup_s=1,
            seconds=5, block_size=64, in_flight=2, checkpoint_interval=8, crashed=1, strict_sequential=True,
            in_process=True, durable=False, generators=2, seed=3, kill_primary_after_s=2,
            settings=("t_request_ms=500",),
        )
    ]  # fmt: skip


def test_a_number_of_transactions_ends_the_window(measured: list[BenchOptions]) -> None:
    assert run(["bench", "--transactions", "1000", "--json"]) == 0
    assert measured[0].transactions == 1000 and measured[0].seconds > 3600


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", ""])
def test_a_rate_is_a_number_or_max(measured: list[BenchOptions], rate: str) -> None:
    assert run(["bench", "--rate", rate]) == 2 and not measured


def test_experiments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "list", "--json"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == list(catalogue())
    assert run(["lab", "list"]) == 0
    assert "Test Case 4" in " ".join(capsys.readouterr().out.split())


def test_wrong_names_and_empty_folders(tmp_path: Path) -> None:
    assert run(["lab", "run", "nonsense", "--dir", str(tmp_path)]) == 2
    assert run(["lab", "report", "--dir", str(tmp_path)]) == 1
    assert run(["lab", "history", "--file", str(tmp_path / "none.ndjson")]) == 1
    assert run(["lab", "history", "-o", "picture.png"]) == 2
