"""A node that is really Byzantine, with its real trusted component, links and keys.

    python -m tepbft.lab.byzantine_node FOLDER STRATEGY

It exists for experiments, and nothing but a benchmark starts it: no setting of a node leads here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tepbft.errors import TepbftError
from tepbft.lab.byzantine import BACKUP, strategy
from tepbft.lab.starting import BYZANTINE_MODULE, run_command
from tepbft.runtime.process import run_node


def run(folder: str, name: str) -> int:
    """Run the node of `folder` as `name` says (a strategy's name); its exit code."""
    try:
        found = strategy(name)
    except KeyError:
        raise TepbftError(
            f"strategy {name!r}", "it is not known", f"Choose: {', '.join(BACKUP)}.", exit_code=2
        ) from None
    print(f"this node is Byzantine: {found.summary}", file=sys.stderr, flush=True)
    return run_node(Path(folder), wrap=found)


if __name__ == "__main__":
    sys.exit(run_command(f"python -m {BYZANTINE_MODULE} FOLDER STRATEGY", run, 2))
