"""Everything that has a twin in the extension, once more without it (ADR 0018)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tepbft.native import AVAILABLE

TESTS = Path(__file__).parent


@pytest.mark.skipif(not AVAILABLE, reason="the other tests ran without it already")
def test_execution_and_node_without_the_extension():
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *(f"unit/{part}" for part in ("core", "execution", "mempool", "node", "audit", "storage")),
        ],
        cwd=TESTS,
        env={**os.environ, "TEPBFT_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
