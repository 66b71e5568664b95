"""The decoders of `fuzz_targets` under a coverage-guided fuzzer, for hours instead of seconds.

    PYTHONPATH=tests python -m fuzz.atheris_targets --seconds 60 [--target NAME …] [--plain]

Each target runs in a process of its own, for its time. With `atheris` installed, it steers
the inputs by what they reach in the code; with `--plain` random changes to valid inputs are
tried instead, which needs nothing installed. An input that brings out anything but a
documented error is written to a file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import FunctionType

from hypothesis import HealthCheck, Phase, given, settings

from fuzz.fuzz_mutations import BOMBS, WORDS, trailing_nest
from fuzz.fuzz_targets import TARGETS, Target

SEEDS = 40
MAX_INPUT_BYTES = 1 << 16
MEMORY = Path("/dev/shm")
TIMEOUT_S = 120
"""By the clock on the wall: a process of low priority has stood still for 20 seconds on a busy machine."""


def seeds(target: Target) -> list[bytes]:
    """Valid inputs to start from; the same ones each time."""
    found: list[bytes] = []

    @settings(
        max_examples=SEEDS, database=None, derandomize=True, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.valid)
    def collect(data: bytes) -> None:
        found.append(data)

    collect()
    return found


def check(target: Target, data: bytes) -> None:
    """AssertionError, or whatever escaped, if the target breaks its word on this input."""
    try:
        found = target.decode(data)
    except target.errors:
        return
    if target.encode is not None and target.encode(found) != data:
        raise AssertionError("two encodings of one value")


def reproducer(target: Target, data: bytes, folder: Path) -> Path:
    """The file in which an input that broke a target is kept."""
    path = folder / f"{target.name}-{sha256(data).hexdigest()[:16]}.bin"
    path.write_bytes(data)
    return path


def change(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """One random change, as in `fuzz_mutations`, without hypothesis."""
    at = rng.randrange(len(data) + 1)
    until = min(len(data), at + rng.randrange(16))
    match rng.randrange(8):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[until:]
        case 2:
            return data[:until] + data[at:]
        case 3:
            return data[:at] + data[until:]
        case 4:
            return data[:at] + rng.choice(WORDS) + data[until:]
        case 5:
            other = rng.choice(corpus)
            cut = rng.randrange(len(other) + 1)
            return data[:at] + other[cut : cut + 64] + data[until:]
        case 6:
            return (
                data[:at]
                + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1])
                + data[at + 1 :]
            )
        case _:
            return trailing_nest(data)


def run_plain(target: Target, seconds: float, folder: Path, seed: int = 0) -> int:
    """Random changes for a time; inputs tried, or -1 after one that broke it."""
    rng, corpus = random.Random(seed), seeds(target)
    end, tried = time.monotonic() + seconds, 0
    for data in (*BOMBS, *corpus):
        if not _holds(target, data, folder):
            return -1
    while time.monotonic() < end:
        data = rng.choice(corpus)
        for _ in range(rng.randrange(1, 5)):
            data = change(rng, data, corpus)
        if not _holds(target, data[:MAX_INPUT_BYTES], folder):
            return -1
        tried += 1
    return tried


def _holds(target: Target, data: bytes, folder: Path) -> bool:
    try:
        check(target, data)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        path = reproducer(target, data, folder)
        print(f"{target.name}: {type(error).__name__}: {str(error)[:200]}; input in {path}", flush=True)
        return False
    return True


def mutator(corpus: Sequence[bytes], mutate: Callable[[bytes, int], bytes]) -> Callable[..., bytes]:
    """How the fuzzer makes inputs. Most decoders are native code, in which it sees no coverage: of the
    valid inputs it would keep none. So half of what it tries starts from a valid input again."""

    def make(data: bytes, max_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return mutate(bytes(data), max_bytes)[:max_bytes]
        data = rng.choice(corpus)
        for _ in range(rng.randrange(1, 5)):
            data = change(rng, data, corpus)
        return data[:max_bytes]

    return make


def run_atheris(target: Target, seconds: float, folder: Path, kept: Path) -> None:
    """Coverage-guided; inputs that reach something new go to the folder `kept`. Does not return: the
    fuzzer ends the process."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    if MEMORY.is_dir():
        tempfile.tempdir = str(MEMORY)  # several times as many inputs for targets that read files
    corpus = seeds(target)
    for number, data in enumerate(corpus):
        (kept / f"{number:03}").write_bytes(data)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and str(function.__module__).startswith("tepbft."):
            atheris.instrument_func(function)
    artefacts = f"-artifact_prefix={folder}/{target.name}-"
    options = [
        f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={TIMEOUT_S}",
    ]
    atheris.Setup(
        [sys.argv[0], *options, "-verbosity=0", "-print_final_stats=1", artefacts, str(kept)],
        lambda data: check(target, data),
        custom_mutator=mutator(corpus, lambda data, size: atheris.Mutate(data, size)),
    )
    atheris.Fuzz()


def _in_child(name: str, seconds: float, folder: str, kept: str, plain: bool) -> None:
    target = next(found for found in TARGETS if found.name == name)
    if plain:
        tried = run_plain(target, seconds, Path(folder))
        print(f"{name}: {max(0, tried)} inputs", flush=True)
        os._exit(0 if tried >= 0 else 1)
    run_atheris(target, seconds, Path(folder), Path(kept))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen targets one after the other; 0 if all held."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="fuzz.atheris_targets", description="Fuzz the decoders.")
    parser.add_argument("--seconds", type=float, default=60, help="time for each target")
    parser.add_argument("--target", action="append", choices=names, help="only this one (repeatable)")
    parser.add_argument("--folder", default=".", help="where inputs that break a target are written")
    parser.add_argument("--plain", action="store_true", help="random changes; atheris is not needed")
    chosen = parser.parse_args(arguments)
    if not chosen.plain and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: install the extra `fuzz`, or give --plain", file=sys.stderr)
        return 2
    broken = []
    context = multiprocessing.get_context("spawn")
    for name in chosen.target or names:
        with tempfile.TemporaryDirectory(prefix="tepfuzz") as kept:
            for_child = (name, chosen.seconds, chosen.folder, kept, chosen.plain)
            child = context.Process(target=_in_child, args=for_child)
            child.start()
            child.join()
        print(f"{name}: {'broken' if child.exitcode else 'held'}", flush=True)
        if child.exitcode:
            broken.append(name)
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
