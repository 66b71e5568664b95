"""A run as structured events, one JSON object per line.

The first line is the head ({"event": "run", …}), then one event per line in order of
virtual time, each with `at_ms`, `event`, `host` (-1: no host in particular) and the
fields that `FIELDS` names; the last line ({"event": "result", …}) is the outcome.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tepbft.errors import TepbftError
from tepbft.sim.job import Job, SeedRun, plan, run_job

FIELDS: dict[str, tuple[str, ...]] = {
    "message": ("sender", "message", "sent_ms", "configuration", "view", "height"),
    "lost": ("sender", "message", "sent_ms", "configuration", "view", "height"),
    "start": ("view",),
    "crash": ("lost_installs", "lost_records"),
    "cold": (),
    "warm": (),
    "wipe": (),
    "disk_full": (),
    "heal": (),
    "partition": ("shape",),
    "tc": ("kind", "configuration", "view", "height", "seq"),
    "execute": ("height", "view"),
    "stable": ("height",),
    "view": ("view",),
    "view_change_requested": ("target", "cause"),
    "view_left": ("target", "cause"),
    "state_transferred": ("height",),
    "tc_refused": ("code",),
    "diverged": ("height",),
    "healed": ("height",),
    "configuration": ("number",),
    "peer_fault": ("what", "sender"),
    "alarm": ("what", "sender"),
    "outcome": ("client", "session", "seq", "status"),
    "violation": ("check", "detail"),
    "end": ("height",),
}
"""Names of an event's fields after (at_ms, kind, host); further ones are in the list `more`."""
SKIPPED = ("deliver", "drop")
"""Said better by `message` and `lost`."""
MAX_EVENTS = 2_000_000
MAX_LINE = 1 << 16


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def event_record(event: tuple[Any, ...]) -> dict[str, Any]:
    """The JSON form of a trace event."""
    at_ms, kind, host, *values = event
    names = FIELDS.get(kind, ())
    record: dict[str, Any] = {"at_ms": at_ms, "event": kind, "host": host}
    record.update((name, _plain(value)) for name, value in zip(names, values, strict=False))
    if len(values) > len(names):
        record["more"] = [_plain(value) for value in values[len(names) :]]
    return record


def write_trace(job: Job, seed: int, path: Path) -> SeedRun:
    """Run a seed and write what happens to a file."""
    config, strategies = plan(job, seed)
    head = {
        "event": "run",
        "protocol": job.protocol,
        "nodes": config.nodes,
        "seed": seed,
        "faults": job.faults.name,
        "mutant": job.mutant,
        "byzantine": {
            str(host): strategy.name for host, strategy in zip(config.byzantine, strategies, strict=False)
        },
        "replay": job.command(seed),
    }
    try:
        with path.open("w", encoding="utf-8") as file:
            _line(file, head)
            run = run_job(
                job,
                seed,
                lambda event: None if event[1] in SKIPPED else _line(file, event_record(event)),
            )
            result = run.result
            _line(
                file,
                {
                    "event": "result",
                    "violations": [str(violation) for violation in result.violations],
                    "trace_hash": result.trace_hash,
                    "virtual_ms": result.virtual_ms,
                },
            )
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be written ({error.strerror})", "Name a place that you may write to."
        ) from None
    return run


def _line(file: IO[str], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, separators=(",", ":")) + "\n")


@dataclass
class Trace:
    """A run, as it was written."""

    head: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """Number of hosts."""
        return int(self.head["nodes"])


def read_trace(path: Path) -> Trace:
    """The trace in a file; TepbftError if it is none."""
    try:
        with path.open(encoding="utf-8") as file:
            return _read(file, path)
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be read ({error.strerror})", "Write one: tepbft sim --seed 1 --trace FILE"
        ) from None
    except UnicodeDecodeError:
        raise _no_trace(path, "it is not text") from None


def _no_trace(path: Path, reason: str) -> TepbftError:
    return TepbftError(str(path), reason, "Write a trace: tepbft sim --seed 1 --trace FILE", exit_code=2)


def _read(file: IO[str], path: Path) -> Trace:
    trace: Trace | None = None
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise _no_trace(path, f"line {number} is not JSON") from None
        if not isinstance(record, dict) or not isinstance(record.get("event"), str):
            raise _no_trace(path, f"line {number} is not an event")
        if trace is None:
            nodes = record.get("nodes")
            if record["event"] != "run" or not isinstance(nodes, int) or not 1 <= nodes <= 64:
                raise _no_trace(path, "the first line is not the head of a trace")
            trace = Trace(record)
        elif record["event"] == "result":
            trace.result = record
        elif not _is_event(record, trace.nodes):
            raise _no_trace(path, f"line {number}: an event needs whole numbers at_ms and host")
        elif number > MAX_EVENTS:
            raise _no_trace(path, f"it has more than {MAX_EVENTS} events")
        else:
            trace.events.append(record)
    if trace is None:
        raise _no_trace(path, "it is empty")
    return trace


def _is_event(record: dict[str, Any], nodes: int) -> bool:
    if not all(type(record.get(name)) is int for name in ("at_ms", "host")):
        return False
    if not -1 <= record["host"] < nodes:
        return False
    if record["event"] not in ("message", "lost"):
        return True
    numbers = ("sender", "sent_ms", "view", "height")
    return (
        all(type(record.get(name)) is int for name in numbers)
        and isinstance(record.get("message"), str)
        and 0 <= record["sender"] < nodes
        and record["host"] >= 0
    )
