"""Which nodes of a benchmark run, which are Byzantine, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from tepbft.errors import TepbftError
from tepbft.lab.byzantine import STRATEGIES
from tepbft.lab.options import BenchOptions, check_options


def test_the_last_backups_that_run_are_byzantine() -> None:
    options = BenchOptions(nodes=7, byzantine="2:silent", crashed=1)
    assert (options.running, options.liars, options.correct) == (tuple(range(6)), (4, 5), (0, 1, 2, 3))
    assert BenchOptions().liars == () and BenchOptions().correct == (0, 1, 2)


def test_of_a_primarys_strategy_node_0_is_the_first() -> None:
    assert BenchOptions(nodes=5, byzantine="1:primary_silent").liars == (0,)
    options = BenchOptions(nodes=5, byzantine="2:primary_silent")
    assert options.liars == (0, 4) and options.correct == (1, 2, 3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_accepted(name: str) -> None:
    check_options(BenchOptions(byzantine=f"1:{name}"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (BenchOptions(byzantine="silent"), "K:STRATEGY"),
        (BenchOptions(byzantine="0:silent"), "K:STRATEGY"),
        (BenchOptions(byzantine="²:silent"), "K:STRATEGY"),
        (BenchOptions(byzantine="1:"), "K:STRATEGY"),
        (BenchOptions(byzantine="1:friendly"), "is not known"),
        (BenchOptions(byzantine="1:primary_flood"), "is not known"),
        (BenchOptions(byzantine="2:silent"), "survive 1"),
        (BenchOptions(byzantine="1:silent", crashed=1), "survive 1"),
        (BenchOptions(byzantine="1:silent", kill_primary_after_s=1), "more than f"),
        (BenchOptions(bundle=0), "outside"),
        (BenchOptions(bundle=1025), "outside"),
        (BenchOptions(bundle=1000, payload=1000), "1000 operations of 1000 bytes"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: BenchOptions, reason: str) -> None:
    with pytest.raises(TepbftError, match=reason) as caught:
        check_options(options)
    assert caught.value.exit_code == 2 and caught.value.remedy


def test_the_largest_bundle_that_is_accepted_fits_into_an_operation() -> None:
    from tepbft.lab.workload import operations
    from tepbft.types import MAX_OPERATION_BYTES

    check_options(BenchOptions(bundle=1024, payload=240))
    for app in ("kv", "bank", "notary"):
        assert len(next(operations(app, 240, "1", 1024))) <= MAX_OPERATION_BYTES
