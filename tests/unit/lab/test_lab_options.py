"""What cannot be measured is refused by name, before anything is started."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tepbft.errors import TepbftError
from tepbft.lab.options import BenchOptions, check_options
from tepbft.lab.starting import plan_for


@pytest.mark.parametrize(
    ("changes", "thing"),
    [
        ({"nodes": 2}, "--nodes"),
        ({"nodes": 65}, "--nodes"),
        ({"protocol": "raft"}, "--protocol"),
        ({"scheme": "rot13"}, "--scheme"),
        ({"app": "chess"}, "--app"),
        ({"payload": 0}, "--payload"),
        ({"clients": 0}, "--clients"),
        ({"pipeline": 1025}, "--pipeline"),
        ({"seconds": 0}, "--seconds"),
        ({"warmup_s": -1}, "--warmup"),
        ({"generators": 33}, "--generators"),
        ({"rate": -1}, "--rate"),
        ({"bundle": 1025}, "--bundle"),
        ({"byzantine": "silent"}, "--byzantine"),
        ({"byzantine": "x:silent"}, "--byzantine"),
        ({"byzantine": "1:unknown"}, "--byzantine"),
        ({"crashed": 2}, "--crashed and --byzantine"),
        ({"crashed": 1, "byzantine": "1:silent"}, "--crashed and --byzantine"),
        ({"crashed": -1}, "--crashed and --byzantine"),
        ({"crashed": 1, "kill_primary_after_s": 1}, "--kill-primary"),
        ({"kill_primary_after_s": 10, "seconds": 10}, "--kill-primary"),
        ({"transactions": 10, "rate": 5}, "--transactions"),
        ({"transactions": 0}, "--transactions"),
    ],
)
def test_nonsense_is_wrong_usage(changes: dict[str, Any], thing: str) -> None:
    options = msgspec.structs.replace(BenchOptions(), **changes)
    with pytest.raises(TepbftError) as caught:
        check_options(options, ("silent",))
    assert caught.value.exit_code == 2 and caught.value.thing == thing
    assert caught.value.reason and caught.value.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nodes": 5, "crashed": 1, "byzantine": "1:silent"},
        {"kill_primary_after_s": 3},
        {"transactions": 5},
        {"clients": 1, "rate": 100},
        {"scheme": "none", "app": "bank", "in_process": True},
    ],
)
def test_what_can_be_measured_is_accepted(changes: dict[str, Any]) -> None:
    check_options(msgspec.structs.replace(BenchOptions(), **changes), ("silent",))


def test_a_single_client_has_one_request_at_a_time() -> None:
    assert BenchOptions(clients=1).outstanding_per_client(27_000.0) == 1
    assert BenchOptions(clients=1, pipeline=7).outstanding_per_client(27_000.0) == 7


@pytest.mark.parametrize(
    ("limit_per_s", "expected"), [(None, 256), (27_000.0, 256), (9_000.0, 90), (5_000.0, 50), (500.0, 16)]
)
def test_clients_keep_as_many_requests_waiting_as_nodes_take_up(
    limit_per_s: float | None, expected: int
) -> None:
    assert BenchOptions(clients=32).outstanding_per_client(limit_per_s) == expected
    assert BenchOptions(clients=32, pipeline=300).outstanding_per_client(limit_per_s) == 300


@pytest.mark.parametrize("interval", [1, 8, 64, 128])
@pytest.mark.parametrize("in_flight", [None, 1, 64])
@pytest.mark.parametrize(("size", "payload"), [(None, 100), (1, 100), (16_384, 100), (64, 64_000)])
def test_every_combination_becomes_a_consistent_cluster(
    tmp_path: Any, interval: int, in_flight: int | None, size: int | None, payload: int
) -> None:
    options = BenchOptions(
        checkpoint_interval=interval, in_flight=in_flight, block_size=size, payload=payload
    )
    plan = plan_for(options, tmp_path / "cluster")
    assert plan.parameters.check() == []
    settings = plan.node_settings(0)
    assert settings.in_flight_blocks == (in_flight or 4)
    assert plan.parameters.window >= 2 * interval


def test_switches_reach_the_cluster(tmp_path: Any) -> None:
    options = BenchOptions(durable=False, strict_sequential=True, settings=("t_request_ms = 500",))
    plan = plan_for(options, tmp_path)
    settings = plan.node_settings(1)
    assert not settings.durable and settings.t_request_ms == 500 and plan.parameters.strict_sequential
