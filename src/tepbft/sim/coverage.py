"""Counters of what a run has exercised: a campaign whose counters stay near zero proves nothing (D4)."""

from __future__ import annotations

NAMES = (
    "statements",
    "executed",
    "requests",
    "null_blocks",
    "config_blocks",
    "commit_quorums",
    "commit_quorums_above_view_0",
    "certified_views",
    "reproposed",
    "reproposed_after_quorum",
    "view_changes",
    "transfers",
    "transfers_of_laggards",
    "configurations",
    "readmissions",
    "crashes",
    "blackouts_at_outcome",
    "torn_appends",
    "trapped",
    "storms",
    "recoveries",
    "lost_installs",
    "lost_records",
    "power_failures",
    "cold_starts",
    "warm_restarts",
    "wipes",
    "store_full",
    "partitions",
    "isolations",
    "clock_faults",
    "flaws",
    "diverged",
    "healed",
    "messages",
    "lost",
    "duplicated",
    "reversed",
    "byzantine_hosts",
    "refusals",
    "session_changes",
    "proofs",
    "outcomes",
    "linearizability_checks",
    "linearizability_undecided",
    "departures_checked",
)


class Coverage(dict[str, int]):
    """Counters by name; every name of `NAMES` is there from the start."""

    def __init__(self) -> None:
        super().__init__({name: 0 for name in NAMES})

    def count(self, name: str, more: int = 1) -> None:
        """Add to a counter."""
        self[name] = self.get(name, 0) + more
