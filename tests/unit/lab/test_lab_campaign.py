"""Running experiments: resumable anywhere, a failing point stops nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab_samples import a_result

from tepbft.errors import TepbftError
from tepbft.lab.calibrate import SignatureCost
from tepbft.lab.campaign import Campaign
from tepbft.lab.experiments import choose
from tepbft.lab.options import BenchOptions
from tepbft.lab.records import file_of, read_records
from tepbft.lab.result import BenchResult


class Bench:
    """Stands for `run_bench`; `trouble` maps the number of a call to what happens instead."""

    def __init__(self, trouble: dict[int, BaseException | dict[str, Any]] | None = None) -> None:
        self.calls: list[BenchOptions] = []
        self.calibrated: list[str] = []
        self._trouble = trouble or {}

    def __call__(self, options: BenchOptions, **_: Any) -> BenchResult:
        self.calls.append(options)
        trouble = self._trouble.get(len(self.calls), {})
        if isinstance(trouble, BaseException):
            raise trouble
        return a_result(options, **trouble)

    def calibrate(self, scheme: str, nodes: int, seconds: float) -> SignatureCost:
        self.calibrated.append(scheme)
        return SignatureCost(25.0, 30.0)


def a_campaign(folder: Path, bench: Bench, name: str = "rate", **options: Any) -> Campaign:
    """A quick campaign on a stand-in."""
    return Campaign(
        choose(name, quick=True), folder, True, bench=bench, calibration=bench.calibrate, **options
    )


def test_everything_is_recorded_once(tmp_path: Path) -> None:
    bench = Bench()
    campaign = a_campaign(tmp_path, bench, repeats=2)
    steps = campaign.steps()
    done = list(campaign.run(steps))
    assert len(done) == len(steps) == 16 and not campaign.failed
    assert [record.key for record in read_records(file_of(tmp_path, "rate"))] == [r.key for r in done]
    assert [record.repeat for record in done] == [0] * 8 + [1] * 8, "a repeat of all before the next"
    assert a_campaign(tmp_path, bench, repeats=2).steps() == []
    assert len(a_campaign(tmp_path, bench, repeats=3).steps()) == 8
    assert bench.calibrated == ["secp256k1"] * 16, "the limit is measured beside every point"


@pytest.mark.parametrize("at", [1, 3, 8])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    campaign = a_campaign(tmp_path, Bench({at: KeyboardInterrupt()}))
    with pytest.raises(KeyboardInterrupt):
        list(campaign.run(campaign.steps()))
    bench = Bench()
    again = a_campaign(tmp_path, bench)
    assert len(again.steps()) == 8 - (at - 1)
    list(again.run(again.steps()))
    records = read_records(file_of(tmp_path, "rate"))
    assert [record.x for record in records] == [500, 1000, 1500, 2000, 2500, 5000, 7500, 10_000]


def test_a_point_that_fails_is_recorded_and_tried_again(tmp_path: Path) -> None:
    trouble: dict[int, BaseException | dict[str, Any]] = {
        2: TepbftError("cluster", "it did not get ready", "Look."),
        4: {"replicas_agree": False, "errors": ["they differ"]},
        6: OSError("no space left"),
    }
    campaign = a_campaign(tmp_path, Bench(trouble))
    done = list(campaign.run(campaign.steps()))
    assert len(done) == 8 and [record.point for record in campaign.failed] == [
        "tep-1000",
        "tep-2000",
        "tep-5000",
    ]
    assert all(record.result is None and record.error for record in campaign.failed)
    assert campaign.failed[1].error is not None and campaign.failed[1].error["reason"] == "they differ"
    again = a_campaign(tmp_path, Bench())
    assert [step.point.name for step in again.steps()] == ["tep-1000", "tep-2000", "tep-5000"]
    list(again.run(again.steps()))
    assert not again.failed and a_campaign(tmp_path, Bench()).steps() == []


def test_shares_are_of_what_was_measured(tmp_path: Path) -> None:
    bench = Bench({1: {"tps": 4000.0}})
    campaign = a_campaign(tmp_path, bench, "overload")
    list(campaign.run(campaign.steps()))
    assert [options.rate for options in bench.calls] == [0, 1000, 2000, 3000, 4000, 6000, 8000]


def test_shares_are_read_back_when_a_run_goes_on(tmp_path: Path) -> None:
    campaign = a_campaign(tmp_path, Bench({1: {"tps": 4000.0}, 3: KeyboardInterrupt()}), "overload")
    with pytest.raises(KeyboardInterrupt):
        list(campaign.run(campaign.steps()))
    bench = Bench()
    again = a_campaign(tmp_path, bench, "overload")
    list(again.run(again.steps()))
    assert [options.rate for options in bench.calls] == [2000, 3000, 4000, 6000, 8000]


def test_without_the_saturation_its_shares_fail_and_say_why(tmp_path: Path) -> None:
    campaign = a_campaign(tmp_path, Bench({1: TepbftError("cluster", "broken", "Look.")}), "overload")
    list(campaign.run(campaign.steps()))
    assert len(campaign.failed) == 7
    assert all("saturation" in (record.error or {})["reason"] for record in campaign.failed[1:])


def test_an_experiment_that_draws_on_another_runs_that_one(tmp_path: Path) -> None:
    campaign = a_campaign(tmp_path, Bench(), "resources")
    assert {step.experiment.name for step in campaign.steps()} == {"rate"}
    everything = a_campaign(tmp_path, Bench(), "all")
    names = [(step.experiment.name, step.point.name) for step in everything.steps()]
    assert len(set(names)) == len(names)
    assert 5 * 60 < everything.expected_s(everything.steps()) < 25 * 60


def test_quick_and_full_runs_do_not_mix(tmp_path: Path) -> None:
    bench = Bench()
    quick = a_campaign(tmp_path, bench)
    list(quick.run(quick.steps()))
    full = Campaign(choose("rate"), tmp_path, False, bench=bench, calibration=bench.calibrate)
    assert len(full.steps()) == 8
