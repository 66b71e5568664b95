"""Sealing: once, here, unaltered, or not at all (A8.1, F-19)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.errors import TepbftError, TrustedRefusal
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import COMMIT, Order, Refused
from tepbft.trusted.sealing import (
    MAX_BLOB_BYTES,
    PLATFORM_FILE,
    FilePlatform,
    MemoryPlatform,
    Platform,
    SealRefused,
    restore,
    seal,
)

STATE = b"registers" * 10


@pytest.fixture(params=["memory", "file"])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Platform:
    return MemoryPlatform() if request.param == "memory" else FilePlatform(tmp_path)


def test_round_trip_and_the_blob_does_not_show_the_state(platform: Platform) -> None:
    blob = seal(STATE, platform)
    assert STATE not in blob and platform.sealing_key() not in blob
    assert restore(blob, platform) == STATE


def test_a_second_restore_is_refused_f19(platform: Platform) -> None:
    """Run, sign, crash, restore the same blob again: the counter moved before the first run."""
    blob = seal(STATE, platform)
    restore(blob, platform)
    with pytest.raises(SealRefused, match="restored before"):
        restore(blob, platform)


def test_an_old_blob_is_refused(platform: Platform) -> None:
    old = seal(STATE, platform)
    new = seal(STATE, platform)
    with pytest.raises(SealRefused, match="old"):
        restore(old, platform)
    assert restore(new, platform) == STATE


def test_a_blob_of_another_platform_is_refused(platform: Platform) -> None:
    blob = seal(STATE, MemoryPlatform())
    platform.advance()
    with pytest.raises(SealRefused, match="another platform"):
        restore(blob, platform)


SEALED_ON = MemoryPlatform(bytes(32))
BLOB = seal(STATE, SEALED_ON)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BLOB) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    flipped = bytearray(BLOB)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealRefused):
        restore(bytes(flipped), SEALED_ON)
    assert SEALED_ON.counter() == 1  # a refusal costs the good blob nothing


@pytest.mark.parametrize("blob", [b"", BLOB[:16], BLOB[:-1], BLOB + b"\x00", bytes(MAX_BLOB_BYTES + 1)])
def test_malformed_blobs_are_refused(blob: bytes) -> None:
    with pytest.raises(SealRefused):
        restore(blob, SEALED_ON)


def test_the_counter_moves_durably_before_anything_runs(tmp_path: Path) -> None:
    platform = FilePlatform(tmp_path)
    blob = seal(STATE, platform)
    assert FilePlatform(tmp_path).counter() == 1
    restore(blob, platform)
    later = FilePlatform(tmp_path)  # the process died at once, another one starts
    assert later.counter() == 2
    with pytest.raises(SealRefused):
        restore(blob, later)


def test_the_platform_file_is_private_and_survives(tmp_path: Path) -> None:
    first = FilePlatform(tmp_path)
    mode = (tmp_path / PLATFORM_FILE).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    first.advance()
    second = FilePlatform(tmp_path)
    assert (second.sealing_key(), second.counter()) == (first.sealing_key(), 1)
    assert [path.name for path in tmp_path.iterdir()] == [PLATFORM_FILE]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"key": "zz", "counter": 1}', b'{"key": "00", "counter": 1}', b"[]"]
)
def test_a_damaged_platform_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PLATFORM_FILE).write_bytes(content)
    with pytest.raises(TepbftError) as error:
        FilePlatform(tmp_path)
    assert PLATFORM_FILE in error.value.thing


class FailingPlatform(MemoryPlatform):
    def advance(self) -> int:
        raise OSError("disk full")


def test_no_counter_no_seal_and_no_restore() -> None:
    """If the counter cannot move, nothing is sealed and nothing is restored: cold start instead."""
    failing = FailingPlatform(bytes(32))
    failing._counter = SEALED_ON.counter()
    with pytest.raises(OSError):
        seal(STATE, failing)
    with pytest.raises(OSError):
        restore(BLOB, failing)
    component = HbUsig.fresh(failing)
    with pytest.raises(OSError):
        component.seal()
    assert component.identity().halted


def test_a_restored_component_keeps_refusing_i3() -> None:
    made = HbUsig.fresh()
    made.provision(b"c" * 32, 0, 0, bytes(32), 0, 4)
    answer = made.call(Order(COMMIT, 0, 1, b"x" * 32))
    back = HbUsig.restore(made.seal(), made.platform)
    assert back.call(Order(COMMIT, 0, 1, b"x" * 32)) == answer
    assert isinstance(back.call(Order(COMMIT, 0, 1, b"y" * 32)), Refused)
    with pytest.raises(TrustedRefusal):
        made.seal()
