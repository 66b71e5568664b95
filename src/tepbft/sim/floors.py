"""What a campaign must have exercised before "nothing found" means anything (D4).

A floor is stated per 1000 seeds of a profile that always has the fault in question, well
below what is usual, scales with the number of seeds, and leaves room for
chance: an expectation e asks for e - 3 * sqrt(e).
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from tepbft.sim.profiles import Profile


class Floor(NamedTuple):
    """One required minimum."""

    counter: str
    per_1000: int
    needs: str
    """Field of `Profile` whose probability the floor is scaled by; empty: every profile has it."""
    reason: str


FLOORS: tuple[Floor, ...] = (
    Floor("executed", 6000, "", "safety of a chain that does not grow is trivial"),
    Floor("commit_quorums", 6000, "", "agreement is about commit quorums"),
    Floor("outcomes", 6000, "", "clients must get answers, or there is no history to judge"),
    Floor("linearizability_checks", 900, "", "a run that ends well has its whole history judged"),
    Floor("departures_checked", 8000, "", "what components attest is compared with what they signed"),
    Floor("session_changes", 600, "", "restarted clients are where requests are lost or done twice"),
    Floor("certified_views", 400, "storms", "views that correct nodes certified: most defects live there"),
    Floor("commit_quorums_above_view_0", 2000, "storms", "agreement must be tried after a view change"),
    Floor("reproposed_after_quorum", 100, "storms", "the case for which view changes carry evidence (I-7)"),
    Floor("storms", 1500, "storms", "time-outs of several hosts at once start view changes"),
    Floor("lost", 3000, "loss", "what is lost must be sent again"),
    Floor("duplicated", 1500, "duplication", "what arrives twice must count once"),
    Floor("reversed", 1500, "reordering", "old messages after new ones"),
    Floor("partitions", 800, "partitions", "quorums that cannot talk to each other"),
    Floor("isolations", 1200, "isolation", "a host that is cut off as it changes views (S-28)"),
    Floor("crashes", 1000, "crashes", "what is not on disk is forgotten"),
    Floor("recoveries", 1000, "crashes", "what is on disk must be enough to go on"),
    Floor("lost_records", 100, "crashes", "what is written and not forced is lost (ADR 0022)"),
    Floor("blackouts_at_outcome", 500, "blackouts", "what a client has been told holds, whoever fails"),
    Floor("torn_appends", 80, "crashes", "a crash in the middle of a write"),
    Floor("trapped", 60, "crashes", "a crash at one chosen effect"),
    Floor("store_full", 150, "disk_full", "a disk that refuses to write"),
    Floor("wipes", 50, "wipes", "a ledger that must come from the peers"),
    Floor("transfers", 100, "wipes", "state transfers"),
    Floor("cold_starts", 1000, "components", "components that die"),
    Floor("warm_restarts", 600, "components", "components that are sealed and restored"),
    Floor("power_failures", 80, "components", "what was only written goes, and the component (ADR 0023)"),
    Floor("readmissions", 400, "components", "a new component needs a new configuration"),
    Floor("clock_faults", 3000, "clocks", "safety must not depend on clocks"),
    Floor("byzantine_hosts", 600, "byzantine", "somebody must lie"),
    Floor("attacks", 5000, "byzantine", "and act on it"),
)


def floors_for(profile: Profile, seeds: int, *, attacks: bool = True) -> dict[str, int]:
    """Required minimum by counter for so many seeds; counters of which so few seeds owe nothing are left
    out. `attacks`: Byzantine hosts choose from all behaviours, so that most of them do something."""
    found = {}
    for floor in FLOORS:
        if floor.counter == "attacks" and not attacks:
            continue
        likely = getattr(profile, floor.needs) if floor.needs else 1.0
        expected = floor.per_1000 * likely * seeds / 1000
        required = int(expected - 3 * sqrt(expected))
        if required > 0:
            found[floor.counter] = required
    return found


def below(floors: dict[str, int], coverage: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Counters that miss their floor: (found, required)."""
    return {
        name: (coverage.get(name, 0), required)
        for name, required in floors.items()
        if coverage.get(name, 0) < required
    }
