"""Starts the trusted component's process on behalf of a node that may not do so itself.

A confined node (`trusted.confine`) has given up the component's folder for good, and so has
everything that it would start. The launcher is forked off before, does one thing when asked
to, and ends with the node.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from tepbft.errors import TepbftError
from tepbft.trusted.client import DeviceClient, ensure_device

START_TIMEOUT_S = 30.0
_MAX_ANSWER_BYTES = 1 << 16
_OK = b"ok"


class Launcher:
    """A forked helper. Make it before threads and the event loop exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                _serve(folder, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._sock = ours
        self._sock.settimeout(2 * START_TIMEOUT_S)

    def open_device(self) -> DeviceClient:
        """A connection to the component, which is started if it does not run. Blocks; TepbftError
        (as from `ensure_device`) if it cannot be had."""
        try:
            self._sock.send(b"start")
            answer = self._sock.recv(_MAX_ANSWER_BYTES)
        except OSError as error:
            answer = str(error).encode()
        if answer != _OK:
            thing, _, rest = answer.decode("utf-8", "replace").partition("\0")
            reason, _, remedy = rest.partition("\0")
            raise TepbftError(
                thing or f"trusted component in {self._folder}",
                reason or "the helper that starts it is gone",
                remedy or "Start the node anew.",
            )
        return DeviceClient(self._folder)

    def close(self) -> None:
        """End the helper; the component stays."""
        self._sock.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return


def _serve(folder: Path, sock: socket.socket) -> None:
    """The helper's life: ends when the node's end of `sock` is gone, and for no other reason."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sock.recv(64):
        try:
            ensure_device(folder, START_TIMEOUT_S).close()
            answer = _OK
        except TepbftError as error:
            answer = "\0".join((error.thing, error.reason, error.remedy)).encode()[:_MAX_ANSWER_BYTES]
        except Exception as error:
            answer = f"trusted component in {folder}\0{type(error).__name__}: {error}\0".encode()
        sock.send(answer[:_MAX_ANSWER_BYTES])
