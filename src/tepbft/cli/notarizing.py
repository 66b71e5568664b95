"""Registering files: find them, hash them, submit their digests in a pipeline, count what became of them."""

from __future__ import annotations

import asyncio
import fnmatch
import mimetypes
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.core.block import REFUSED
from tepbft.errors import TepbftError
from tepbft.execution.apps.notary import MAX_NAME_BYTES, Register, encode

IN_FLIGHT = 512
"""Files hashed and submitted whose outcome is not known yet."""
_ALREADY = "already registered"
Wrap = Callable[[bytes], bytes]
"""From an operation of the notary to one of the cluster's application."""


@dataclass
class Tally:
    """What became of the files."""

    registered: int = 0
    already: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def files(self) -> int:
        """All of them."""
        return self.registered + self.already + self.failed

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"files": self.files, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class File:
    """A file to register, and the name under which."""

    path: Path
    name: str


def plan_for(app: str) -> Wrap:
    """How the cluster's application takes the notary's operations; TepbftError if it does not."""
    from tepbft.cli.demo_app import APP_NAME, wrap_notary

    if app == "notary":
        return bytes
    if app == APP_NAME:
        return wrap_notary
    raise TepbftError(
        "notarize",
        f"the application of this cluster is {app}",
        "Make a cluster that notarizes: tepbft init DIR --nodes 3 --app notary",
    )


def _excluded(name: str, relative: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(relative, pattern) for pattern in patterns)


def _walk(folder: Path, patterns: Sequence[str]) -> Iterator[File]:
    """Regular files below `folder`, sorted; links are not followed, neither to files nor to folders."""
    for place, folders, names in os.walk(folder, followlinks=False):
        here = Path(place)
        kept = [
            name
            for name in sorted(folders)
            if not _excluded(name, (here / name).relative_to(folder).as_posix(), patterns)
        ]
        folders[:] = kept
        for name in sorted(names):
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if not _excluded(name, relative, patterns) and stat.S_ISREG(path.lstat().st_mode):
                yield File(path, f"{folder.name}/{relative}" if folder.name else relative)


def collect(paths: Iterable[Path], exclude: Sequence[str]) -> list[File]:
    """The regular files that `paths` stand for, each once; TepbftError for a path that is not there."""
    found: dict[Path, File] = {}
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise TepbftError(str(path), f"it cannot be read ({error.strerror})", "Check the path.") from None
        if stat.S_ISDIR(mode):
            # The folder's own name is part of what is registered, "." included.
            for file in _walk(path.resolve(), exclude):
                found.setdefault(file.path, file)
        elif stat.S_ISREG(mode):
            found.setdefault(path.resolve(), File(path.resolve(), path.name))
        else:
            raise TepbftError(
                str(path), "it is neither a file nor a folder", "Name what a symbolic link points to."
            )
    return list(found.values())


def register_operation(file: File) -> tuple[bytes, int]:
    """The notary's operation for a file, and the size that was hashed. OSError if it cannot be read."""
    with file.path.open("rb") as opened:
        digest = file_digest(opened, "sha256").digest()
        size = opened.tell()
    media_type = mimetypes.guess_type(file.path.name)[0] or "application/octet-stream"
    name = file.name.encode("utf-8", "backslashreplace")[-MAX_NAME_BYTES:].decode("utf-8", "ignore")
    return encode(Register(digest, name, size, media_type)), size


async def notarize_files(
    folder: Path,
    client: str,
    wrap: Wrap,
    files: Sequence[File],
    *,
    timeout_s: float,
    done: Callable[[], None] = lambda: None,
    each: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Tally:
    """Register all `files` as `client`. One that cannot be read or gets no outcome is counted as failed."""
    async with Client.open(folder, client, timeout_s=timeout_s) as opened:
        return await notarize_with(opened, wrap, files, done=done, each=each)


async def notarize_with(
    client: Client,
    wrap: Wrap,
    files: Sequence[File],
    *,
    done: Callable[[], None] = lambda: None,
    each: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Tally:
    """As `notarize_files`, with a client that is open."""
    tally = Tally()
    started = time.monotonic()
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(file: File) -> None:
        record: dict[str, Any] = {"path": str(file.path)}
        try:
            operation, size = await asyncio.to_thread(register_operation, file)
            outcome = await client.submit(wrap(operation))
            record |= _judged(outcome, size, tally)
        except (OSError, TepbftError) as error:
            tally.failed += 1
            record |= {"status": "failed", "reason": str(error)}
        finally:
            room.release()
        done()
        each(record)

    async with asyncio.TaskGroup() as group:
        for file in files:
            await room.acquire()
            group.create_task(one(file))
    tally.seconds = time.monotonic() - started
    return tally


def _judged(outcome: Outcome, size: int, tally: Tally) -> dict[str, Any]:
    """Count an outcome, and say what it means."""
    record = {"session": outcome.session, "seq": outcome.seq, "height": outcome.height}
    if outcome.ok:
        tally.registered += 1
        tally.bytes += size
        return {"status": "registered", **record}
    reason = outcome.result.decode("utf-8", "replace")
    if outcome.status == REFUSED and reason.startswith(_ALREADY):
        tally.already += 1
        return {"status": "already", "reason": reason, **record}
    tally.failed += 1
    return {"status": "failed", "reason": f"{outcome.status_name}: {reason}", **record}
