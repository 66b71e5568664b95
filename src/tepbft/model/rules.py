"""What a VIEW-CHANGE proves, and the new view that follows from a set of them (A3.4, V1 to V8).

Pure functions of their arguments. V9 (the trigger) concerns liveness only and has no
counterpart here: in the model a correct node may leave its view at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.model.facts import NULL, Evidence, Facts, NewView, ViewChange
from tepbft.model.mutants import Mutant


def allowed(certified: NewView | None, floor: int, height: int, digest: int) -> bool:
    """P6: a proposal in the certified view is above its base and not against its entries."""
    if certified is None:
        return height > floor
    return height > certified.base and certified.entries.get(height, digest) == digest


def evidence(facts: Facts, message: ViewChange, window: int, mutant: Mutant) -> Evidence | None:
    """The evidence map of a VIEW-CHANGE; None if it is not valid."""
    cfg, certified, checkpoint = message.cfg, message.certified, message.checkpoint
    floor = facts.configurations[cfg].floor
    view = certified.view if certified is not None else 0
    base = certified.base if certified is not None else floor
    if checkpoint != floor and checkpoint not in facts.stable[cfg]:  # V2
        return None
    if message.floor > checkpoint and mutant != "floor":  # V3
        return None
    if not message.lock_view <= view < message.to:  # V4
        return None
    if certified is not None and not certified.certified and mutant != "noack":  # V4
        return None
    if checkpoint < base and mutant != "nobasecp":  # V5
        return None
    found: Evidence = {}
    if certified is not None:
        for height, digest in certified.entries.items():
            if height > checkpoint and height not in message.truncated:
                found[height] = (view, digest)  # V6
    for height, digest in message.prepares.items():
        if not checkpoint < height <= checkpoint + window:  # V7, A-62
            return None
        if not facts.is_prepared(cfg, view, height, digest):
            return None
        if not allowed(certified, floor, height, digest):
            return None
        found[height] = (view, digest)
    if view == message.lock_view and mutant != "omit":  # V8
        for height, digest in message.registers.items():
            if height > checkpoint and found.get(height) != (view, digest):
                return None
    return found


def merge(messages: Sequence[ViewChange], mutant: Mutant) -> tuple[int, dict[int, int]]:
    """(base, entries): per height the highest certified view wins, gaps become NULL blocks (A-53, A-54)."""
    base = max(message.checkpoint for message in messages)
    best: Evidence = {}
    for message in messages:
        for height, entry in message.evidence.items():
            if height <= base:
                continue
            known = best.get(height)
            if known is None or (entry[0] < known[0] if mutant == "lowview" else entry[0] > known[0]):
                best[height] = entry
    top = max(best, default=base)
    return base, {h: best[h][1] if h in best else NULL for h in range(base + 1, top + 1)}
