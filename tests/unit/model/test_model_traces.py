"""The counter-examples of A5 and the barrier of A8.3 as schedules of the model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tepbft.model.checks import Violation
from tepbft.model.explorer import replay
from tepbft.model.setup import Action, Setup
from tepbft.model.world import World

BLOCK = (-1, -1)


def run(setup: Setup, actions: Sequence[Action]) -> World:
    """Every action is enabled and breaks nothing."""
    world = World(setup)
    for action in actions:
        assert world.apply(action), action
    return world


CE1: list[Action] = [
    ("propose", 0, 0, 1, 1, *BLOCK),
    ("propose", 0, 0, 2, 2, *BLOCK),
    ("vote", 1, 0, 1, 1),
    ("vote", 1, 0, 2, 2),
    ("execute", 1),
    ("checkpoint", 1),
    ("execute", 0),
    ("checkpoint", 0),
    ("execute", 0),
    ("stable", 1, 1),
    ("depart", 1, 2),
    ("depart", 2, 2),
    ("install", 2, 2, ((1, 0), (2, 0))),
]


def test_ce1_checkpoint_truncation() -> None:
    """CE1 (A-07): evidence since the last checkpoint loses block 2; evidence by height carries it."""
    assert str(replay(Setup(byzantine=(), mutant="trunc"), CE1)).startswith("I-7")
    world = run(Setup(byzantine=()), CE1)
    assert world.facts.new_views[(0, 2)][0].entries == {2: 2}


def test_ce2_fabricated_view() -> None:
    """CE2 (A-52): without NV certificates an invented view overrides an executed block."""
    actions: list[Action] = [
        ("propose", 0, 0, 1, 1, *BLOCK),
        ("vote", 2, 0, 1, 1),
        ("execute", 0),
        ("fabricate", 1, 1, (9,)),
        ("depart_as", 1, 2, 1, 0, 0, ()),
        ("depart", 2, 2),
        ("install", 2, 2, ((1, 0), (2, 0))),
    ]
    assert str(replay(Setup(byzantine=(1,), mutant="noack"), actions)).startswith("I-7")
    world = World(Setup(byzantine=(1,)))
    assert [world.apply(action) for action in actions] == [True, True, True, True, False, True, False]


def test_ce3_vote_after_leaving() -> None:
    """CE3 (A-06): a component that left a view signs nothing in it."""
    before: list[Action] = [
        ("propose", 0, 0, 1, 1, *BLOCK),
        ("depart_as", 2, 1, 0, 0, 0, ()),
        ("depart", 1, 1),
        ("install", 1, 1, ((1, 0), (2, 0))),
    ]
    vote: Action = ("vote", 2, 0, 1, 1)
    assert str(replay(Setup(byzantine=(2,), mutant="late"), [*before, vote])).startswith("I-7")
    assert not run(Setup(byzantine=(2,)), before).apply(vote)


def test_ce5_two_new_views() -> None:
    """CE5 (A-57): a second NEW-VIEW of one view is refused by the component."""
    actions: list[Action] = [
        ("propose", 0, 0, 1, 1, *BLOCK),
        ("depart", 0, 1),
        ("depart_as", 1, 1, 0, 0, 0, ()),
        ("depart", 2, 1),
        ("install", 1, 1, ((0, 0), (1, 0))),
    ]
    second: Action = ("install", 1, 1, ((1, 0), (2, 0)))
    assert not run(Setup(byzantine=(1,)), actions).apply(second)
    broken = [*actions, second, ("ack", 0, 1, 0), ("ack", 2, 1, 1)]
    assert str(replay(Setup(byzantine=(1,), mutant="dupnv"), broken)).startswith("I-3")


BARRIER = Setup(byzantine=(1,), barrier=True)
TO_THE_BARRIER: list[Action] = [
    ("spawn", 1, 3),
    ("propose", 0, 0, 1, 1, 1, 3),
    ("vote", 2, 0, 1, 1),
    ("execute", 0),
    ("execute", 2),
]


def test_the_barrier_waits_for_stability_i19() -> None:
    """A8.3: no node begins c+1 before the CONFIG block is stable under c."""
    world = run(BARRIER, TO_THE_BARRIER)
    assert not world.apply(("begin", 0))
    assert world.apply(("checkpoint", 0)) and world.apply(("stable", 0, 1)) and world.apply(("begin", 0))
    assert world.replicas[0] is not None and world.replicas[0].cfg == 1


def test_members_change_at_the_barrier_i20() -> None:
    """I-20: the new component counts in c+1 only, the old one in c only."""
    world = run(BARRIER, TO_THE_BARRIER)
    assert not world.counts(world.components[3]) and world.counts(world.components[1])
    assert world.apply(("begin_as", 3, 1)) and world.apply(("begin_as", 1, 1))
    assert world.counts(world.components[3]) and not world.counts(world.components[1])
    assert not world.apply(("propose", 1, 0, 2, 2, *BLOCK))
    assert world.apply(("propose", 3, 0, 2, 2, *BLOCK))  # primary(c+1, view 0) is node 1


def test_what_is_in_flight_above_the_barrier_is_void() -> None:
    """A8.3: a commit quorum above the CONFIG block means nothing, and the height is decided again in c+1."""
    first: list[Action] = [
        ("spawn", 0, 3),
        ("propose", 0, 0, 1, 1, 0, 3),
        ("propose", 0, 0, 2, 2, *BLOCK),
        ("vote", 1, 0, 2, 2),
        ("vote", 2, 0, 1, 1),
        ("execute", 1),
        ("execute", 2),
    ]
    then: list[Action] = [
        ("checkpoint", 1),
        ("stable", 1, 1),
        ("stable", 2, 1),
        ("begin", 1),
        ("begin", 2),
        ("propose", 1, 0, 2, 3, *BLOCK),
        ("vote", 2, 0, 2, 3),
        ("execute", 1),
    ]
    setup = Setup(byzantine=(0,), barrier=True)
    world = run(setup, first)
    assert not world.apply(("execute", 1))
    for action in then:
        assert world.apply(action), action
    assert world.facts.chosen[(0, 2)] == 2 and world.facts.chosen[(1, 2)] == 3
    assert world.replicas[1] is not None and world.replicas[1].log == (1, 3)


def test_nobody_votes_above_a_known_barrier() -> None:
    """A8.3: once the CONFIG block is known to be final, proposals above it are refused."""
    setup = Setup(byzantine=(0,), barrier=True)
    world = run(
        setup,
        [
            ("spawn", 0, 3),
            ("propose", 0, 0, 1, 1, 0, 3),
            ("propose", 0, 0, 2, 2, *BLOCK),
            ("vote", 2, 0, 1, 1),
            ("learn", 1, 1),
        ],
    )
    assert not world.apply(("vote", 1, 0, 2, 2))
    assert world.apply(("vote", 1, 0, 1, 1))


def test_a_barrier_block_is_proposed_again_in_a_new_view() -> None:
    """S-38: the CONFIG block survives a view change like any block, and its configuration begins."""
    setup = Setup(byzantine=(), barrier=True)
    world = run(
        setup,
        [
            ("lose", 2, 3),
            ("propose", 0, 0, 1, 1, 2, 3),
            ("depart", 0, 1),
            ("depart", 1, 1),
            ("install", 1, 1, ((0, 0), (1, 0))),
            ("ack", 0, 1, 0),
            ("enter", 0, 1, 0),
            ("enter", 1, 1, 0),
            ("propose", 1, 1, 1, 1, *BLOCK),
            ("vote", 0, 1, 1, 1),
            ("execute", 0),
            ("execute", 1),
            ("checkpoint", 0),
            ("checkpoint", 1),
            ("stable", 0, 1),
            ("begin", 0),
            ("execute", 2),
            ("stable", 2, 1),
            ("begin", 2),
        ],
    )
    cold = world.replicas[2]
    assert cold is not None and not cold.silent and cold.component == 3
    assert world.components[3].cfg == 1


def test_a_cold_component_is_silent_until_it_is_admitted_i20() -> None:
    """I-20, A8.2: no vote, checkpoint, departure or acknowledgement before the barrier."""
    world = run(Setup(byzantine=(), barrier=True), [("lose", 2, 3), ("propose", 0, 0, 1, 1, *BLOCK)])
    silent: list[Action] = [("vote", 2, 0, 1, 1), ("vote", 3, 0, 1, 1), ("depart", 2, 1), ("checkpoint", 2)]
    for action in silent:
        assert not world.apply(action), action
    assert not world.apply(("lose", 1, 4))  # no more than f at once


def test_a_second_config_block_is_void_after_the_first() -> None:
    """Two CONFIG blocks in one configuration: the lower one ends it, the higher one never executes."""
    setup = Setup(byzantine=(0,), barrier=True)
    world = run(
        setup,
        [
            ("spawn", 0, 3),
            ("spawn", 0, 4),
            ("propose", 0, 0, 1, 1, 0, 3),
            ("propose", 0, 0, 2, 2, 0, 4),
            ("vote", 1, 0, 2, 2),
            ("learn", 1, 2),
            ("vote", 1, 0, 1, 1),
            ("learn", 1, 1),
            ("execute", 1),
        ],
    )
    assert not world.apply(("execute", 1))
    node = world.replicas[1]
    assert node is not None and (node.barrier, node.following, node.log) == (1, 1, (1,))


def test_the_monitor_sees_agreement_break_across_configurations() -> None:
    """The check itself: a quorum in a configuration that nothing began is a violation (I-19)."""
    world = run(BARRIER, TO_THE_BARRIER[:2])
    with pytest.raises(Violation, match="I-19"):
        world.monitor.quorum(1, 0, 2, 5)
