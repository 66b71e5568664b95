"""Nodes with the compiled extension and nodes without it are one cluster (ADR 0018)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import Ran, Running, eventually
from tepbft.execution.apps import kv
from tepbft.native import AVAILABLE

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]


def test_nodes_with_and_without_the_extension_agree(
    make_cluster: Callable[..., Running], tepbft: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make_cluster(3)
    running.up(0, 1)
    with monkeypatch.context() as without:
        without.setenv("TEPBFT_NATIVE", "0")
        running.up(2)
    statuses = [running.status(node) for node in range(3)]
    assert [status.extension for status in statuses if status is not None] == [AVAILABLE, AVAILABLE, False]
    assert "without the compiled extension, which saves time: " in tepbft("status", running.root).out

    puts = [kv.parse(["put", f"k{number}", "v" * (number % 90)]) for number in range(300)]
    strange = [
        b"no operation",
        kv.parse(["get", "k7"]),
        kv.parse(["cas", "k8", "-", "w"]),
        kv.parse(["delete", "k9"]),
    ]
    outcomes = running.submit(*puts, *strange)
    assert all(outcome.ok for outcome in outcomes[:300])
    eventually(running.agree, "one head on all nodes")
    running.kill(0)  # the primary: one of the two that are left has the extension, the other has not
    running.put("after", "all")
    assert running.get("after") == "all" and running.get("k42") == "v" * 42
