"""Mutants of votes, quorums and proposals (D3)."""

from __future__ import annotations

from tepbft.sim.mutants import defects, traps
from tepbft.sim.mutants.mutant import Mutant
from tepbft.sim.mutants.schedules import apart, tuned

# Byzantine hosts are fixed where a trap needs a certain place; limits are short where a defect stops
# the cluster for good, for only then is the whole limit spent.
_ROOMY = {"window": 8, "checkpoint_interval": 4, "snapshot_interval": 8, "keep_blocks": 64}
_PLAIN = {"strict_sequential": False, "reply_after": "execute"}

VOTING: tuple[Mutant, ...] = (
    # --- votes and quorums ---
    Mutant(
        "prim_vote_not_counted",
        "I-21",
        "the primary's PREPARE is no vote: f silent backups stop the cluster (A-14)",
        defects.PRIM_VOTE_NOT_COUNTED,
        budget_seeds=3,
        profile="calm",
        strategies=(traps.Mute,),
        world=tuned(byzantine=(2,), limit_ms=20_000),
    ),
    Mutant(
        "quorum_minus_one",
        "I-1",
        "blocks are final with one vote too few",
        defects.QUORUM_MINUS_ONE,
        budget_seeds=5,
        profile="calm",
    ),
    Mutant(
        "count_dup_voters",
        "I-1",
        "one node's vote counts as often as it arrives",
        defects.COUNT_DUP_VOTERS,
        nodes=5,
        profile="lossy",
        world=tuned(duplication=0.3),
    ),
    Mutant(
        "commit_quorum_f_plus_1",
        "I-1",
        "f+1 votes commit although n = 2f+2: two commit quorums need not meet a view change",
        defects.COMMIT_QUORUM_F_PLUS_1,
        budget_seeds=5,
        nodes=4,
        profile="calm",
    ),
    Mutant(
        "vote_keyed_by_signature",
        "I-21",
        "votes are grouped by signature bytes instead of content: equal votes do not add up (A-10)",
        defects.VOTE_KEYED_BY_SIGNATURE,
        budget_seeds=3,
        profile="calm",
        world=tuned(limit_ms=20_000),
    ),
    Mutant(
        "unverified_commit",
        "I-1",
        "the signature of a COMMIT is not checked: a liar votes for others",
        defects.UNVERIFIED_COMMIT,
        budget_seeds=5,
        profile="calm",
        strategies=(traps.ForgedVotes,),
        world=tuned(byzantine=(2,)),
        stage=apart((0, 1)),
        why="I-1 counts real statements only; host 1 is cut off, so that its vote was never signed",
    ),
    Mutant(
        "ui_without_view",
        "I-26",
        "the view is not part of what the component signs: votes verify in any view (A-03)",
        defects.UI_WITHOUT_VIEW,
        budget_seeds=3,
        profile="calm",
        why="I-26 tries every signature on altered statements, long before a fork is staged with one (I-1)",
    ),
    Mutant(
        "ui_without_kind",
        "I-26",
        "the kind of statement is not part of what the component signs (A-03)",
        defects.UI_WITHOUT_KIND,
        budget_seeds=3,
        profile="calm",
    ),
    Mutant(
        "vote_without_body",
        "I-10",
        "a backup votes for a block that it does not hold (P8, S-4)",
        defects.VOTE_WITHOUT_BODY,
        budget_seeds=10,
        profile="calm",
        strategies=(traps.BodyHider,),
        world=tuned(byzantine=(0,)),
    ),
    Mutant(
        "vote_above_window",
        "I-18",
        "heights up to two windows above the stable one are voted for (P5)",
        defects.VOTE_ABOVE_WINDOW,
        profile="lossy",
        world=tuned(
            {"window": 2, "checkpoint_interval": 1, "snapshot_interval": 4, "block_requests": 1},
            {"in_flight_blocks": 4, "max_wait_ms": 0},
            pipeline=8,
            think_ms=5,
            requests=16,
        ),
    ),
    Mutant(
        "persist_after_certify",
        "I-16",
        "a vote is signed before its PREPARE is on disk (A2, write-ahead)",
        defects.PERSIST_AFTER_CERTIFY,
        budget_seeds=3,
        profile="calm",
    ),
    Mutant(
        "outcomes_after_certify",
        "I-16",
        "a CHECKPOINT is signed before what it speaks of is on disk (ADR 0022)",
        defects.OUTCOMES_AFTER_CERTIFY,
        budget_seeds=3,
        profile="calm",
        world=tuned(component_outlives_host=True),
    ),
    Mutant(
        "component_asked_early",
        "I-16",
        "a component that outlives its host's power signs what is not on the disk yet (ADR 0023)",
        defects.COMPONENT_ASKED_EARLY,
        budget_seeds=3,
        profile="calm",
        world=tuned(component_outlives_host=True),
    ),
    Mutant(
        "sent_before_forced",
        "I-16",
        "what a component signed while the disk was at work leaves before the disk is done (ADR 0023)",
        defects.SENT_BEFORE_FORCED,
        budget_seeds=3,
        profile="calm",
        world=tuned(component_outlives_host=False),
    ),
    Mutant(
        "parent_in_proposal",
        "I-21",
        "proposals name the proposal below them: after a NULL block the re-proposed ones fit no more (A-27)",
        defects.PARENT_IN_PROPOSAL,
        profile="calm",
        strategies=(traps.HoleMaker,),
        world=tuned({**_ROOMY, **_PLAIN}, byzantine=(0,), limit_ms=20_000),
        why="honest replicas refuse the re-proposal, so nothing diverges (I-2): it stops",
    ),
)
