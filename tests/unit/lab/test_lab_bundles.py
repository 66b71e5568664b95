"""Loads: sizes, seeds, bundles."""

from __future__ import annotations

from itertools import islice

import pytest

from tepbft.execution.bundle import decode_bundle
from tepbft.lab.workload import APPLICATIONS, operations


@pytest.mark.parametrize("app", APPLICATIONS)
def test_a_bundled_load_is_the_single_one_in_parts(app: str) -> None:
    single = list(islice(operations(app, 100, "seed"), 30))
    bundles = list(islice(operations(app, 100, "seed", 10), 3))
    assert [operation for bundle in bundles for operation in decode_bundle(bundle)] == single


@pytest.mark.parametrize("payload", [30, 100, 1000])
def test_operations_of_kv_have_the_size_asked_for(payload: int) -> None:
    sizes = {len(operation) for operation in islice(operations("kv", payload, "1"), 20)}
    assert all(payload - 4 <= size <= payload + 4 for size in sizes)
