"""What a node checks before it starts, and how its component is started for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime_support import Party, anchors_of, member, parties

from tepbft.core.configuration import Genesis, Member, Parameters, encode_genesis
from tepbft.core.options import NodeOptions
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import TepbftError
from tepbft.runtime import process
from tepbft.runtime.launcher import Launcher
from tepbft.runtime.layout import NodeLayout, write_secret
from tepbft.runtime.settings import NodeSettings, dump_settings, node_options
from tepbft.runtime.transport import bind
from tepbft.trusted.client import device_pid, stop_device
from tepbft.trusted.port import Identity

SEED, OPERATOR = b"\x01" * 32, b"\x02" * 32


def own_member(party: Party) -> Member:
    return msgspec.structs.replace(
        member(party, 0),
        node_key=NodeKey.from_seed(SEED).public,
        operator_key=NodeKey.from_seed(OPERATOR).public,
    )


class Folder:
    """A node's folder without a component."""

    def __init__(self, path: Path) -> None:
        self.parties = parties(path, 3)
        self.layout = NodeLayout(path / "node0")
        self.layout.folder.mkdir()
        members = (own_member(self.parties[0]), *(member(party, 0) for party in self.parties[1:]))
        self.genesis = Genesis("tep", "kv", "none", 1, b"n" * 16, members, (), Parameters())
        self.settings = NodeSettings(node=0)
        layout = self.layout
        write_secret(layout.node_key, SEED.hex())
        write_secret(layout.operator_key, OPERATOR.hex())
        write_secret(layout.tls_key, self.parties[0].certificate.key_pem)
        layout.tls_certificate.write_text(self.parties[0].certificate.certificate_pem)
        layout.certificates.write_text(anchors_of(self.parties))
        layout.settings.write_text(dump_settings(self.settings))
        self.write(self.genesis)

    def write(self, genesis: Genesis) -> None:
        self.layout.genesis.write_bytes(encode_genesis(genesis))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_credentials_that_belong_are_accepted(folder: Folder) -> None:
    found = process.load_credentials(folder.layout, folder.settings, folder.genesis)
    assert found.node_key.public == folder.genesis.members[0].node_key
    assert found.operator_seed == OPERATOR
    settings = msgspec.structs.replace(folder.settings, auto_readmit=False)
    assert process.load_credentials(folder.layout, settings, folder.genesis).operator_seed is None
    folder.layout.operator_key.unlink()
    assert process.load_credentials(folder.layout, folder.settings, folder.genesis).operator_seed is None


def replace_secret(path: Path, text: str) -> None:
    path.unlink()
    write_secret(path, text)


def test_credentials_of_another_are_refused(folder: Folder) -> None:
    layout, settings, genesis = folder.layout, folder.settings, folder.genesis
    other = folder.parties[1].certificate

    def refused(words: str) -> None:
        with pytest.raises(TepbftError, match=words):
            process.load_credentials(layout, settings, genesis)

    layout.operator_key.chmod(0o644)
    refused("operator.key.*chmod 600")
    layout.operator_key.chmod(0o600)
    replace_secret(layout.tls_key, other.key_pem)
    refused("do not make a TLS identity")
    layout.tls_certificate.write_text(other.certificate_pem)
    refused("not the certificate that the genesis names")
    layout.tls_certificate.write_text("nothing")
    refused("no certificate")
    replace_secret(layout.node_key, "03" * 32)
    refused("not the key that the genesis names")


def test_mac_keys_are_read(folder: Folder) -> None:
    genesis = msgspec.structs.replace(folder.genesis, scheme="mac")
    with pytest.raises(TepbftError, match=r"macs.json"):
        process.load_credentials(folder.layout, folder.settings, genesis)
    write_secret(folder.layout.macs, '{"0c": "0d"}')
    found = process.load_credentials(folder.layout, folder.settings, genesis)
    assert found.mac_keys == {b"\x0c": b"\x0d"}
    replace_secret(folder.layout.macs, "[1]")
    with pytest.raises(TepbftError, match="does not hold MAC keys"):
        process.load_credentials(folder.layout, folder.settings, genesis)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "other"}, "not known"),
        ({"parameters": Parameters(window=0)}, "window"),
        ({"members": ()}, "a cluster has 3 to 64 members"),
    ],
)
def test_a_genesis_of_no_use_is_refused(folder: Folder, change: dict[str, Any], words: str) -> None:
    folder.write(msgspec.structs.replace(folder.genesis, **change))
    with pytest.raises(TepbftError, match=words):
        process.own_entry(folder.layout, folder.settings, process.load_genesis(folder.layout.genesis))


def test_a_genesis_that_is_none(folder: Folder) -> None:
    members = tuple(reversed(folder.genesis.members))
    folder.write(msgspec.structs.replace(folder.genesis, members=members))
    with pytest.raises(TepbftError, match="numbered"):
        process.load_genesis(folder.layout.genesis)
    folder.layout.genesis.write_text("{}")
    with pytest.raises(TepbftError, match="not a genesis"):
        process.load_genesis(folder.layout.genesis)
    folder.layout.genesis.unlink()
    with pytest.raises(TepbftError, match="cannot be read"):
        process.load_genesis(folder.layout.genesis)


def test_settings_that_contradict_the_genesis(folder: Folder) -> None:
    with pytest.raises(TepbftError, match="in_flight_blocks"):
        process.own_entry(
            folder.layout, msgspec.structs.replace(folder.settings, in_flight_blocks=33), folder.genesis
        )


def test_a_second_process_on_a_folder_is_refused(folder: Folder) -> None:
    with process.hold_folder(folder.layout):
        assert folder.layout.pid.read_text() == f"{os.getpid()}\n"
        with (
            pytest.raises(TepbftError, match="runs on this folder already"),
            process.hold_folder(folder.layout),
        ):
            raise AssertionError
    assert not folder.layout.pid.exists()
    with process.hold_folder(folder.layout):
        pass


def test_a_port_in_use_leaves_nothing_open(folder: Folder) -> None:
    taken = bind("127.0.0.1", 0, "test")
    port = taken.getsockname()[1]
    entry = msgspec.structs.replace(folder.genesis.members[0], http_port=port)
    with pytest.raises(TepbftError, match=f"HTTP port {port}"):
        process.bind_sockets(entry, folder.settings)
    taken.close()
    process.bind_sockets(entry, folder.settings).close()


def test_every_option_of_the_node_core_has_its_setting() -> None:
    settings = NodeSettings(node=0)
    assert node_options(settings, 3) == NodeOptions()
    assert node_options(settings, 9).t_status_ms == 500


def test_the_command_says_what_is_wrong(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert process.main([str(folder.layout.folder / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "node.toml" in error and "Traceback" not in error


class FakeDevice:
    """A component as `check_component` sees it."""

    def __init__(self, **fields: Any) -> None:
        plain = Identity(b"t" * 16, b"k" * 65, b"", 0, 0, 0, 0, 0, 0, False, False)
        self.who = msgspec.structs.replace(plain, **fields)
        self.provisioned: list[Any] = []

    def identity(self) -> Identity:
        return self.who

    def provision(self, *binding: Any) -> None:
        self.provisioned.append(binding)


def test_a_component_of_another_chain_or_node_is_refused(folder: Folder) -> None:
    genesis, cfg = folder.genesis, folder.genesis.configuration()

    def check(**fields: Any) -> FakeDevice:
        device = FakeDevice(**fields)
        process.check_component(folder.layout, genesis, 0, device, cfg)  # type: ignore[arg-type]
        return device

    binding = (genesis.chain_id, 0, 0, cfg.digest(), 0, genesis.parameters.window)
    assert check().provisioned == [binding]
    assert check(chain_id=genesis.chain_id).provisioned == [binding]
    for fields in ({"chain_id": b"x" * 32}, {"chain_id": genesis.chain_id, "node": 1}, {"halted": True}):
        with pytest.raises(TepbftError, match="trusted component"):
            check(**fields)


# --- the launcher, with a real component ------------------------------------------------------


@pytest.fixture
def short_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tep", dir="/tmp"))
    try:
        yield path / "trusted"
    finally:
        stop_device(path / "trusted")
        shutil.rmtree(path)


LAUNCH = """
import sys, os, signal
from pathlib import Path
from tepbft.runtime.launcher import Launcher
from tepbft.trusted.client import device_pid
from tepbft.trusted.confine import confine_replica
folder = Path(sys.argv[1])
launcher = Launcher(folder)
device = launcher.open_device()
first = device.identity()
print(confine_replica(folder), flush=True)
sys.stdin.readline()
second = launcher.open_device().identity()
print("new" if second.tc_id != first.tc_id else "same", flush=True)
launcher.close()
"""


def test_a_confined_node_gets_a_new_component_after_it_was_killed(short_folder: Path) -> None:
    """A8.2: the helper that was forked before still may start one, and ends with the node."""
    child = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(short_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        pid = device_pid(short_folder)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while device_pid(short_folder) == pid and time.monotonic() < deadline:
            time.sleep(0.01)  # a killed process may still answer for a moment
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "new\n"
    assert child.returncode == 0


def test_a_component_that_cannot_start_is_explained(tmp_path: Path) -> None:
    (tmp_path / "trusted").write_text("not a folder")
    launcher = Launcher(tmp_path / "trusted")
    with pytest.raises(TepbftError, match="trusted"):
        launcher.open_device()
    launcher.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(launcher.pid, 0)
