"""The folder of one store: who may open it, what it is, and how it was left.

`FORMAT` names the format and the chain. `lock` is held while a process has the store
open. `store.manifest` exists only while the store is closed cleanly: it lists every
file with size and SHA-256 (for the journal, which checks itself, where it ends), so
that an audit sees a changed byte even in files that nothing else checks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tepbft.crypto.hash import digest
from tepbft.errors import TepbftError
from tepbft.storage.errors import FETCH_AGAIN, StoreDamaged
from tepbft.storage.files import replace_durably, sync_folder, write_durably
from tepbft.storage.segments import Position

FORMAT = 1
FORMAT_FILE, LOCK_FILE, MANIFEST_FILE, CREATING_FILE = "FORMAT", "lock", "store.manifest", "CREATING"
JOURNAL, STATE, SNAPSHOTS = "journal", "state", "snapshots"
_CONTENTS = (JOURNAL, STATE, SNAPSHOTS)
_TRAILER_BYTES = 65


class _Format(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    chain_id: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """How a store was left. `files`: path inside the store -> (size, SHA-256 in hex)."""

    format: int
    chain_id: str
    journal_end: tuple[int, int, int]
    """Segment, byte offset and chain value at the end of the journal."""
    files: Annotated[dict[str, tuple[int, str]], Meta(max_length=1 << 20)]


def _format_bytes(chain_id: bytes) -> bytes:
    return msgspec.json.encode(_Format(FORMAT, chain_id.hex())) + b"\n"


def check_format(folder: Path, chain_id: bytes) -> None:
    """Refuse a folder of another chain, of a newer program, or whose FORMAT file is gone."""
    path = folder / FORMAT_FILE
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=_Format)
    except FileNotFoundError:
        raise StoreDamaged(path, None, "the file is missing, and the folder is not empty") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise StoreDamaged(path, None, f"it is not what tepbft writes there ({error})") from None
    if found.format > FORMAT:
        raise TepbftError(
            str(folder),
            f"its format is {found.format}, this program knows up to {FORMAT}",
            "Use the version of tepbft that wrote it, or a newer one",
        )
    if found.chain_id != chain_id.hex() and len(found.chain_id) == 64:
        raise TepbftError(
            str(folder),
            f"it holds chain {found.chain_id[:16]}…, and this node belongs to {chain_id.hex()[:16]}…",
            "Start the node with the genesis file that this folder was made for, or use another folder",
        )
    if data != _format_bytes(chain_id):
        raise StoreDamaged(path, 0, "it is not what tepbft writes there")


def begin_creation(folder: Path) -> bool:
    """Prepare a folder that has no store yet, or whose creation a crash interrupted; False if it has one."""
    if (folder / FORMAT_FILE).exists():
        (folder / CREATING_FILE).unlink(missing_ok=True)
        return False
    if (folder / CREATING_FILE).exists():
        for name in _CONTENTS:  # nothing can have been appended before FORMAT was written
            shutil.rmtree(folder / name, ignore_errors=True)
    elif any((folder / name).exists() for name in _CONTENTS):
        return False
    write_durably(folder / CREATING_FILE, [])
    for name in _CONTENTS:
        (folder / name).mkdir(mode=0o700)
    sync_folder(folder)
    return True


def finish_creation(folder: Path, chain_id: bytes) -> None:
    """The store is complete: from now on nothing of it may be missing."""
    for name in _CONTENTS:
        sync_folder(folder / name)
    replace_durably(folder / FORMAT_FILE, [_format_bytes(chain_id)])
    (folder / CREATING_FILE).unlink()
    sync_folder(folder)


class FolderLock:
    """An exclusive lock on a store folder, gone when its process is. The file stays empty."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise TepbftError(
                str(folder),
                "another process has this store open",
                "Stop the node that runs on this folder first; one node never runs twice",
            ) from None

    def release(self) -> None:
        """Let others open the store. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_locked(folder: Path) -> bool:
    """True iff a process has the store open. Leaves no trace."""
    try:
        fd = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _listed_files(folder: Path) -> Iterator[Path]:
    """Every file of the store whose bytes the manifest has to vouch for, sorted."""
    yield folder / FORMAT_FILE
    for name in (STATE, SNAPSHOTS):
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _fingerprint(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, chain_id: bytes, end: Position) -> None:
    """Record how the store is left. Call when nothing writes any more."""
    files = {str(path.relative_to(folder)): _fingerprint(path) for path in _listed_files(folder)}
    data = msgspec.json.encode(Manifest(FORMAT, chain_id.hex(), (end.segment, end.offset, end.chain), files))
    replace_durably(folder / MANIFEST_FILE, [data, b"\n", digest(data).hex().encode(), b"\n"])


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest, its own bytes checked; None if the store was not closed cleanly."""
    path = folder / MANIFEST_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    data = content[: -_TRAILER_BYTES - 1]
    if content != data + b"\n" + digest(data).hex().encode() + b"\n":
        raise StoreDamaged(path, 0, "it does not match the checksum at its end")
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise StoreDamaged(path, 0, f"it is malformed ({error})") from None


def compare_files(folder: Path, manifest: Manifest, *, contents: bool) -> list[tuple[str, str]]:
    """(file, what is wrong) for everything that differs from the manifest.

    With `contents` False only names and sizes are compared, which costs no reading.
    """
    wrong = []
    present = {str(path.relative_to(folder)): path for path in _listed_files(folder) if path.exists()}
    for name, (size, checksum) in manifest.files.items():
        path = present.pop(name, None)
        if path is None:
            wrong.append((name, "the file is missing"))
        elif path.stat().st_size != size:
            wrong.append((name, f"it has {path.stat().st_size} bytes and had {size} when the node stopped"))
        elif contents and _fingerprint(path)[1] != checksum:
            wrong.append((name, "its bytes changed after the node stopped"))
    wrong += [(name, "it was not there when the node stopped") for name in sorted(present)]
    return wrong


def take_manifest(folder: Path) -> Manifest | None:
    """Check a manifest's names and sizes while opening a store. The caller removes the file."""
    manifest = read_manifest(folder)
    if manifest is not None:
        for name, what in compare_files(folder, manifest, contents=False):
            raise StoreDamaged(folder / name, None, what, FETCH_AGAIN)
    return manifest
