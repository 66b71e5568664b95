"""Which client a command signs as.

A newer session of a client ends its older one (A-41), so two commands that run at the
same time must not be the same client. Each takes a lock on the client's file for as
long as it runs; without a name it takes the first client that is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tepbft.cli.processes import wait_until
from tepbft.errors import TepbftError

LEASE_TIMEOUT_S = 30.0


def _names(folder: Path) -> list[str]:
    found = sorted(path.stem for path in (folder / "clients").glob("*.json"))
    if not found:
        raise TepbftError(
            str(folder / "clients"), "there is no client file", "Name the folder that `tepbft init` made."
        )
    return found


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock; None if another command has it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TepbftError(
            f"client file {path}", f"it cannot be read ({error.strerror})", "Name a client of this cluster."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def lease_client(folder: Path, name: str | None) -> Iterator[str]:
    """The name of a client that is this command's alone inside the `with` block."""
    if name is not None and (not name or Path(name).name != name):
        raise TepbftError("--client", f"{name!r} is not a name", "Name a file in clients/.", exit_code=2)
    candidates = _names(folder) if name is None else [name]
    held: list[tuple[str, int]] = []

    def take() -> bool:
        for candidate in candidates:
            descriptor = _try_lock(folder / "clients" / f"{candidate}.json")
            if descriptor is not None:
                held.append((candidate, descriptor))
                return True
        return False

    if not wait_until(take, LEASE_TIMEOUT_S, 0.05):
        raise TepbftError(
            f"client {name}" if name else "the clients of this cluster",
            "in use by other commands",
            "Wait for them, or sign as another client: --client NAME",
        )
    chosen, descriptor = held[0]
    try:
        yield chosen
    finally:
        os.close(descriptor)
