"""`tools/venv.sh`: which Python the virtual environment is made of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "venv.sh"


def fake(folder: Path, took_us: int | None) -> str:
    """A folder with a `python3` that needs so long, or will not do; it tells what it is asked to make."""
    folder.mkdir()
    path = folder / "python3"
    answer = "exit 1" if took_us is None else f"echo {took_us}"
    path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then {answer}; else echo "$0 makes $3"; fi\n')
    path.chmod(0o755)
    return str(folder)


def made(path: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": ":".join(path)}
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), "env", *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((1000,), 0),
        ((1000, 960), 0),  # not worth a surprise
        ((1000, 940), 1),
        ((1000, 940, 930), 1),
        ((1000, 940, 800), 2),
        ((None, 1000), 1),
        ((1000, None), 0),
    ],
)
def test_the_quickest_python_is_taken(tmp_path: Path, speeds: tuple[int | None, ...], chosen: int) -> None:
    folders = [fake(tmp_path / f"place {number}", speed) for number, speed in enumerate(speeds)]
    done = made(folders)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{folders[chosen]}/python3 makes env")


def test_a_named_python_is_taken_whatever_else_there_is(tmp_path: Path) -> None:
    quick, slow = fake(tmp_path / "quick", 10), fake(tmp_path / "slow", 1000)
    assert made([quick], f"{slow}/python3").stdout.endswith(f"\n{slow}/python3 makes env\n")


@pytest.mark.parametrize("named", [True, False])
def test_without_a_python_that_will_do_it_says_what_to_do(tmp_path: Path, named: bool) -> None:
    old = fake(tmp_path / "old", None)
    done = made([old], *([f"{old}/python3"] if named else []))
    assert done.returncode == 1 and "make PYTHON=/path/to/python3" in done.stdout
    assert "Python 3.11 or later" in done.stdout
