"""Benchmarks of real clusters with a Byzantine node, with components inside the nodes, and with bundles."""

from __future__ import annotations

from typing import Any

import pytest

from tepbft.lab.bench import run_bench
from tepbft.lab.calibrate import SignatureCost
from tepbft.lab.options import BenchOptions
from tepbft.lab.result import BenchResult

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


def measure(**options: Any) -> BenchResult:
    """A short run of three nodes at a rate that they keep up with, which has to come to its end."""
    settings = BenchOptions(clients=4, rate=100, warmup_s=1, seconds=2, drain_s=30, **options)
    result = run_bench(settings, calibration=SignatureCost(50.0, 50.0))
    assert result.replicas_agree, result.errors
    assert result.committed > 0 and result.lost == 0 and result.refused == 0
    return result


@pytest.mark.parametrize("strategy", ["corrupt", "lie_to_clients", "withhold_commits"])
def test_a_byzantine_backup(strategy: str) -> None:
    """The load completes and the correct nodes agree, with one of three nodes Byzantine."""
    result = measure(byzantine=f"1:{strategy}")
    assert result.byzantine_nodes == [2] and "Status" in result.messages_per_tx


@pytest.mark.parametrize("strategy", ["withhold_bodies", "equivocate"])
def test_a_byzantine_primary_is_replaced(strategy: str) -> None:
    """The others change the view and go on."""
    result = measure(byzantine=f"1:primary_{strategy}")
    assert result.byzantine_nodes == [0]
    if strategy == "withhold_bodies":  # the other one forges for all only now and then
        assert result.view_changes_before + result.view_changes >= 1


def test_components_inside_and_operations_in_bundles() -> None:
    """No CPU time of trusted components; each request counts as its operations."""
    result = measure(in_process=True, bundle=8)
    assert result.trusted_cpu_us_per_tx_per_replica == 0 and result.cpu_us_per_tx_per_replica > 0
    assert result.committed % 8 == 0 and result.due % 8 == 0
    assert 40 < result.tps < 300
