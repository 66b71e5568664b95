"""Mutants of the trusted component and of view changes (D3)."""

from __future__ import annotations

from tepbft.sim.mutants import defects, traps
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.schedules import alone_after, apart, cut_off_in_view_change, sluggish, tuned

# Byzantine hosts are fixed where a trap needs a certain place; limits are short where a defect stops
# the cluster for good, for only then is the whole limit spent.
_ROOMY = {"window": 8, "checkpoint_interval": 4, "snapshot_interval": 8, "keep_blocks": 64}
_NO_CHECKPOINT = {"window": 64, "checkpoint_interval": 32, "snapshot_interval": 32, "keep_blocks": 64}
_PLAIN = {"strict_sequential": False, "reply_after": "execute"}
_HOARDED = tuned(
    {**_NO_CHECKPOINT, **_PLAIN},
    byzantine=(0, 1),
    heal_ms=5000,
    laggards=(
        *((3, name, 1.0) for name in ("Commit", "Final")),
        *((4, name, 1.0) for name in ("Prepare", "Commit", "Final")),
    ),
)
"""Host 3 votes in view 1 without learning of the quorum, host 4 learns nothing of it (n = 5)."""

CHANGING: tuple[Mutant, ...] = (
    # --- the trusted component ---
    Mutant(
        "late",
        "I-3",
        "the component signs votes below its view (A-06, CE3)",
        defects.LATE,
        budget_seeds=5,
        profile="calm",
        strategies=(traps.LateVoter,),
        world=tuned(byzantine=(2,)),
    ),
    Mutant(
        "dupnv",
        "I-3",
        "the component signs two NEW-VIEWs for one view (A-57, CE5)",
        defects.DUPNV,
        budget_seeds=10,
        profile="calm",
        strategies=(traps.TwoNewViews,),
        world=tuned(byzantine=(1,)),
        stage=apart((0, 1), (0, 2)),
    ),
    Mutant(
        "hidden_registers",
        "I-4",
        "the component does not attest its lowest register when it leaves a view",
        defects.HIDDEN_REGISTERS,
        profile="partitions",
    ),
    Mutant(
        "restart_same_id_empty_tc",
        "I-20",
        "a component comes back under its identity with empty registers (A-12, CE8)",
        defects.RESTART_SAME_ID_EMPTY_TC,
        profile="components",
        world=tuned(weights=(("cold", 0.5),)),
        why="a counter that starts over is how a rollback looks from outside; CE8's lost block follows",
    ),
    Mutant(
        "seal_without_increment",
        "I-20",
        "restoring a sealed state does not move the platform's counter: it can be restored twice (CE7, F-19)",
        defects.SEAL_WITHOUT_INCREMENT,
        profile="components",
        world=tuned(weights=(("warm", 0.5),)),
    ),
    # --- view changes ---
    Mutant(
        "trunc",
        "I-7",
        "view-change evidence is what was signed since the last checkpoint, not what is above it (A-07, CE1)",
        defects.TRUNC,
        budget_seeds=200,
        profile="partitions",
        world=tuned({"window": 4, "checkpoint_interval": 1, "snapshot_interval": 4, "block_requests": 1}),
    ),
    Mutant(
        "noack",
        "I-9",
        "one acknowledgement certifies a view (A-52, CE2)",
        defects.NOACK,
        profile="partitions",
        why="the first vote in such a view lacks f+1 acknowledgements; a lost block (I-7) would come later",
    ),
    Mutant(
        "omit",
        "I-7",
        "V8 is dropped: a departure may leave out what the component attests",
        defects.OMIT,
        profile="calm",
        strategies=(traps.Conspirator,),
        world=tuned({**_ROOMY, **_PLAIN}, byzantine=(2,), heal_ms=4000),
        stage=apart((0, 1)),
    ),
    Mutant(
        "floor",
        "I-7",
        "V3 is dropped: registers are forgotten by a floor above the checkpoint",
        defects.FLOOR,
        profile="calm",
        strategies=(traps.FloorRaiser,),
        world=tuned({**_ROOMY, **_PLAIN}, byzantine=(2,), heal_ms=4000),
        stage=apart((0, 1)),
    ),
    Mutant(
        "nobasecp",
        "I-7",
        "V5 is dropped: a certified view counts without the checkpoint on which it was based",
        defects.NOBASECP,
        profile="calm",
        strategies=(traps.StaleBase,),
        world=tuned(
            {"window": 8, "checkpoint_interval": 1, "snapshot_interval": 8, "keep_blocks": 64, **_PLAIN},
            {"t_request_ms": 100, "t_view_change_ms": 100, "t_max_ms": 400},
            byzantine=(2,),
            heal_ms=6000,
        ),
        stage=apart((0, 1)),
    ),
    Mutant(
        "lowview",
        "I-7",
        "the merge prefers evidence from the lowest view (A-53)",
        defects.LOWVIEW,
        nodes=5,
        profile="calm",
        strategies=(traps.Hoarder, traps.Turncoat),
        world=_HOARDED,
        stage=alone_after(2, 1),
        why="with n = 3 whoever merges has executed the block, and cannot even fetch another for its height",
    ),
    Mutant(
        "gap_not_filled",
        "I-21",
        "heights without evidence stay empty in a new view instead of becoming NULL blocks (A-54)",
        defects.GAP_NOT_FILLED,
        profile="calm",
        strategies=(traps.HoleMaker,),
        world=tuned({**_ROOMY, **_PLAIN}, byzantine=(0,), limit_ms=20_000),
    ),
    Mutant(
        "timer_stops_at_accept",
        "I-21",
        "timers stop when a request is accepted, not when it is executed: a hole stays for ever (A-23, CE4)",
        defects.TIMER_STOPS_AT_ACCEPT,
        profile="calm",
        strategies=(traps.HoleMaker,),
        world=tuned(
            {**_ROOMY, "window": 16, "block_requests": 16, **_PLAIN},
            {"in_flight_blocks": 8},
            byzantine=(0,),
            clients=2,
            pipeline=1,
            limit_ms=20_000,
        ),
    ),
    Mutant(
        "fixed_T_req",
        "I-22",
        "timers do not back off: in a slow network every view is given up (A-59)",
        defects.FIXED_T_REQ,
        profile="calm",
        world=tuned(
            options={"t_request_ms": 100, "t_view_change_ms": 100, "t_max_ms": 6400}, limit_ms=60_000
        ),
        stage=sluggish(120, 200),
    ),
    Mutant(
        "no_vc_retransmit",
        "I-21",
        "messages of the view change are sent once (A-60, S-28)",
        defects.NO_VC_RETRANSMIT,
        profile="calm",
        world=tuned(heal_ms=4000, limit_ms=20_000),
        stage=cut_off_in_view_change(0),
    ),
    Mutant(
        "gc_by_view_change",
        "I-5",
        "leaving a view deletes the evidence for what was signed in it (A-34)",
        defects.GC_BY_VIEW_CHANGE,
        profile="partitions",
    ),
)
