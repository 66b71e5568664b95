"""Sealing: a component's state outside of it, good for exactly one restart (A8.1, F-19).

A platform offers a sealing key and a monotonic counter. `seal` moves the counter to
C and encrypts the state under the key with C as associated data; `restore` accepts a
blob only while the counter still says C, and moves the counter on *before* anybody
may run what was restored. Without that, the same blob could be restored again after
a crash, and a register be signed twice.

The platform that ships is simulated: key and counter are a file of the component's
folder. It keeps an honest operator from mistakes (restoring a backup of a blob,
starting one twice, moving it to another node). It does *not* withstand somebody who
copies or sets back the whole folder while the component is stopped: only a counter
in hardware would.
"""

from __future__ import annotations

import os
import secrets
import struct
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from tepbft.errors import TepbftError

PLATFORM_FILE = "platform.json"
MAX_BLOB_BYTES = 1 << 20
_KEY_BYTES = 32
_COUNTER_LIMIT = 1 << 63
_MAGIC = b"TEPSEAL1"
_COUNTER = struct.Struct("<Q")
_HEAD_BYTES = len(_MAGIC) + _COUNTER.size


class SealRefused(TepbftError):
    """A sealed state must not be restored; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "sealed state",
            reason,
            "The component starts with a new key, and this node must be given a new member entry "
            "(replace its trusted component) before it votes again",
        )


class Platform(Protocol):
    """What sealing rests on. `advance` must be durable when it returns."""

    def sealing_key(self) -> bytes:
        """32 bytes that only this platform's components ever see."""
        ...

    def counter(self) -> int:
        """The monotonic counter."""
        ...

    def advance(self) -> int:
        """Increment the counter, durably, and return its new value."""
        ...


class MemoryPlatform:
    """A platform that lasts as long as this object: for components in one process."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key if key is not None else secrets.token_bytes(_KEY_BYTES)
        self._counter = 0

    def sealing_key(self) -> bytes:
        """See `Platform`."""
        return self._key

    def counter(self) -> int:
        """See `Platform`."""
        return self._counter

    def advance(self) -> int:
        """See `Platform`."""
        self._counter += 1
        return self._counter


class _PlatformFile(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    """Hexadecimal."""
    counter: int


class FilePlatform:
    """A simulated platform in `folder`/platform.json (0600), made on first use.

    `TepbftError` if the file exists but cannot be read or is not one: its counter is
    then unknown, and nothing sealed under it can be restored.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PLATFORM_FILE
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._key, self._counter = secrets.token_bytes(_KEY_BYTES), 0
            self._write(0)
            return
        except OSError as error:
            raise self._broken(error.strerror or "cannot be read") from None
        try:
            content = msgspec.json.decode(data, type=_PlatformFile)
            self._key, self._counter = bytes.fromhex(content.key), content.counter
        except (msgspec.DecodeError, ValueError):
            raise self._broken("not a platform file") from None
        if len(self._key) != _KEY_BYTES or not 0 <= self._counter < _COUNTER_LIMIT:
            raise self._broken("not a platform file")

    def _broken(self, reason: str) -> TepbftError:
        return TepbftError(
            str(self._path),
            reason,
            "Move it away to start the component with a new key; what was sealed under it is lost",
        )

    def _write(self, counter: int) -> None:
        content = _PlatformFile(self._key.hex(), counter)
        write_durably(self._path, msgspec.json.encode(content) + b"\n")

    def sealing_key(self) -> bytes:
        """See `Platform`."""
        return self._key

    def counter(self) -> int:
        """See `Platform`."""
        return self._counter

    def advance(self) -> int:
        """See `Platform`; OSError if the disk refuses, and then the counter has not moved here."""
        self._write(self._counter + 1)
        self._counter += 1
        return self._counter


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data` (0600) at once: written, synced, renamed, and the folder synced."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _nonce(counter: int) -> bytes:
    """One nonce per counter value: the counter never repeats under one key."""
    return counter.to_bytes(12, "little")


def seal(state: bytes, platform: Platform) -> bytes:
    """`state` encrypted for the platform's next counter value, which it now has.

    The caller has halted the component before. OSError if the counter cannot be moved.
    """
    counter = platform.advance()
    head = _MAGIC + _COUNTER.pack(counter)
    return head + AESGCM(platform.sealing_key()).encrypt(_nonce(counter), state, head)


def restore(blob: bytes, platform: Platform) -> bytes:
    """The state in `blob`, once: when this returns, the counter has moved past it, durably.

    `SealRefused` for a blob that is malformed, altered, of another platform, old, or used.
    """
    if not _HEAD_BYTES < len(blob) <= MAX_BLOB_BYTES or blob[: len(_MAGIC)] != _MAGIC:
        raise SealRefused("it is not a sealed state")
    head = blob[:_HEAD_BYTES]
    (counter,) = _COUNTER.unpack_from(blob, len(_MAGIC))
    try:
        state = AESGCM(platform.sealing_key()).decrypt(_nonce(counter), blob[_HEAD_BYTES:], head)
    except InvalidTag:
        raise SealRefused("it was altered, or sealed on another platform") from None
    if counter != platform.counter():
        raise SealRefused(
            f"it was sealed at counter {counter} and the platform is at {platform.counter()}: "
            "it is old, or was restored before"
        )
    platform.advance()
    return state
