"""The software device as a real process: cold, warm, one per folder, private, hard to upset."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tepbft.errors import TepbftError, TrustedRefusal
from tepbft.trusted.client import DeviceClient, device_pid, ensure_device, stop_device
from tepbft.trusted.device import EXIT_RUNS_ALREADY, Device
from tepbft.trusted.device_wire import (
    MAX_BATCH,
    MAX_REQUEST_BYTES,
    SEALED_FILE,
    Answers,
    AskCalls,
    AskIdentity,
    reply_codec,
    request_codec,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import (
    COMMIT,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Order,
    Refused,
    TcRequest,
    TrustedComponent,
    Ui,
)
from tepbft.wire import encode, frame

pytestmark = pytest.mark.cluster

CHAIN, CFG = b"c" * 32, b"g" * 32
X, Y = b"x" * 32, b"y" * 32


def kill(folder: Path) -> None:
    """kill -9, and wait until the kernel has let go of the folder."""
    pid = device_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: device_pid(folder) is None)


def until(condition: object) -> None:
    deadline = time.monotonic() + 20
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="tc"))
    try:
        yield parent / "trusted"
    finally:
        kill(parent / "trusted")
        shutil.rmtree(parent)


def provisioned(folder: Path) -> DeviceClient:
    client = ensure_device(folder, 30)
    client.provision(CHAIN, 1, 0, CFG, 0, 256)
    return client


def test_kill_is_a_cold_start_with_a_new_identity_i20(folder: Path) -> None:
    with provisioned(folder) as client:
        before = client.identity()
        assert not before.warm and before.chain_id == CHAIN
        assert isinstance(client.call(Order(COMMIT, 0, 1, X)), Ui)
        kill(folder)
        with pytest.raises(TepbftError, match="ended while it was being used"):
            client.identity()
    with ensure_device(folder, 30) as client:
        after = client.identity()
        assert not after.warm and after.tc_id != before.tc_id
        assert (after.chain_id, after.seq) == (b"", 0)
    assert "cold_start" in (folder / "tc.log").read_text()


def test_sealing_is_a_warm_start_with_the_same_registers(folder: Path) -> None:
    with provisioned(folder) as client:
        before = client.identity()
        ui = client.call(Order(COMMIT, 0, 1, X))
    stop_device(folder)
    blob = (folder / "sealed.bin").read_bytes()
    assert device_pid(folder) is None and not (folder / "tc.sock").exists()
    with ensure_device(folder, 30) as client:
        after = client.identity()
        assert after.warm and after.tc_id == before.tc_id
        assert client.call(Order(COMMIT, 0, 1, X)) == ui
        refused = client.call(Order(COMMIT, 0, 1, Y))
        assert isinstance(refused, Refused) and refused.code == "register"
        assert not (folder / "sealed.bin").exists()
        kill(folder)
    (folder / "sealed.bin").write_bytes(blob)  # the operator puts the old state back (F-19)
    with ensure_device(folder, 30) as client:
        assert not client.identity().warm and client.identity().tc_id != before.tc_id
    assert (folder / "sealed.bin.refused").read_bytes() == blob


def test_seal_over_the_socket_and_unprovisioned(folder: Path) -> None:
    """What making a cluster does: start, identity, provision, seal; or seal before provisioning."""
    with ensure_device(folder, 30) as client:
        first = client.identity()
        blob = client.seal()
    until(lambda: device_pid(folder) is None)
    assert (folder / "sealed.bin").read_bytes() == blob
    assert first.key not in blob
    with provisioned(folder) as client:
        assert client.identity().tc_id == first.tc_id
        client.seal()
    until(lambda: device_pid(folder) is None)
    with ensure_device(folder, 30) as client:
        assert client.identity().chain_id == CHAIN
        with pytest.raises(TrustedRefusal) as refused:
            client.provision(CHAIN, 2, 0, CFG, 0, 256)
        assert refused.value.code == "config"
        for bad in ((b"", 1, 0, CFG, 0, 256), (CHAIN, -1, 0, CFG, 0, 256), (CHAIN, 1, 0, CFG, 0, 0)):
            with pytest.raises(TrustedRefusal) as refused:
                client.provision(*bad)
            assert refused.value.code == "malformed"


def test_one_per_folder(folder: Path) -> None:
    with ensure_device(folder, 30) as client:
        pid = device_pid(folder)
        second = subprocess.run(
            [sys.executable, "-m", "tepbft.trusted.device", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert second.returncode == EXIT_RUNS_ALREADY and "runs in this folder already" in second.stderr
        with ensure_device(folder, 30) as same:
            assert same.identity() == client.identity() and device_pid(folder) == pid


def test_permissions(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with ensure_device(folder, 30):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        expected = {name: 0o600 for name in ("tc.sock", "tc.pid", "tc.log", "platform.json")}
        assert modes == expected
        pid = device_pid(folder)
        assert (folder / "tc.pid").read_text() == f"{pid}\n"
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
        assert os.getsid(pid or 0) == pid  # it outlives whoever started it
    stop_device(folder)
    assert stat.S_IMODE((folder / "sealed.bin").stat().st_mode) == 0o600


def test_hardening_makes_the_process_not_dumpable() -> None:
    program = (
        "import ctypes; from tepbft.trusted.device import harden; harden();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "0\n" and done.stderr == ""


def test_it_implements_the_port_as_the_component_itself(folder: Path) -> None:
    requests: list[TcRequest] = [
        Order(COMMIT, 0, 1, X),
        Order(COMMIT, 0, 1, Y),
        Order(COMMIT, 1 << 63, 2, Y),
        EnterView(1 << 64),
        Depart(-1, X),
        EnterView(3),
        Depart(3, X),
        Depart(4, X),
    ]
    inside = HbUsig.fresh()
    inside.provision(CHAIN, 1, 0, CFG, 0, 256)
    with provisioned(folder) as client:
        port: TrustedComponent = client
        expected = [inside.call(request) for request in requests]
        found = client.call_many(requests)
        for one, two in zip(expected, found, strict=True):
            assert type(one) is type(two)
            if isinstance(one, Refused) and isinstance(two, Refused):
                assert one.code == two.code
            elif not isinstance(one, Done | Refused):
                assert isinstance(two, Ui | DepartureUi) and one.seq == two.seq
        assert [type(answer) for answer in found] == [
            Ui,
            Refused,
            Refused,
            Refused,
            Refused,
            Done,
            Refused,
            DepartureUi,
        ]
        assert port.call(Depart(4, X)) == found[-1]
        many = client.call_many([EnterView(1)] * (2 * MAX_BATCH + 1))
        assert many == [Done()] * (2 * MAX_BATCH + 1)
        assert client.call_many([]) == []


def test_it_works_while_its_host_does_something_else(folder: Path) -> None:
    """ADR 0023: what was asked is answered later, in order, however many batches and mistakes there are."""
    wrong = Order(COMMIT, 0, 1, b"short")
    requests = [EnterView(1)] * (MAX_BATCH + 2) + [wrong]
    with provisioned(folder) as client:
        assert not client.outlives_host
        client.ask([wrong, *requests])
        found = client.answers()
        assert [type(answer) for answer in found] == [Refused, *[Done] * (MAX_BATCH + 2), Refused]
        client.ask(requests)
        os.kill(device_pid(folder) or 0, signal.SIGKILL)
        with pytest.raises(TepbftError, match="ended while it was being used"):
            client.answers()


def test_what_the_host_wrote_is_on_the_disk_before_a_sealed_state_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 0023: a state that remembers a signature never comes back without what was signed."""
    calls: list[str] = []
    monkeypatch.setattr("tepbft.trusted.device.os.sync", lambda: calls.append("sync"))
    monkeypatch.setattr("tepbft.trusted.device.write_durably", lambda path, data: calls.append(path.name))
    Device(HbUsig.fresh(), tmp_path).seal()
    assert calls == ["sync", SEALED_FILE]


HOSTILE = {
    "garbage": frame(b"\xc1" * 20),
    "empty": frame(b""),
    "huge": struct.pack("<I", MAX_REQUEST_BYTES + 1),
    "unknown": frame(b"\x91\x63"),
    "not canonical": frame(b"\x91\xcc\x01"),
    "trailing": frame(encode(AskIdentity()) + b"\x00"),
    "bounds": frame(encode(AskCalls([EnterView(1 << 63)]))),
}


def test_malformed_input_closes_that_connection_only_i25(folder: Path) -> None:
    with provisioned(folder) as client:
        for name, data in HOSTILE.items():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(folder / "tc.sock"))
                sock.sendall(data)
                assert sock.recv(1) == b"", name
            assert client.identity().node == 1
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(str(folder / "tc.sock"))
            half.sendall(frame(encode(AskIdentity()))[:3])
            assert client.identity().node == 1  # nobody waits for a slow sender
    assert (folder / "tc.log").read_text().count("malformed_request") == len(HOSTILE)


def test_a_reader_that_does_not_read_stops_nobody_else(folder: Path) -> None:
    """Replies wait in one bounded buffer; the others are served meanwhile (I-17)."""
    with provisioned(folder) as client:
        client.call_many([Order(COMMIT, 0, height, X) for height in range(1, 257)])
        client.call(Depart(1, X))
        request = frame(encode(AskCalls([Depart(1, X)] * 64)))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(folder / "tc.sock"))
            sock.setblocking(False)
            sent = 0
            try:
                while sent < 1000:
                    sock.send(request)
                    sent += 1
            except BlockingIOError:
                pass
            assert client.identity().view == 1
            assert sent > 0


def test_connections_are_bounded(folder: Path) -> None:
    with ensure_device(folder, 30) as client:
        others = []
        try:
            for _ in range(64):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(folder / "tc.sock"))
                others.append(sock)
            assert client.identity().seq == 0
        finally:
            for sock in others:
                sock.close()
        assert client.identity().seq == 0
        until(lambda: accepts(folder))


def accepts(folder: Path) -> bool:
    try:
        with DeviceClient(folder) as client:
            return client.identity().seq == 0
    except TepbftError:
        return False


def test_pipelined_requests_are_answered_in_order(folder: Path) -> None:
    with provisioned(folder), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(folder / "tc.sock"))
        sock.sendall(b"".join(frame(encode(AskCalls([Order(COMMIT, 0, h, X)]))) for h in range(1, 51)))
        data = b""
        seqs = []
        while len(seqs) < 50:
            data += sock.recv(1 << 16)
            while len(data) >= 4 and len(data) >= 4 + struct.unpack_from("<I", data)[0]:
                size = struct.unpack_from("<I", data)[0]
                reply = reply_codec.decode(data[4 : 4 + size])
                assert isinstance(reply, Answers)
                (answer,) = reply.answers
                assert isinstance(answer, Ui)
                seqs.append(answer.seq)
                data = data[4 + size :]
        assert seqs == list(range(1, 51))


def test_a_damaged_platform_is_a_cold_start(folder: Path) -> None:
    with ensure_device(folder, 30) as client:
        before = client.identity()
    stop_device(folder)
    (folder / "platform.json").write_bytes(b"{")
    with ensure_device(folder, 30) as client:
        assert not client.identity().warm and client.identity().tc_id != before.tc_id
    assert (folder / "platform.json.damaged").exists()


def test_long_paths_work() -> None:
    """A socket's name may have 108 bytes; a folder's path may not be so short."""
    parent = Path(tempfile.mkdtemp(prefix="tc"))
    folder = parent / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    try:
        with ensure_device(folder, 30) as client:
            assert client.identity().seq == 0
        stop_device(folder)
    finally:
        kill(folder)
        shutil.rmtree(parent)


def test_nobody_there_is_said_clearly(folder: Path) -> None:
    assert device_pid(folder) is None
    stop_device(folder)  # nothing to do
    with pytest.raises(TepbftError, match="does not run"):
        DeviceClient(folder)
    folder.mkdir()
    (folder / "tc.pid").write_text("1\n")  # left behind; process 1 is somebody else
    assert device_pid(folder) is None
    with pytest.raises(TepbftError, match="does not run"):
        DeviceClient(folder)
    (folder / "tc.pid").unlink()
    (folder / "tc.pid").mkdir()
    with pytest.raises(TepbftError, match="ended at once"):
        ensure_device(folder, 30)
    (folder / "tc.pid").rmdir()
    with pytest.raises(TepbftError, match="No such file"):
        ensure_device(folder / "no" / "where", 30)


def test_requests_have_one_encoding() -> None:
    for request in (AskIdentity(), AskCalls([Order(COMMIT, 0, 1, X), EnterView(2)])):
        assert request_codec.decode(encode(request)) == request
