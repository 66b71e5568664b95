"""The report from canned results: complete, self-contained, honest about what failed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from lab_samples import a_result

from tepbft.errors import TepbftError
from tepbft.lab.calibrate import SignatureCost
from tepbft.lab.campaign import Campaign
from tepbft.lab.experiments import catalogue, choose
from tepbft.lab.options import BenchOptions
from tepbft.lab.paper_experiments import missing_protocols
from tepbft.lab.report import render_report
from tepbft.lab.result import BenchResult


def fill(folder: Path, name: str = "all", *, quick: bool = True, repeats: int = 1, **changes: Any) -> None:
    """Results of a catalogue, without benchmarks."""
    calls = 0

    def bench(options: BenchOptions, **_: Any) -> BenchResult:
        nonlocal calls
        calls += 1
        if options.rate == 1500:
            raise TepbftError("cluster", "it did not <start>", "Look.")
        wobble = 1 + 0.05 * (calls % 3)
        tps = (min(options.rate, 2400) or 8000 / options.nodes) * wobble
        stolen = 0.07 if options.crashed else 0.01
        late = options.rate == 10_000
        return a_result(options, tps=tps, limited_by_client=late, stolen_share=stolen, **changes)

    campaign = Campaign(
        choose(name, quick), folder, quick, repeats, bench=bench,
        calibration=lambda *_: SignatureCost(25.0, 30.0),
    )  # fmt: skip
    list(campaign.run(campaign.steps()))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a whole quick catalogue with two repeats."""
    folder = tmp_path_factory.mktemp("results")
    fill(folder, repeats=2)
    return render_report(folder)


def test_every_experiment_and_figure_is_there(page: str) -> None:
    for name, experiment in catalogue(True).items():
        assert f'<section id="{name}">' in page and f'href="#{name}"' in page, name
        for number in range(len(experiment.figures)):
            assert f'id="{name}-{number}-' in page, (name, number)
    assert page.count("<svg") == sum(len(experiment.figures) for experiment in catalogue(True).values())


def test_it_needs_nothing_from_elsewhere(page: str) -> None:
    assert "<script" not in page and "<link" not in page and "<img" not in page and "@import" not in page
    urls = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert all("w3.org" in url for url in urls), urls
    assert len(page) < 3_000_000


def test_names_inside_the_pictures_are_unique_and_resolve(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert (target[0] or target[1]) in ids, target


def test_pictures_are_well_formed(page: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)


def test_what_failed_and_what_is_missing_is_said(page: str) -> None:
    assert "it did not &lt;start&gt;" in page and "<start>" not in page
    assert all(title in page for title in missing_protocols())
    assert "a &lt;processor&gt;" in page and "0123456789ab" in page
    assert "limited by the load generator" in page
    assert page.count("‡ a hypervisor gave others") == 2  # both figures of crashed nodes, and only these


def test_numbers_stand_under_the_plots_with_their_range(page: str) -> None:
    assert page.count("<table") >= page.count("<svg")
    assert 'class="range"' in page
    assert "of what signatures alone allow" in page


def test_full_results_replace_quick_ones_and_missing_experiments_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "rate")
    assert "quick runs" in render_report(tmp_path)
    fill(tmp_path, "rate", quick=False)
    found = render_report(tmp_path)
    assert "quick runs" not in found and "Not measured:" in found


def test_a_busy_machine_and_impossible_figures_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "nodes", cpu_us_per_tx_per_replica=5.0, ratio=1.4)
    found = render_report(tmp_path)
    assert "something else ran on" in found and "impossible" in found
    fill(tmp_path / "free", "nodes", cpu_us_per_tx_per_replica=230.0)
    assert "something else ran on" not in render_report(tmp_path / "free")


def test_only_failures_make_a_report_too(tmp_path: Path) -> None:
    fill(tmp_path, "rate", replicas_agree=False)
    found = render_report(tmp_path)
    assert "the replicas do not agree" in found and "<svg" not in found


def test_every_key_of_a_result_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in BenchResult.__struct_fields__:
        assert f"`{name}`" in text, name


def test_no_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TepbftError):
        render_report(tmp_path)
