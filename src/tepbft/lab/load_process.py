"""The process of a load generator.

    python -m tepbft.lab.load_process        (a job as JSON on standard input)

It signs in advance, connects, says `ready`, begins at the moment that it is told, and says `begin` and
`end` of the measured window, then `report`: one JSON object per line.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import msgspec
import uvloop

from tepbft.errors import TepbftError
from tepbft.lab.generator import Generator
from tepbft.lab.job import Job


def _say(record: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")
    sys.stdout.flush()


async def _serve(job: Job) -> None:
    generator = Generator(job, lambda event: _say({"event": event}))
    generator.prepare()
    tasks = await generator.connect()
    gc.collect()
    gc.freeze()  # the prepared requests are not garbage and need not be looked at again
    _say({"event": "ready"})
    line = await asyncio.to_thread(sys.stdin.buffer.readline)
    if not line.strip():
        return
    report = await generator.run(int(line))
    for task in tasks:
        task.cancel()
    _say({"event": "report", "report": msgspec.to_builtins(report)})


def main() -> int:
    """Read a job, do it; exit code 0 if a report was made."""
    try:
        job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(job))
    except TepbftError as error:
        _say({"event": "error", "thing": error.thing, "reason": error.reason, "remedy": error.remedy})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
