"""The catalogue: complete, consistent, and every point of it can be measured."""

from __future__ import annotations

import pytest

from tepbft.cli.creation import PROTOCOLS
from tepbft.errors import TepbftError
from tepbft.lab.byzantine import STRATEGIES
from tepbft.lab.campaign import expected_s
from tepbft.lab.experiments import catalogue, choose
from tepbft.lab.metrics import COLUMNS, METRICS
from tepbft.lab.options import check_options
from tepbft.lab.paper_experiments import (
    CURVES,
    NODE_COUNTS,
    PAPER_PROTOCOLS,
    RATES,
    missing_protocols,
    survives,
)

QUICK_MINUTES = 25


@pytest.mark.parametrize("quick", [False, True])
def test_every_point_can_be_measured_and_has_its_own_name(quick: bool) -> None:
    for name, experiment in catalogue(quick).items():
        assert experiment.name == name and experiment.question.endswith("?")
        assert bool(experiment.points) != bool(experiment.source)
        names = [point.name for point in experiment.points]
        assert len(set(names)) == len(names), name
        for point in experiment.points:
            check_options(point.options)
            if point.share > 0:
                assert names.index(point.of) < names.index(point.name), "it is measured before"
                assert experiment.point(point.of).share == 0 and not experiment.point(point.of).options.rate


@pytest.mark.parametrize("quick", [False, True])
def test_every_figure_draws_something_that_exists(quick: bool) -> None:
    known = catalogue(quick)
    for experiment in known.values():
        points = known[experiment.source].points if experiment.source else experiment.points
        series = {point.series for point in points}
        assert experiment.figures
        for figure in experiment.figures:
            assert set(figure.series) <= series, (experiment.name, figure.title)
            assert all(column in METRICS for column in COLUMNS[figure.metric])


def test_the_experiments_of_the_paper_are_there() -> None:
    full = catalogue()
    for case in ("Test Case 1", "Test Case 2", "Test Case 3", "Test Case 4", "Appendix A"):
        assert any(case in experiment.paper for experiment in full.values()), case
    for quick in (False, True):
        found = catalogue(quick)
        assert {point.options.rate for point in found["rate"].points} == set(RATES)
        assert {point.options.nodes for point in found["nodes"].points} == set(NODE_COUNTS)
        crashed = {point.options.crashed for point in found["faults"].points}
        assert crashed == set(range(survives("tep", 9) + 1)) == {0, 1, 2, 3, 4}
    assert full["growth"].points[0].options.transactions == 1_000_000
    assert catalogue(True)["growth"].points[0].options.transactions == 50_000


def test_every_protocol_that_exists_is_in_the_papers_experiments() -> None:
    for name in ("rate", "nodes", "faults"):
        assert {point.options.protocol for point in catalogue()[name].points} == set(PROTOCOLS)
    assert set(missing_protocols()) == {
        PAPER_PROTOCOLS[name] for name in set(PAPER_PROTOCOLS) - set(PROTOCOLS)
    }


def test_a_new_protocol_appears_everywhere_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tepbft.lab.paper_experiments.PROTOCOLS", ("tep", "pbft"))
    found = catalogue(True)
    assert {point.series for point in found["rate"].points} == {"TEP-BFT", "PBFT"}
    crashed = [p.options.crashed for p in found["faults"].points if p.options.protocol == "pbft"]
    assert max(crashed) == 2, "nine nodes of PBFT survive two"
    assert "PBFT" not in missing_protocols()


def test_every_byzantine_strategy_is_measured_at_the_most_that_is_survived() -> None:
    assert len(STRATEGIES) > 5
    for quick in (False, True):
        found = {point.options.byzantine for point in catalogue(quick)["byzantine"].points}
        assert found == {"", *(f"4:{name}" for name in STRATEGIES)}
    assert set(CURVES) <= set(STRATEGIES)
    curves = {point.options.byzantine for point in catalogue()["faults"].points} - {""}
    assert curves == {f"{count}:{name}" for count in (1, 2, 3, 4) for name in CURVES}


def test_the_quick_catalogue_is_quick() -> None:
    points = [point for experiment in catalogue(True).values() for point in experiment.points]
    assert sum(expected_s(point.options) for point in points) < QUICK_MINUTES * 60


def test_choosing() -> None:
    assert [experiment.name for experiment in choose("all")] == list(catalogue())
    assert choose("rate", quick=True)[0].name == "rate"
    with pytest.raises(TepbftError) as caught:
        choose("nonsense")
    assert caught.value.exit_code == 2 and "overload" in caught.value.remedy
