"""Which files are registered, under which names, and how outcomes are counted."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from tepbft.cli.demo_app import APP_NAME
from tepbft.cli.notarizing import Tally, _judged, collect, plan_for, register_operation
from tepbft.client.events import Outcome
from tepbft.core.block import OK, REFUSED, STALE
from tepbft.errors import TepbftError
from tepbft.execution.apps.notary import MAX_NAME_BYTES, Register
from tepbft.execution.apps.notary import _decoder as notary_decoder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files, a hidden folder, a link to a file, a link to a folder and a pipe."""
    root = tmp_path / "tree"
    for name in ("b.txt", "a.txt", "sub/c.py", "sub/c.pyc", ".git/HEAD", "sub/deep/d"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "link").symlink_to(root / "a.txt")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    return root


def names(tree: Path, *exclude: str) -> list[str]:
    return [file.name for file in collect([tree], exclude)]


def test_a_folder_is_taken_whole_and_in_order(tree: Path) -> None:
    """Everything regular, hidden things too; links and pipes are not followed."""
    assert names(tree) == [
        "tree/a.txt",
        "tree/b.txt",
        "tree/.git/HEAD",
        "tree/sub/c.py",
        "tree/sub/c.pyc",
        "tree/sub/deep/d",
    ]


def test_excludes_match_names_and_paths(tree: Path) -> None:
    assert names(tree, ".git", "*.pyc", "sub/deep") == ["tree/a.txt", "tree/b.txt", "tree/sub/c.py"]


def test_every_file_once(tree: Path) -> None:
    assert len(collect([tree, tree / "a.txt", tree], [])) == 6


def test_a_link_or_a_missing_path_is_refused_by_name(tree: Path) -> None:
    with pytest.raises(TepbftError, match="symbolic link"):
        collect([tree / "link"], [])
    with pytest.raises(TepbftError, match="nothing-here"):
        collect([tree / "nothing-here"], [])


def test_what_is_registered_is_the_digest_of_the_content(tree: Path) -> None:
    file = collect([tree / "a.txt"], [])[0]
    encoded, size = register_operation(file)
    operation = notary_decoder.decode(encoded)
    assert operation == Register(sha256(b"a.txt").digest(), "a.txt", 5, "text/plain")
    assert size == 5


def test_long_names_keep_their_end(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["x" * 200] * 12, "file")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    file = collect([tmp_path], [])[0]
    operation = notary_decoder.decode(register_operation(file)[0])
    assert isinstance(operation, Register)
    assert operation.name.endswith("/file") and len(operation.name.encode()) <= MAX_NAME_BYTES


def test_already_registered_is_no_failure() -> None:
    tally = Tally()
    cases = [
        (OK, b"", "registered"),
        (REFUSED, b"already registered by client aa at height 1", "already"),
        (REFUSED, b"the name or media type is too long", "failed"),
        (STALE, b"", "failed"),
    ]
    for seq, (status, result, expected) in enumerate(cases):
        outcome = Outcome(1, seq, 5, status, result, b"", (0,), 1.0)
        assert _judged(outcome, 10, tally)["status"] == expected
    assert (tally.registered, tally.already, tally.failed, tally.bytes) == (1, 1, 2, 10)
    assert tally.record()["files"] == 4


def test_only_clusters_that_notarize_are_accepted() -> None:
    assert plan_for("notary")(b"op") == b"op"
    assert plan_for(APP_NAME)(b"op") == b"Nop"
    with pytest.raises(TepbftError, match="--app notary"):
        plan_for("kv")
