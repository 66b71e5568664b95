"""The software device: a trusted component in a process of its own.

    python -m tepbft.trusted.device FOLDER

It holds one key and its registers, listens on FOLDER/tc.sock, and outlives its node:
a node that crashes and comes back finds its component where it left it. SIGTERM and
SIGINT seal the state into FOLDER/sealed.bin and end the process; the next start
restores it (warm). Any other end loses the key, and the next start makes a new one
(cold): another component, which votes only after it was admitted (A8.2, I-20).

What this protects: a host process that was taken over cannot read the key (another
process, not dumpable, sealed files it may be kept from by `confine`) nor move the
registers back. What it does not: whoever controls the machine or its root account,
or sets the whole folder back while the component is stopped.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import resource
import selectors
import signal
import socket
import stat
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from tepbft.errors import PeerFault, TepbftError, TrustedRefusal
from tepbft.trusted.device_wire import (
    MAX_REQUEST_BYTES,
    PID_FILE,
    SEALED_FILE,
    SOCKET_FILE,
    Answers,
    AskCalls,
    AskIdentity,
    AskProvision,
    AskSeal,
    DeviceReply,
    DeviceRequest,
    Failed,
    Identified,
    Provisioned,
    Sealed,
    request_codec,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.kind import read_kind
from tepbft.trusted.sealing import (
    MAX_BLOB_BYTES,
    PLATFORM_FILE,
    FilePlatform,
    SealRefused,
    sync_folder,
    write_durably,
)
from tepbft.wire import LENGTH, encode, frame

EXIT_RUNS_ALREADY = 3
_PR_SET_DUMPABLE = 4
_MAX_CONNECTIONS = 32
_MAX_FAULT_LINES = 100
_READ_BYTES = 1 << 16
_UCRED = struct.Struct("3i")
_LAST_REPLY_TIMEOUT_S = 5.0


def log(event: str, **fields: object) -> None:
    """One line to standard error, which the launcher points at tc.log. Never a secret."""
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    details = "".join(f" {name}={value}" for name, value in fields.items())
    print(f"{when} {event}{details}", file=sys.stderr, flush=True)


# --- before the key exists ----------------------------------------------------------------------


def claim_folder(folder: Path) -> int:
    """Make `folder` private and take its lock: at most one component per folder.

    Returns the descriptor that holds the lock, and must stay open. The lock is a record
    lock on tc.pid, so that the kernel itself names the process that holds it.
    """
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise TepbftError(
            str(folder), "not a folder of this user", "Give the trusted component a folder of its own"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
        log("folder_made_private", mode=oct(found.st_mode & 0o777))
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(folder / PID_FILE, flags, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise TepbftError(
            str(folder),
            "a trusted component runs in this folder already",
            "Use that one, or stop it first",
            exit_code=EXIT_RUNS_ALREADY,
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def harden() -> None:
    """Keep the key out of core files and out of reach of other processes of this user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log("hardening_incomplete", what="PR_SET_DUMPABLE", errno=ctypes.get_errno())


def open_platform(folder: Path) -> FilePlatform:
    """The simulated platform; one that cannot be used is put aside and replaced (cold start)."""
    try:
        return FilePlatform(folder)
    except TepbftError as error:
        damaged = folder / (PLATFORM_FILE + ".damaged")
        (folder / PLATFORM_FILE).replace(damaged)
        log("platform_replaced", reason=error.reason, kept_as=damaged.name)
        return FilePlatform(folder)


def start_component(folder: Path, platform: FilePlatform) -> HbUsig:
    """Warm if `folder` holds a sealed state that may be restored, else cold, and says why."""
    path = folder / SEALED_FILE
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_BLOB_BYTES + 1)
    except FileNotFoundError:
        reason = "no sealed state"
    else:
        try:
            component = HbUsig.restore(blob, platform)
        except SealRefused as error:
            reason = error.reason
            path.replace(folder / (SEALED_FILE + ".refused"))
        else:
            path.unlink()  # useless from now on: the platform's counter has moved past it
            sync_folder(folder)
            log("warm_start", tc_id=component.identity().tc_id.hex(), seq=component.identity().seq)
            return component
    kind = read_kind(folder)
    component = HbUsig.fresh(platform, kind)
    log("cold_start", tc_id=component.identity().tc_id.hex(), key=kind, reason=repr(reason))
    return component


# --- requests -----------------------------------------------------------------------------------


class Device:
    """A component and the folder that it is sealed into. Knows nothing of sockets."""

    def __init__(self, component: HbUsig, folder: Path) -> None:
        self.component = component
        self.folder = folder
        self.ended = False
        """True once the component is halted: nothing is left to serve."""

    def seal(self) -> bytes:
        """Halt, and put the sealed state on disk. OSError if the disk refuses: the state is lost then.

        What the host wrote before it asked for a signature is on the disk before the state is that
        remembers the signature, whatever the host's process has forced itself (ADR 0023)."""
        self.ended = True
        blob = self.component.seal()
        os.sync()
        write_durably(self.folder / SEALED_FILE, blob)
        log("sealed", tc_id=self.component.identity().tc_id.hex(), seq=self.component.identity().seq)
        return blob

    def reply(self, request: DeviceRequest) -> DeviceReply:
        """Carry out one request."""
        match request:
            case AskCalls():
                return Answers([self.component.call(item) for item in request.requests])
            case AskIdentity():
                return Identified(self.component.identity())
            case AskProvision():
                return self._provision(request)
            case AskSeal():
                try:
                    return Sealed(self.seal())
                except OSError as error:
                    log("seal_failed", errno=error.errno, reason=repr(error.strerror))
                    return Failed("halted", f"the disk refused the sealed state: {error.strerror}"[:512])
            case _:
                assert_never(request)

    def _provision(self, request: AskProvision) -> DeviceReply:
        try:
            self.component.provision(
                request.chain_id,
                request.node,
                request.cfg,
                request.cfg_digest,
                request.floor,
                request.window,
            )
        except TrustedRefusal as refusal:
            return Failed(refusal.code, refusal.reason)
        return Provisioned()


class _Connection:
    """One host. It is read from only while nothing waits to be written to it: both buffers are bounded."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.unsent = memoryview(b"")

    def next_request(self) -> DeviceRequest | None:
        """The next complete request; PeerFault if what came is none."""
        if len(self.received) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(self.received)
        if size > MAX_REQUEST_BYTES:
            raise PeerFault("malformed", f"a request of {size} bytes")
        end = LENGTH.size + size
        if len(self.received) < end:
            return None
        data = bytes(self.received[LENGTH.size : end])
        del self.received[:end]
        return request_codec.decode(data)

    def flush(self) -> None:
        """Send what can be sent now."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            return


# --- the loop -----------------------------------------------------------------------------------


class Server:
    """Serves a device on a listening socket until it is sealed. One thread: calls are serial."""

    def __init__(self, device: Device, listener: socket.socket, stop: socket.socket) -> None:
        self._device = device
        self._listener = listener
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        self._open = 0
        self._faults = 0

    def run(self) -> None:
        """Until a request or a byte on `stop` ends it; the device is sealed then."""
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        while not self._device.ended:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._stop:
                    if not self._device.ended:
                        self._device.seal()
                else:
                    self._serve(key.data)
                if self._device.ended:
                    return

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        if uid not in (os.geteuid(), 0) or self._open >= _MAX_CONNECTIONS:
            self._fault("connection_refused", f"uid {uid}, {self._open} open")
            sock.close()
            return
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, _Connection(sock))
        self._open += 1

    def _serve(self, connection: _Connection) -> None:
        try:
            self._exchange(connection)
        except PeerFault as fault:
            self._fault("malformed_request", fault.detail)
            self._drop(connection)
        except OSError:  # it went away
            self._drop(connection)

    def _exchange(self, connection: _Connection) -> None:
        waited = bool(connection.unsent)
        if waited:
            connection.flush()
        else:
            data = connection.sock.recv(_READ_BYTES)
            if not data:
                self._drop(connection)
                return
            connection.received += data
        while not connection.unsent and not self._device.ended:
            request = connection.next_request()
            if request is None:
                break
            connection.unsent = memoryview(frame(encode(self._device.reply(request))))
            connection.flush()
        if self._device.ended:
            self._say_goodbye(connection)
        elif bool(connection.unsent) != waited:
            wanted = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
            self._selector.modify(connection.sock, wanted, connection)

    def _say_goodbye(self, connection: _Connection) -> None:
        """Deliver the last reply, within a time limit."""
        connection.sock.settimeout(_LAST_REPLY_TIMEOUT_S)
        connection.sock.sendall(connection.unsent)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._open -= 1

    def _fault(self, event: str, detail: str) -> None:
        self._faults += 1
        if self._faults <= _MAX_FAULT_LINES:
            log(event, detail=repr(detail))


def _listen() -> socket.socket:
    """Listen on tc.sock in the current folder: a relative name, which is short enough for any folder."""
    Path(SOCKET_FILE).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET_FILE)
    os.chmod(SOCKET_FILE, 0o600)
    listener.listen(_MAX_CONNECTIONS)
    listener.setblocking(False)
    return listener


def run_device(folder: Path) -> None:
    """Be the trusted component of `folder` until sealed. TepbftError if it cannot begin."""
    os.umask(0o077)
    try:
        os.chdir(folder)
    except OSError as error:
        raise TepbftError(
            str(folder), error.strerror or "cannot be opened", "Make this folder, with mode 0700"
        ) from None
    here = Path(".")
    lock = claim_folder(here)
    harden()
    stopped, stop_writer = socket.socketpair()
    stop_writer.setblocking(False)
    signal.set_wakeup_fd(stop_writer.fileno())  # before restoring: what is restored must be sealed again
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    device = Device(start_component(here, open_platform(here)), here)
    listener = _listen()
    log("ready", pid=os.getpid())
    try:
        Server(device, listener, stopped).run()
    finally:
        Path(SOCKET_FILE).unlink(missing_ok=True)
        listener.close()
        os.ftruncate(lock, 0)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code is 0 after sealing, 3 if one runs already, else 1."""
    parser = argparse.ArgumentParser(prog="tepbft.trusted.device", description="A software trusted component")
    parser.add_argument("folder", type=Path, help="its own folder, mode 0700")
    folder: Path = parser.parse_args(arguments).folder
    try:
        run_device(folder)
    except TepbftError as error:
        log("cannot_start", problem=repr(str(error)))
        return error.exit_code
    except OSError as error:
        log("failed", folder=folder, problem=repr(str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
