"""Mutants of checkpoints, catching up, configurations, clients and execution (D3, and beyond)."""

from __future__ import annotations

from tepbft.sim.mutants import defects, traps
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.schedules import alone_after, apart, tuned

# Byzantine hosts are fixed where a trap needs a certain place; limits are short where a defect stops
# the cluster for good, for only then is the whole limit spent.
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

SERVING: tuple[Mutant, ...] = (
    # --- checkpoints, catching up, configurations ---
    Mutant(
        "checkpoint_match_includes_ui",
        "I-21",
        "checkpoints match only with equal UIs: none ever becomes stable (A-31)",
        defects.CHECKPOINT_MATCH_INCLUDES_UI,
        budget_seeds=10,
        profile="calm",
        world=tuned(
            {
                "window": 2,
                "checkpoint_interval": 1,
                "snapshot_interval": 2,
                "block_requests": 1,
                "reply_after": "execute",
            },
            requests=16,
            limit_ms=20_000,
        ),
    ),
    Mutant(
        "gc_before_stable",
        "I-16",
        "the window moves on at execution, before a checkpoint is stable (A-34)",
        defects.GC_BEFORE_STABLE,
        budget_seeds=3,
        profile="calm",
    ),
    Mutant(
        "no_commit_push",
        "I-21",
        "final blocks are not handed to those who lack them (A-33, CE9, S-18)",
        defects.NO_COMMIT_PUSH,
        profile="calm",
        strategies=(traps.OneFriend,),
        world=tuned(
            {"window": 8, "checkpoint_interval": 1, "snapshot_interval": 64, "keep_blocks": 64, **_PLAIN},
            byzantine=(0,),
            limit_ms=20_000,
        ),
        stage=apart((1, 2)),
    ),
    Mutant(
        "barrier_without_stable",
        "I-19",
        "a node begins the next configuration as soon as it executed the CONFIG block (A8.3)",
        defects.BARRIER_WITHOUT_STABLE,
        profile="components",
        world=tuned(weights=(("cold", 0.5),)),
    ),
    # --- clients and execution ---
    Mutant(
        "vseq_last_only",
        "I-21",
        "requests below the last executed number of a client are dropped: pipelining loses some (A-39, CE6)",
        defects.VSEQ_LAST_ONLY,
        profile="lossy",
        world=tuned({"block_requests": 1}, pipeline=8, think_ms=5, session_changes=0.0, limit_ms=20_000),
        why="what is dropped never takes effect, so nothing happens twice (I-12): the client waits for ever",
    ),
    Mutant(
        "vseq_at_reception",
        "I-2",
        "the client table changes when a request arrives, not when it executes (A-40)",
        defects.VSEQ_AT_RECEPTION,
        profile="lossy",
        world=tuned(session_changes=0.5, client_loss=0.3, pipeline=8, think_ms=5),
    ),
    Mutant(
        "clients_not_in_checkpoint",
        "I-12",
        "snapshots lack the client table: replies are lost in a state transfer (A-38, S-44)",
        defects.CLIENTS_NOT_IN_CHECKPOINT,
        profile="crashes",
        world=tuned(
            {
                "snapshot_interval": 4,
                "keep_blocks": 4,
                "window": 4,
                "checkpoint_interval": 1,
                "block_requests": 1,
            },
            weights=(("wipe", 0.6),),
            session_changes=0.0,
        ),
    ),
    Mutant(
        "unverified_client_signature",
        "I-13",
        "the signature of a request is not checked: anybody writes in a client's name (A-19)",
        defects.UNVERIFIED_CLIENT_SIGNATURE,
        budget_seeds=5,
        profile="calm",
        strategies=(traps.ForgedRequests,),
        world=tuned(byzantine=(1,)),
    ),
    # --- beyond D3: one for each invariant that would have none ---
    Mutant(
        "wall_clock_in_execution",
        "I-2",
        "execution takes the time from the local clock instead of the block (A-26)",
        defects.WALL_CLOCK_IN_EXECUTION,
        budget_seeds=5,
        profile="clocks",
    ),
    Mutant(
        "executed_not_recorded",
        "I-12",
        "executing a request does not mark its number: in a second block it takes effect again (A-24)",
        defects.EXECUTED_NOT_RECORDED,
        profile="lossy",
        # Fewer requests than the window has room for: it never moves, and a client must not stop at its end.
        world=tuned({"client_window": 16}, requests=10, late_requests=2),
    ),
    Mutant(
        "one_reply_is_enough",
        "I-14",
        "a client believes a single node (A-43)",
        defects.ONE_REPLY_IS_ENOUGH,
        budget_seeds=10,
        profile="calm",
        strategies=(traps.FalseReplies,),
        world=tuned(byzantine=(1,)),
    ),
    Mutant(
        "checkpoint_quorum_minus_one",
        "I-15",
        "f CHECKPOINTs make a height stable: liars alone can (S-17)",
        defects.CHECKPOINT_QUORUM_MINUS_ONE,
        budget_seeds=10,
        profile="calm",
        strategies=(traps.FalseCheckpoints,),
        world=tuned(byzantine=(1,)),
    ),
    Mutant(
        "merge_by_arrival",
        "I-6",
        "of several pieces of evidence for a height the one read first wins (A-53)",
        defects.MERGE_BY_ARRIVAL,
        nodes=5,
        profile="calm",
        strategies=(traps.Hoarder, traps.Turncoat),
        world=_HOARDED,
        stage=alone_after(2, 1),
    ),
    Mutant(
        "unbounded_postponing",
        "I-17",
        "messages that are too early are kept without limit (A-21, A-30)",
        defects.UNBOUNDED_POSTPONING,
        budget_seeds=3,
        profile="calm",
        strategies=(traps.FutureSpam,),
        world=tuned(byzantine=(2,)),
    ),
    Mutant(
        "laggard_holds_bodies",
        "I-17",
        "a replica that catches up holds every block until it has reached the stable height",
        defects.LAGGARD_HOLDS_BODIES,
        profile="crashes",
    ),
    Mutant(
        "no_catch_up",
        "I-23",
        "a replica that missed blocks does not ask for them, and nobody pushes them (A3.5)",
        defects.NO_CATCH_UP,
        profile="calm",
        world=tuned(
            {"window": 16, "checkpoint_interval": 1, "snapshot_interval": 16, "keep_blocks": 64, **_PLAIN},
            late_requests=0,
            think_ms=20,
            heal_ms=4000,
            limit_ms=20_000,
        ),
        stage=apart((0, 2), (1, 2)),
    ),
    Mutant(
        "recovery_forgets_evidence",
        "I-5",
        "a restarted node does not take up the PREPAREs that its component attests (I-16, S-33)",
        defects.RECOVERY_FORGETS_EVIDENCE,
        profile="crashes",
    ),
)
