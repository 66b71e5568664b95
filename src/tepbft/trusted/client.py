"""A host's way to its trusted component's process: connect, call, start, find, stop."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tepbft.errors import PeerFault, TepbftError, TrustedRefusal
from tepbft.trusted.device_wire import (
    LOG_FILE,
    MAX_BATCH,
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
    reply_codec,
    request_codec,
)
from tepbft.trusted.port import Identity, Refused, TcAnswer, TcRequest
from tepbft.types import MAX_FRAME_BYTES
from tepbft.wire import LENGTH, encode, frame

_TIMEVAL = struct.Struct("@ll")
_FLOCK = struct.Struct("@hhqqi4x")
_UCRED = struct.Struct("3i")
_READ_BYTES = 1 << 16
_REPLY_TIMEOUT_S = 30
_LOG_TAIL_BYTES = 2000
_MALFORMED = Refused("malformed", "a request out of bounds")

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Components that this process started: remembered so that ended ones are reaped."""


def _encoded(request: DeviceRequest) -> bytes | None:
    """The request's bytes, if the component will read them as they were meant, and not hang up."""
    try:
        data = encode(request)
        request_codec.decode(data)
    except (PeerFault, OverflowError, TypeError):
        return None
    return data


def _batches(requests: list[TcRequest]) -> list[tuple[bytes | None, int]]:
    """What is asked in one go each, with the number of requests; None for one that is out of bounds."""
    batches: list[tuple[bytes | None, int]] = []
    for start in range(0, len(requests), MAX_BATCH):
        batch = requests[start : start + MAX_BATCH]
        question = _encoded(AskCalls(batch))
        if question is not None:
            batches.append((question, len(batch)))
        else:
            batches += [(_encoded(AskCalls([request])), 1) for request in batch]
    return batches


class DeviceClient:
    """A synchronous `TrustedComponent` behind the Unix socket of `folder`.

    Every method raises TepbftError when the component is not there any more. There is
    no reconnecting behind the caller's back: another component may answer next time.
    For one thread.
    """

    outlives_host = False
    """A power failure that takes what this host has not forced to its disk takes the process too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._received = bytearray()
        self._asked: list[tuple[bytes | None, int]] = []
        """Batches that are not answered yet; the first one was handed over."""
        self._sock = _connect(folder)

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The component stays."""
        self._sock.close()

    def identity(self) -> Identity:
        """Who it is and where its registers stand."""
        reply = self._ask(encode(AskIdentity()))
        if not isinstance(reply, Identified):
            raise self._confused(reply)
        return reply.identity

    def provision(
        self, chain_id: bytes, node: int, cfg: int, cfg_digest: bytes, floor: int, window: int
    ) -> None:
        """See `TrustedComponent.provision`."""
        question = _encoded(AskProvision(chain_id, node, cfg, cfg_digest, floor, window))
        if question is None:
            raise TrustedRefusal(_MALFORMED.code, _MALFORMED.reason)
        reply = self._ask(question)
        if not isinstance(reply, Provisioned):
            raise self._confused(reply)

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request."""
        return self.call_many([request])[0]

    def call_many(self, requests: list[TcRequest]) -> list[TcAnswer]:
        """Carry out requests in order; answers in the same order. One round trip per 1024.

        A request out of bounds is answered `malformed` here, as the component itself would.
        """
        self.ask(requests)
        return self.answers()

    def ask(self, requests: list[TcRequest]) -> None:
        """Hand over requests: the component works while the caller does something else. The next call
        must be `answers`."""
        self._asked = _batches(requests)
        self._hand_over()

    def answers(self) -> list[TcAnswer]:
        """The answers to what was asked, as `call_many` gives them."""
        answers: list[TcAnswer] = []
        while self._asked:
            question, count = self._asked[0]
            if question is None:
                answers.append(_MALFORMED)
            else:
                reply = self._reply()
                if not isinstance(reply, Answers) or len(reply.answers) != count:
                    raise self._confused(reply)
                answers += reply.answers
            del self._asked[0]
            self._hand_over()
        return answers

    def _hand_over(self) -> None:
        question = self._asked[0][0] if self._asked else None
        if question is not None:
            self._send(question)

    def seal(self) -> bytes:
        """Seal the component into its folder, which ends its process; the blob."""
        reply = self._ask(encode(AskSeal()))
        if not isinstance(reply, Sealed):
            raise self._confused(reply)
        return reply.blob

    def _ask(self, question: bytes) -> DeviceReply:
        self._send(question)
        return self._reply()

    def _send(self, question: bytes) -> None:
        try:
            self._sock.sendall(frame(question))
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: OSError | EOFError) -> TepbftError:
        self._sock.close()  # a late reply must never be taken for the next one
        slow = isinstance(error, BlockingIOError)
        reason = "does not answer" if slow else "ended while it was being used"
        return TepbftError(f"trusted component in {self._folder}", reason, f"Look into its {LOG_FILE}")

    def _reply(self) -> DeviceReply:
        try:
            data = self._receive()
        except (OSError, EOFError) as error:
            raise self._gone(error) from None
        try:
            return reply_codec.decode(data)
        except PeerFault as fault:
            raise TepbftError(
                f"trusted component in {self._folder}",
                f"answered with something malformed ({fault.detail})",
                "Run the same version of the program for node and component",
            ) from None

    def _receive(self) -> bytes:
        received = self._received
        wanted = LENGTH.size
        while True:
            if len(received) >= wanted:
                (size,) = LENGTH.unpack_from(received)
                if size > MAX_FRAME_BYTES:
                    raise EOFError
                wanted = LENGTH.size + size
                if len(received) >= wanted:
                    data = bytes(received[LENGTH.size : wanted])
                    del received[:wanted]
                    return data
            chunk = self._sock.recv(_READ_BYTES)
            if not chunk:
                raise EOFError
            received += chunk

    def _confused(self, reply: DeviceReply) -> Exception:
        if isinstance(reply, Failed):
            return TrustedRefusal(reply.code, reply.reason)
        return TepbftError(
            f"trusted component in {self._folder}",
            f"answered a question that was not asked ({type(reply).__name__})",
            "Run the same version of the program for node and component",
        )


def _connect(folder: Path) -> socket.socket:
    """A blocking connection to the component of `folder`, however long that path is."""
    thing = f"trusted component in {folder}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{handle}/{SOCKET_FILE}")
        finally:
            os.close(handle)
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"it belongs to another user (uid {uid})")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_REPLY_TIMEOUT_S, 0))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        raise _NotRunning(thing) from None
    except PermissionError as error:
        sock.close()
        raise TepbftError(
            thing, f"not permitted: {error.strerror}", "Run as the user that the component runs as"
        ) from None
    except OSError as error:
        sock.close()
        raise TepbftError(thing, error.strerror or "cannot connect", f"Look into its {LOG_FILE}") from None
    return sock


class _NotRunning(TepbftError):
    """Nobody listens in a component's folder."""

    def __init__(self, thing: str) -> None:
        super().__init__(thing, "it does not run", "Start it (the node's launcher does), then try again")


# --- the process ----------------------------------------------------------------------------------


def device_pid(folder: Path) -> int | None:
    """Process number of the component that runs in `folder`, None if none does.

    The kernel names the holder of the lock on tc.pid: a number left behind is never returned.
    """
    try:
        handle = os.open(folder / PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise TepbftError(
            str(folder / PID_FILE),
            f"not permitted: {error.strerror}",
            "Ask as the component's user, not from its node",
        ) from None
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, question))
        if kind == fcntl.F_UNLCK:
            return None
        if pid > 0:
            return int(pid)
        text = os.read(handle, 32).strip()  # held from outside this PID namespace: believe the file
        return int(text) if text.isdigit() else None
    finally:
        os.close(handle)


def ensure_device(folder: Path, timeout_s: float = 10.0) -> DeviceClient:
    """Connect to the component of `folder`; start one first if none runs.

    The process is in a session of its own and outlives this one; its output goes to
    tc.log. Whether it came up warm or cold is in `identity().warm`. TepbftError if it is
    not ready within `timeout_s`.
    """
    folder = folder.resolve()
    try:
        return DeviceClient(folder)
    except _NotRunning:
        pass
    process: subprocess.Popen[bytes] | None = None
    if device_pid(folder) is None:
        process = _start(folder)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return DeviceClient(folder)
        except _NotRunning:
            ended = process is not None and process.poll() is not None
            if ended and device_pid(folder) is None:
                raise _did_not_start(folder, "ended at once") from None
            if time.monotonic() >= deadline:
                raise _did_not_start(folder, f"not ready after {timeout_s:g} s") from None
        time.sleep(0.01)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    _reap()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TepbftError(
            str(folder), error.strerror or "cannot be made", "Give the trusted component a folder"
        ) from None
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tepbft.trusted.device", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
            cwd="/",
        )
    finally:
        os.close(log)
    _children[process.pid] = process
    return process


def _reap() -> None:
    for pid, process in list(_children.items()):
        if process.poll() is not None:
            _children.pop(pid, None)  # another thread may have been quicker


def _did_not_start(folder: Path, reason: str) -> TepbftError:
    try:
        tail = (folder / LOG_FILE).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        last = tail.strip().rsplit("\n", 1)[-1]
    except OSError:
        last = ""
    return TepbftError(
        f"trusted component in {folder}",
        reason + (f"; its last words: {last}" if last else ""),
        f"Look into its {LOG_FILE}",
    )


def stop_device(folder: Path, timeout_s: float = 60.0) -> None:
    """Have the component of `folder` seal itself and end; no-op if none runs. It waits for the disks first.

    TepbftError if it does not end in time, or ended without leaving a sealed state.
    """
    pid = device_pid(folder)
    if pid is None:
        return
    thing = f"trusted component in {folder} (process {pid})"
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if device_pid(folder) != pid:  # the descriptor may be of a newcomer with the same number
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            raise TepbftError(thing, f"did not end within {timeout_s:g} s", f"Look into its {LOG_FILE}")
    except PermissionError:
        raise TepbftError(thing, "it belongs to another user", "Run as the component's user") from None
    finally:
        os.close(handle)
    _reap()
    if not (folder / SEALED_FILE).exists():
        raise TepbftError(
            thing,
            "it ended without a sealed state, so it will start with a new key",
            f"Look into its {LOG_FILE}, and replace this node's trusted component",
        )
