"""`python -m tepbft.model`: explore the model, or look for a planted defect.

Exit codes: 0 nothing found, 1 a violation, 2 wrong usage,
3 nothing found but the walks saw too little to mean anything. An interrupted campaign (Ctrl-C)
reports what it did so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tepbft.model.explorer import Campaign, campaign
from tepbft.model.mutants import MUTANTS, Mutant, parse
from tepbft.model.shrink import describe, shrink

CLEAN, VIOLATION, USAGE, SHALLOW = 0, 1, 2, 3

WANTED = {
    "certified_views": 0.5,
    "heights_with_quorum": 1.0,
    "quorums_above_view_0": 0.3,
    "quorums_proposed_again": 0.1,
}
"""Least coverage per walk; a clean campaign below it is worth nothing (D4)."""
WANTED_BARRIER = {
    "configurations_begun": 0.5,
    "heights_with_quorum_in_later_configuration": 0.2,
    "config_blocks_proposed_again": 0.02,
    "void_quorums": 0.001,
    "second_config_quorums": 0.003,
}
ENOUGH_WALKS = 1000
"""Below this many walks the barrier's rare events are not asked for."""


def lacking(coverage: Counter[str], walks: int, barrier: bool) -> list[str]:
    """What a campaign saw too little of, in words."""
    wanted = dict(WANTED)
    if barrier and walks >= ENOUGH_WALKS:
        wanted |= WANTED_BARRIER
    return [
        f"{name}: {coverage[name]}, at least {share * walks:.0f} wanted"
        for name, share in wanted.items()
        if coverage[name] < share * walks
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tepbft.model",
        description="Explore the view change and the configuration barrier by random walks.",
        epilog="mutants: "
        + "; ".join(f"{name}: {defect.summary}" for name, defect in MUTANTS.items() if name),
    )
    parser.add_argument(
        "--walks", type=int, default=10_000, help="walks to take at most (default %(default)s)"
    )
    parser.add_argument("--nodes", type=int, default=3, help="3 to 9 (default %(default)s)")
    parser.add_argument("--mutant", default="", metavar="NAME", help="plant a defect")
    parser.add_argument("--barrier", action="store_true", help="with CONFIG blocks and later configurations")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same walks (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _progress(total: int) -> Callable[[Campaign], None]:
    def show(found: Campaign) -> None:
        print(f"{found.walks}/{total} walks, {found.failures} violations", file=sys.stderr, flush=True)

    return show


def _report(chosen: argparse.Namespace, found: Campaign, missing: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "nodes": chosen.nodes,
        "barrier": chosen.barrier,
        "mutant": chosen.mutant,
        "seed": chosen.seed,
        "walks": found.walks,
        "interrupted": found.interrupted,
        "coverage": dict(sorted(found.coverage.items())),
        "missing": missing,
        "violation": None,
    }
    if found.first is not None and found.first.violation is not None:
        first, violation = found.first, found.first.violation
        short = shrink(first.setup, first.schedule, violation)
        report["violation"] = {
            "invariant": violation.invariant,
            "walk": found.first_number,
            "byzantine": list(first.setup.byzantine),
            "window": first.setup.window,
            "actions": len(first.schedule),
            "schedule": describe(first.setup, short),
        }
    return report


def _print(report: dict[str, Any]) -> None:
    cut = " (interrupted)" if report["interrupted"] else ""
    print(f"{report['walks']} walks{cut}, {report['nodes']} nodes, seed {report['seed']}")
    for name, count in report["coverage"].items():
        print(f"  {name}: {count}")
    for line in report["missing"]:
        print(f"too little: {line}")
    violation = report["violation"]
    if violation is None:
        print("no violation")
        return
    print(
        f"{violation['invariant']} broke in walk {violation['walk']} (Byzantine: {violation['byzantine']}, "
        f"window {violation['window']}, {violation['actions']} actions); without what it does not need:"
    )
    for number, line in enumerate(violation["schedule"], 1):
        print(f"  {number:2}. {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one campaign; returns the exit code."""
    try:
        chosen = _parser().parse_args(arguments)
    except SystemExit as stop:
        return USAGE if stop.code else CLEAN
    try:
        mutant: Mutant = parse(chosen.mutant) if chosen.mutant else ""
        if not 3 <= chosen.nodes <= 9 or chosen.walks < 1 or chosen.seed < 0:
            raise ValueError("--nodes is 3 to 9, --walks at least 1, --seed not negative")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    found = campaign(
        chosen.walks,
        seed=chosen.seed,
        nodes=chosen.nodes,
        barrier=chosen.barrier,
        mutant=mutant,
        progress=_progress(chosen.walks),
    )
    missing = lacking(found.coverage, found.walks, chosen.barrier) if found.first is None else []
    report = _report(chosen, found, missing)
    if chosen.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        _print(report)
    if found.first is not None:
        return VIOLATION
    return SHALLOW if missing else CLEAN


if __name__ == "__main__":
    sys.exit(main())
