"""A trusted component inside its node: the same one, without a process in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tepbft.errors import TepbftError
from tepbft.lab import byzantine_node, in_process
from tepbft.lab.byzantine import Corrupt
from tepbft.lab.in_process import InsideDevice, InsideLauncher
from tepbft.lab.starting import run_command, start_with
from tepbft.runtime import process
from tepbft.runtime.layout import NodeLayout
from tepbft.trusted.device import SEALED_FILE
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import COMMIT, Order, Ui
from tepbft.trusted.sealing import FilePlatform, write_durably


def test_the_sealed_component_is_restored(tmp_path: Path) -> None:
    component = HbUsig.fresh(FilePlatform(tmp_path))
    component.provision(b"c" * 32, 1, 0, b"d" * 32, 0, 8)
    identity = component.identity()
    write_durably(tmp_path / SEALED_FILE, component.seal())
    launcher = InsideLauncher(tmp_path)
    device = launcher.open_device()
    assert launcher.open_device() is device
    found = device.identity()
    assert (found.tc_id, found.node, found.warm) == (identity.tc_id, 1, True)
    assert not (tmp_path / SEALED_FILE).exists()
    device.provision(b"c" * 32, 1, 0, b"d" * 32, 0, 8)
    device.close()
    launcher.close()


def test_it_answers_as_the_component_does() -> None:
    component = HbUsig.fresh()
    device = InsideDevice(component)
    device.provision(b"c" * 32, 1, 0, b"d" * 32, 0, 8)
    requests = [Order(COMMIT, 0, height, b"x" * 32) for height in (1, 2)]
    device.ask(list(requests))
    answers = device.answers()
    assert all(isinstance(answer, Ui) for answer in answers)
    assert [device.call(request) for request in requests] == answers  # as they were signed already


def test_nodes_of_a_laboratory_come_in_by_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, dict[str, object]]] = []

    def run_node(folder: Path, **parts: object) -> int:
        seen.append((folder, parts))
        return 0

    for module in (in_process, byzantine_node, process):
        monkeypatch.setattr(module, "run_node", run_node)
    assert in_process.run("a") == byzantine_node.run("b", "corrupt") == 0
    assert process.main(["c"]) == 0
    assert seen == [
        (Path("a"), {"launcher_for": InsideLauncher}),
        (Path("b"), {"wrap": Corrupt}),
        (Path("c"), {}),  # a real node
    ]
    with pytest.raises(TepbftError, match="not known"):
        byzantine_node.run("b", "friendly")


def test_a_node_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(TepbftError, match=r"No module named tepbft\.lab\.nothing") as caught:
        start_with("tepbft.lab.nothing", [NodeLayout(tmp_path)], "silent")
    assert "did not start" in caught.value.reason


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(folder: str) -> int:
        if folder == "bad":
            raise TepbftError(folder, "it is bad", "Take another.", exit_code=7)
        return len(folder)

    for arguments, code in (([], 2), (["a", "b"], 2), (["abc"], 3), (["bad"], 7)):
        monkeypatch.setattr("sys.argv", ["module", *arguments])
        assert run_command("python -m module FOLDER", run, 1) == code
    said = capsys.readouterr().err
    assert said.count("usage: python -m module FOLDER") == 2 and "it is bad" in said
