"""What the limit is made of is measured under the load of the run itself."""

import asyncio
import ssl
import sys
from collections.abc import Sequence

import pytest

from tepbft.cli.cluster import plain_http
from tepbft.core.block import Request
from tepbft.lab import calibrate, companion
from tepbft.lab.calibrate import SignatureCost, Workbench, limit_per_s
from tepbft.lab.companion import Companion, mean_us, sample
from tepbft.lab.options import BenchOptions


async def _samples(scheme: str | None, wait_s: float) -> tuple[list[float], int | None]:
    async with Companion(scheme, 3) as beside:
        beside.begin()
        await asyncio.sleep(wait_s)
        found = await beside.end()
        process = beside._process
    return found, process.returncode if process is not None else None


async def test_it_measures_from_begin_to_end() -> None:
    found, code = await _samples("secp256k1", 4 * companion.INTERVAL_S)
    assert 1 <= len(found) <= 5
    assert all(5 < us < 5000 for us in found), found
    assert code is not None, "no process stays"


async def test_a_scheme_without_signatures_needs_no_process() -> None:
    assert await _samples(None, 0.01) == ([], None)


async def test_a_process_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found, code = await _samples("secp256k1", 0.01)
    assert found == []
    assert code == 1


@pytest.mark.parametrize("scheme", ["secp256k1", "ed25519", "p256", "mac"])
def test_one_sample_verifies_good_signatures_only(scheme: str) -> None:
    bench = Workbench(scheme, 3)
    assert sample(bench, bench.open(bench.sign())) > 0


class _Recorder(Workbench):
    """Remembers which requests were verified."""

    def __init__(self) -> None:
        super().__init__("mac", 3)
        self.verified: list[int] = []

    def verify(self, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        self.verified += [request.seq for request in requests]
        super().verify(requests, digests)


def test_no_signature_is_verified_that_was_verified_shortly_before() -> None:
    """As with a node: a processor learns the way through a few that return, and is quicker at them."""
    bench = _Recorder()
    opened = bench.open(bench.sign())
    for begin in range(0, 10 * companion.SIGNATURES, companion.SIGNATURES):
        sample(bench, opened, begin)
    assert len(set(bench.verified)) == len(bench.verified) == 10 * companion.SIGNATURES


def test_measuring_around_the_run_takes_one_part_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _Recorder()
    monkeypatch.setattr(calibrate, "Workbench", lambda scheme, nodes: bench)
    calibrate.measure("mac", 3, 0.0, 0.0)
    assert bench.verified == list(range(3 * calibrate.PART))


def test_the_limit_takes_the_mean_and_without_samples_what_was_measured_around() -> None:
    assert mean_us([20.0, 30.0], 99.0) == pytest.approx(24.0), "a rate of 1/20 and one of 1/30"
    assert mean_us([], 99.0) == 99.0


def test_signing_counts_for_the_share_of_requests_that_were_signed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few late signatures must not make the limit look lower, and the ratio higher, than it is."""
    monkeypatch.setattr(calibrate, "cores", lambda: 2)
    cost = SignatureCost(25.0, 40.0)
    assert limit_per_s(cost, 4) == 20_000
    assert limit_per_s(cost, 4, live_share=0.25) == pytest.approx(2e6 / 110)
    assert limit_per_s(cost, 4, live_share=1.0) == pytest.approx(2e6 / 140)
    assert limit_per_s(SignatureCost(0.0, 0.0), 4) is None


def test_only_a_load_that_keeps_the_cores_busy_is_measured_beside() -> None:
    assert BenchOptions().saturating
    assert not BenchOptions(clients=1).saturating
    assert not BenchOptions(rate=1000).saturating


def test_asking_a_node_does_not_read_the_certificates_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """That took more processor time in the window than all else that watches a benchmark."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("certificates were read")

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refuse)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", refuse)
    plain_http(1.0).close()
