"""Defects, one at a time: rules of the protocol left out, which the exploration must find (D3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mutant = Literal[
    "",
    "late",
    "amnesia",
    "trunc",
    "clone",
    "dupnv",
    "noack",
    "omit",
    "floor",
    "lowview",
    "nobasecp",
    "barrier_without_stable",
    "vote_above_barrier",
    "two_members",
    "old_votes_count",
]
"""`""` is the protocol as it is."""


@dataclass(frozen=True, slots=True)
class Defect:
    """What a mutant leaves out, and whether it concerns the configuration barrier only."""

    summary: str
    barrier: bool = False


MUTANTS: dict[Mutant, Defect] = {
    "late": Defect("the component signs votes below its view (A-06)"),
    "amnesia": Defect("a component comes back under its identity with empty registers (CE8)"),
    "trunc": Defect("departures attest only what was signed since the last checkpoint (A-07, CE1)"),
    "clone": Defect("a host runs two components under one identity (A-11, CE7)"),
    "dupnv": Defect("the component signs more than one NEW-VIEW per view (A-57, CE5)"),
    "noack": Defect("V4 is dropped: evidence from views that nobody certified (A-52, CE2)"),
    "omit": Defect("V8 is dropped: a departure may leave out attested registers"),
    "floor": Defect("V3 is dropped: the attested floor may be above the checkpoint"),
    "lowview": Defect("the merge prefers the lowest view (A-53)"),
    "nobasecp": Defect("V5 is dropped: the checkpoint may be below the base of the certified view"),
    "barrier_without_stable": Defect("a node begins c+1 as soon as it executed the CONFIG block", True),
    "vote_above_barrier": Defect(
        "a node that knows the CONFIG block is final still votes above it in c", True
    ),
    "two_members": Defect("the replaced component still counts in c+1", True),
    "old_votes_count": Defect("commit quorums of c above the barrier still count in c+1", True),
}


def parse(name: str) -> Mutant:
    """The mutant called `name`; ValueError if there is none."""
    for known in get_args(Mutant):
        if known == name:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"no mutant is called {name!r}; there are {', '.join(MUTANTS)}")
