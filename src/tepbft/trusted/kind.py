"""Which kind of key a component makes when it has none: a word in its folder, which outlives its state.

Without the file it is the default. A component that comes back keeps the key that it was sealed with.
"""

from __future__ import annotations

from pathlib import Path

from tepbft.errors import TepbftError
from tepbft.trusted.keys import DEFAULT_KIND, KINDS, KeyKind
from tepbft.trusted.sealing import write_durably

KIND_FILE = "key.kind"
_MAX_BYTES = 64


def write_kind(folder: Path, kind: KeyKind) -> None:
    """Let components that start in `folder` without a state make keys of this kind."""
    write_durably(folder / KIND_FILE, f"{kind}\n".encode())


def read_kind(folder: Path) -> KeyKind:
    """The kind that `folder` asks for; TepbftError if its file names none."""
    path = folder / KIND_FILE
    try:
        with path.open("rb") as file:
            word = file.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return DEFAULT_KIND
    for kind in KINDS:
        if word == kind:
            return kind
    raise TepbftError(
        str(path),
        f"{word!r} is no kind of key",
        f"Write one of {', '.join(KINDS)} there, or remove the file.",
    )
