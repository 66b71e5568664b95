"""The catalogue of experiments: those of the paper, and what it left out."""

from __future__ import annotations

from tepbft.errors import TepbftError
from tepbft.lab.more_experiments import (
    blocks_experiment,
    bundles_experiment,
    checkpoints_experiment,
    failover_experiment,
    growth_experiment,
    in_flight_experiment,
    overload_experiment,
    payload_experiment,
    schemes_experiment,
)
from tepbft.lab.paper_experiments import (
    byzantine_experiment,
    component_experiment,
    faults_experiment,
    messages_experiment,
    nodes_experiment,
    rate_experiment,
    resources_experiment,
)
from tepbft.lab.points import Experiment, Scale

_MAKERS = (
    rate_experiment,
    resources_experiment,
    nodes_experiment,
    faults_experiment,
    byzantine_experiment,
    component_experiment,
    messages_experiment,
    schemes_experiment,
    payload_experiment,
    blocks_experiment,
    bundles_experiment,
    in_flight_experiment,
    checkpoints_experiment,
    failover_experiment,
    overload_experiment,
    growth_experiment,
)


def catalogue(quick: bool = False) -> dict[str, Experiment]:
    """All experiments by name, in the order of the report; `quick`: fewer points, shorter windows."""
    scale = Scale(quick)
    return {experiment.name: experiment for experiment in (make(scale) for make in _MAKERS)}


def choose(name: str, quick: bool = False) -> list[Experiment]:
    """The experiment of that name, or all of them; TepbftError (exit code 2) if there is none."""
    found = catalogue(quick)
    if name == "all":
        return list(found.values())
    if name not in found:
        raise TepbftError(
            f"experiment {name!r}", "it is not known", f"Choose: all, {', '.join(found)}.", exit_code=2
        )
    return [found[name]]
