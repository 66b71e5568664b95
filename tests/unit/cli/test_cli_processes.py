"""Processes are found by pid and command line, ended by pid, and never mistaken for one another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tepbft.cli.components import each
from tepbft.cli.lease import lease_client
from tepbft.cli.ports import PORTS_PER_NODE, choose_ports, ports_in_use
from tepbft.cli.processes import (
    alive,
    kill,
    log_tail,
    node_pid,
    read_pid,
    start_node,
    stop_nodes,
    wait_until,
)
from tepbft.errors import TepbftError
from tepbft.runtime.layout import NodeLayout

WAIT = "import signal, sys, time\nprint('up', flush=True)\ntime.sleep(60)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT
Started = list[subprocess.Popen[bytes]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Processes that a test started; ended by pid afterwards."""
    processes: Started = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run(started: Started, code: str, *words: str) -> subprocess.Popen[bytes]:
    """A Python process that is known to be up."""
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    return process


def a_node(tmp_path: Path, name: str, pid: int) -> NodeLayout:
    layout = NodeLayout(tmp_path / name)
    layout.folder.mkdir()
    layout.pid.write_text(f"{pid}\n")
    return layout


def test_a_zombie_is_not_alive(started: Started) -> None:
    """A killed process that nobody has collected yet must not be waited for."""
    process = run(started, WAIT)
    assert alive(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(process.pid), 10)
    assert process.returncode is None  # still uncollected: it was seen for what it is


def test_a_zombie_that_is_buried_while_one_looks_is_not_alive(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may wait for the process between the two looks that `alive` takes."""
    process = run(started, WAIT)
    read = Path.read_bytes

    def buried(path: Path) -> bytes:
        process.kill()
        process.wait()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", buried)
    assert not alive(process.pid)


@pytest.mark.parametrize("text", ["", "abc", "-1", "1", "0", "99999999999", "12 34"])
def test_pid_files_with_anything_else_name_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.pid"
    path.write_text(text)
    assert read_pid(path) is None
    assert read_pid(tmp_path / "absent") is None


def test_a_reused_pid_is_not_taken_for_the_node(tmp_path: Path, started: Started) -> None:
    """A pid file may be older than the process that now has its number."""
    stranger = run(started, WAIT)
    node = run(started, WAIT, "tepbft.runtime.process")
    assert node_pid(a_node(tmp_path, "node0", stranger.pid)) is None
    assert node_pid(a_node(tmp_path, "node1", node.pid)) == node.pid


def test_stopping_is_polite_first_and_then_is_not(tmp_path: Path, started: Started) -> None:
    polite = run(started, WAIT, "tepbft")
    stubborn = run(started, STUBBORN, "tepbft")
    layouts = [a_node(tmp_path, "node0", polite.pid), a_node(tmp_path, "node1", stubborn.pid)]
    assert stop_nodes(layouts, timeout_s=0.5) == [layouts[1]]
    assert (polite.wait(), stubborn.wait()) == (-signal.SIGTERM, -signal.SIGKILL)
    assert stop_nodes(layouts) == []


def test_killing_what_is_gone_is_no_error(started: Started) -> None:
    process = run(started, WAIT)
    kill(process.pid)
    kill(process.pid)


def test_a_node_that_cannot_start_leaves_its_reason_in_the_log(tmp_path: Path) -> None:
    layout = NodeLayout(tmp_path)
    process = start_node(layout)
    assert process.wait(30) != 0
    assert "node.toml" in log_tail(layout.log)
    assert os.getpgid(0) != process.pid


def test_ports_are_free_and_in_a_row() -> None:
    first = choose_ports(5, "127.0.0.1", None)
    assert ports_in_use("127.0.0.1", list(range(first, first + 5 * PORTS_PER_NODE))) == []
    assert choose_ports(5, "127.0.0.1", 7000) == 7000
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert ports_in_use("127.0.0.1", [taken]) == [taken]
    for base in (0, 65_530, 70_000):
        with pytest.raises(TepbftError, match="--base-port"):
            choose_ports(5, "127.0.0.1", base)
    with pytest.raises(TepbftError, match="from this machine"):
        choose_ports(3, "192.0.2.1", None)


def test_ports_come_from_the_range_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose_ports(1, "127.0.0.1", None)
    monkeypatch.setenv("TEPBFT_PORTS", f"{first}-{first + PORTS_PER_NODE - 1}")
    assert choose_ports(1, "127.0.0.1", None) == first
    assert choose_ports(1, "127.0.0.1", 7000) == 7000  # a port that was named is taken
    with socket.create_server(("127.0.0.1", first + 1)), pytest.raises(TepbftError, match="not found"):
        choose_ports(1, "127.0.0.1", None)


@pytest.mark.parametrize(
    "text", ["7000", "7000-7007", "0-100", "65530-65540", "9000-8000", "a-b", "-1-50", "\u0663000-\u0664000"]
)
def test_a_range_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TEPBFT_PORTS", text)
    with pytest.raises(TepbftError, match="TEPBFT_PORTS") as error:
        choose_ports(3, "127.0.0.1", None)
    assert error.value.exit_code == 2


def test_all_are_tried_before_an_error_is_raised(tmp_path: Path) -> None:
    layouts = [NodeLayout(tmp_path / str(number)) for number in range(4)]
    done = []

    def act(index: int, layout: NodeLayout) -> int:
        done.append(index)
        if index == 1:
            raise TepbftError("one", "on purpose", "none")
        return index

    with pytest.raises(TepbftError, match="on purpose"):
        each(layouts, act)
    assert sorted(done) == [0, 1, 2, 3]
    assert each(layouts[:1], act) == [0] and each([], act) == []


def test_two_commands_never_sign_as_the_same_client(tmp_path: Path) -> None:
    """A-41: a newer session would end the older one."""
    (tmp_path / "clients").mkdir()
    for name in ("client00", "client01"):
        (tmp_path / "clients" / f"{name}.json").write_text("{}")
    with lease_client(tmp_path, None) as first, lease_client(tmp_path, None) as second:
        assert (first, second) == ("client00", "client01")
    with lease_client(tmp_path, "client01") as named:
        assert named == "client01"
    for wrong in ("../genesis", "", "nobody"):
        with pytest.raises(TepbftError), lease_client(tmp_path, wrong):
            pass
