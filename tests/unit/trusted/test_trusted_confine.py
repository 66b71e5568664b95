"""A confined process cannot open its component's files, and can do everything else that a node does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tepbft.trusted.client import device_pid, ensure_device, stop_device
from tepbft.trusted.confine import confine_replica

pytestmark = pytest.mark.cluster

PROGRAM = """
import json, os, subprocess, sys, threading
from pathlib import Path
from tepbft.trusted.client import DeviceClient
from tepbft.trusted.confine import confine_replica

node, pid = Path(sys.argv[1]), int(sys.argv[2])
secret, store = node / "trusted", node / "store"
sentence = confine_replica(secret)

def works(action):
    try:
        action()
    except (OSError, RuntimeError):
        return False
    return True

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(works((secret / "platform.json").read_bytes)))
    thread.start()
    thread.join()
    if not found[0]:
        raise RuntimeError

def use_store():
    (store / "a").write_bytes(b"1")
    (store / "sub").mkdir()
    (store / "a").rename(store / "sub" / "b")
    os.truncate(store / "sub" / "b", 0)
    (store / "sub" / "b").unlink()

print(json.dumps({
    "sentence": sentence,
    "denied": {
        "read": works((secret / "platform.json").read_bytes),
        "write": works(lambda: (secret / "platform.json").write_bytes(b"")),
        "truncate": works(lambda: os.truncate(secret / "platform.json", 0)),
        "make": works(lambda: (secret / "sealed.bin").write_bytes(b"")),
        "link out": works(lambda: os.link(secret / "platform.json", store / "stolen")),
        "move out": works(lambda: os.rename(secret / "platform.json", store / "stolen")),
        "move in": works(lambda: os.rename(store / "mine", secret / "sealed.bin")),
        "memory": works(lambda: open(f"/proc/{pid}/mem", "rb").close()),
        "thread": works(in_thread),
    },
    "allowed": {
        "socket": works(lambda: DeviceClient(secret).identity()),
        "store": works(use_store),
        "log": works(lambda: (node / "node.log").write_text("hello")),
        "null": works(lambda: Path("/dev/null").write_bytes(b"x")),
        "proc": works(lambda: Path("/proc/self/status").read_text()),
        "start": works(lambda: subprocess.run(["true"], check=True)),
    },
}))
"""


def test_confined() -> None:
    node = Path(tempfile.mkdtemp(prefix="tc"))
    try:
        (node / "store").mkdir()
        (node / "store" / "mine").write_bytes(b"forged")
        (node / "node.log").write_text("")
        ensure_device(node / "trusted", 30).close()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(node), str(device_pid(node / "trusted"))],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found = json.loads(done.stdout)
        assert all(found["allowed"].values()), found
        if "Landlock is in force" not in found["sentence"]:
            assert "only file permissions" in found["sentence"]
            pytest.skip(found["sentence"])
        assert not any(found["denied"].values()), found
    finally:
        stop_device(node / "trusted")
        shutil.rmtree(node)


def test_with_threads_or_without_a_folder_nothing_is_promised(tmp_path: Path) -> None:
    """Neither call may confine this process; both say so in one sentence."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        for folder in (tmp_path, tmp_path / "none"):
            sentence = confine_replica(folder)
            assert "only file permissions" in sentence and sentence.count(". ") == 0
    finally:
        done.set()
        thread.join()
    (tmp_path / "file").write_text("still writable")
