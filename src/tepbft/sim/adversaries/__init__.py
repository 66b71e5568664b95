"""Byzantine strategies: every scenario of the catalogue that a Byzantine host can play, by name.

`STRATEGIES` is what runs choose from. A name starts with the scenario (S-1 is `s01-…`);
the class says what is attempted and what is expected. `mix` plays all of them.
"""

from __future__ import annotations

from tepbft.sim.adversaries import clients, departure, new_view, primary, replica
from tepbft.sim.adversaries.mix import RandomMix
from tepbft.sim.adversaries.toolkit import Attacker, Composite, composite
from tepbft.sim.mischief import MISCHIEF
from tepbft.sim.ports import Strategy

SCRIPTED: tuple[type[Strategy], ...] = (
    primary.Equivocate,
    primary.Selective,
    primary.Hole,
    primary.Bodiless,
    primary.Censor,
    primary.Slow,
    primary.InvalidContents,
    primary.FarHeights,
    new_view.Contradict,
    new_view.WrongNewView,
    new_view.EarlyEntrance,
    new_view.TwoNewViews,
    new_view.WithheldAcks,
    new_view.Rotation,
    departure.VoteAfterLeaving,
    departure.HiddenRegisters,
    departure.RaisedFloor,
    departure.OldCheckpoint,
    departure.OldNewView,
    departure.AlteredPrepare,
    departure.TamperedAttestation,
    departure.FabricatedView,
    replica.ForgedCheckpoints,
    replica.Favourite,
    replica.ReqVcSpam,
    new_view.WishReplay,
    replica.Flood,
    replica.PoisonedState,
    replica.FalseCatchUp,
    replica.LyingStatus,
    replica.UnknownPrepare,
    replica.RestlessComponent,
    clients.RogueRequests,
    clients.ForgedForwards,
    clients.WithheldReplies,
    clients.ForgedReplies,
)
"""One class per attack."""


class Mix(RandomMix):
    """Everything: each scripted attack and the plain mischief, weighted at random."""

    parts = (*(found for found in SCRIPTED if found is not new_view.Rotation), *MISCHIEF)


_all: tuple[type[Strategy], ...] = (*SCRIPTED, *MISCHIEF, Mix)
STRATEGIES: dict[str, type[Strategy]] = {found.name: found for found in _all}
"""Every strategy by name."""

__all__ = ["SCRIPTED", "STRATEGIES", "Attacker", "Composite", "Mix", "composite"]
