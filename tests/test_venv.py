"""`tools/venv.sh`: which Python the virtual environment is made of."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "venv.sh"


def fake(folder: Path, took_us: int | None, name: str = "python3") -> str:
    """A folder with a Python that needs so long, or will not do; it tells what it is asked to make."""
    folder.mkdir(exist_ok=True)
    path = folder / name
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


def test_a_moment_at_which_the_machine_was_slow_decides_nothing(tmp_path: Path) -> None:
    quick, slow = fake(tmp_path / "quick", 1000), fake(tmp_path / "slow", 1100)
    path, asked, measured = tmp_path / "quick" / "python3", tmp_path / "asked", tmp_path / "measured"
    disturbed = (
        f'if [ -e "{measured}" ]; then echo 1000; '
        f'elif [ -e "{asked}" ]; then : >"{measured}"; echo 5000; else : >"{asked}"; echo 5000; fi'
    )
    path.write_text(path.read_text().replace("echo 1000", disturbed))
    assert made([slow, quick]).stdout.endswith(f"\n{quick}/python3 makes env\n")


def test_one_that_fails_when_it_is_measured_is_not_taken_for_the_quickest(tmp_path: Path) -> None:
    sound, broken = fake(tmp_path / "sound", 1000), fake(tmp_path / "broken", 10)
    path, asked = tmp_path / "broken" / "python3", tmp_path / "asked"
    path.write_text(path.read_text().replace("echo 10", f'[ -e "{asked}" ] && exit 1; : >"{asked}"'))
    assert made([sound, broken]).stdout.endswith(f"\n{sound}/python3 makes env\n")


def test_beside_a_python3_that_will_not_do_one_that_will_is_found_by_its_full_name(tmp_path: Path) -> None:
    folder = fake(tmp_path / "bin", None)
    assert fake(tmp_path / "bin", 1000, "python3.13") == folder
    assert made([folder]).stdout.endswith(f"\n{folder}/python3.13 makes env\n")


@pytest.mark.parametrize(
    ("version", "will_do"),
    [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False), ((4, 0, 0), False)],
)
def test_the_versions_that_will_do_are_those_that_the_package_declares(
    tmp_path: Path, version: tuple[int, int, int], will_do: bool
) -> None:
    """The script's own test of the version, run by this Python under another version's number."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(declared).contains(".".join(map(str, version))) == will_do
    path = tmp_path / "python3"
    path.write_text(
        "#!/bin/sh\n"
        '[ "$1" = -c ] || { echo made; exit; }\n'
        f'exec {sys.executable} -c "import sys; sys.version_info = {version}\n$2"\n'
    )
    path.chmod(0o755)
    for arguments in ([], [str(path)]):
        assert made([str(tmp_path)], *arguments).returncode == (0 if will_do else 1)


def test_a_named_python_is_taken_whatever_else_there_is(tmp_path: Path) -> None:
    quick, slow = fake(tmp_path / "quick", 10), fake(tmp_path / "slow", 1000)
    assert made([quick], f"{slow}/python3").stdout.endswith(f"\n{slow}/python3 makes env\n")


@pytest.mark.parametrize("named", [True, False])
def test_without_a_python_that_will_do_it_says_what_to_do(tmp_path: Path, named: bool) -> None:
    old = fake(tmp_path / "old", None)
    done = made([old], *([f"{old}/python3"] if named else []))
    assert done.returncode == 1 and "make PYTHON=/path/to/python3" in done.stdout
    assert "Python 3.11, 3.12 or 3.13" in done.stdout
