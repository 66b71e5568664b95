"""`tepbft.cli.signals`: an interrupted command cleans up and says so by its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tepbft.cli.signals import terminate_as_interrupt

UNWINDS = """
import signal, sys
from tepbft.cli import main, signals

@main.app.command()
def interrupted() -> None:
    with signals.terminate_as_interrupt():
        try:
            exec("signal.raise_signal(signal.{name})")  # as in the middle of generated code
        finally:
            print("cleaned up")

sys.argv = ["tepbft", "interrupted"]
main.main()
"""


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a module with `-m`, the way in which the interpreter looks at how it was interrupted."""
    (folder / "interrupted.py").write_text(source)
    arguments = [sys.executable, "-m", "interrupted"]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_inside_generated_code_keeps_the_exit_code(tmp_path: Path, name: str) -> None:
    ended = run(tmp_path, UNWINDS.format(name=name))
    assert (ended.returncode, ended.stdout) == (130, "cleaned up\n"), ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """A shell starts background jobs with SIGINT ignored: Ctrl-C is not meant for them."""
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    ended = run(tmp_path, ignore + UNWINDS.format(name="SIGINT"))
    assert (ended.returncode, ended.stdout) == (0, "cleaned up\n"), ended.stderr


def test_the_handler_of_sigterm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminate_as_interrupt():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
