"""The pure parts of the model: the component (I-3, I-4), evidence V2 to V8, the merge (I-6)."""

from __future__ import annotations

from itertools import permutations

import pytest

from tepbft.model.component import Component
from tepbft.model.facts import NULL, ROOT, Configuration, Facts, NewView, ViewChange
from tepbft.model.mutants import MUTANTS, Mutant, parse
from tepbft.model.rules import allowed, evidence, merge

WINDOW = 2


def component(view: int = 0) -> Component:
    found = Component(0, 0)
    found.begin(ROOT, 0, 0)
    found.enter(view)
    return found


def facts() -> Facts:
    found = Facts(Configuration(ROOT, 0, ROOT, 0, (0, 1, 2)))
    found.add_prepare(ROOT, 0, 1, 11)
    found.add_prepare(ROOT, 0, 2, 12)
    return found


def departure(**changes: object) -> ViewChange:
    values: dict[str, object] = {
        "node": 0,
        "component": 0,
        "cfg": ROOT,
        "to": 1,
        "lock_view": 0,
        "floor": 0,
        "registers": {1: 11},
        "checkpoint": 0,
        "certified": None,
        "prepares": {1: 11},
    }
    return ViewChange(**(values | changes))  # type: ignore[arg-type]


def test_a_register_is_written_once_i3() -> None:
    """I-3: no second digest at one (view, height); re-emission makes no new statement."""
    tc = component()
    assert tc.order(0, 1, 11, WINDOW, "")
    assert not tc.order(0, 1, 12, WINDOW, "")
    assert not tc.order(0, 1, 11, WINDOW, "")
    assert tc.registers == {1: 11}


def test_nothing_is_signed_below_the_view_a06() -> None:
    """A-06: after a departure there are no votes for the view that was left; `late` drops that."""
    tc = component()
    assert tc.depart(1) and not tc.order(0, 1, 11, WINDOW, "")
    assert tc.order(0, 1, 11, WINDOW, "late")


def test_registers_survive_departures_and_go_with_a_higher_vote_i4() -> None:
    """I-4: what a departure attests stays until something is signed in a higher view."""
    tc = component()
    assert tc.order(0, 2, 12, WINDOW, "") and tc.depart(1) and tc.depart(3)
    assert tc.registers == {2: 12} and tc.lock_view == 0
    assert tc.order(3, 1, 31, WINDOW, "")
    assert tc.registers == {1: 31} and tc.lock_view == 3


def test_window_floor_and_new_view_once() -> None:
    """The window is above the floor; one NEW-VIEW per view (A-57); checkpoints only rise."""
    tc = component()
    assert not tc.order(0, 3, 13, WINDOW, "")
    tc.advance_floor(1)
    assert tc.order(0, 3, 13, WINDOW, "") and not tc.order(0, 1, 11, WINDOW, "")
    assert tc.install(1, "") and not tc.install(1, "") and tc.install(1, "dupnv")
    assert tc.checkpoint(2) and not tc.checkpoint(1)


def test_a_component_begins_each_configuration_once_i20() -> None:
    """I-20: numbers only rise, registers are empty in a new configuration."""
    tc = component()
    assert tc.order(0, 1, 11, WINDOW, "")
    assert tc.begin(7, 1, 1) and tc.registers == {} and tc.floor == 1
    assert not tc.begin(8, 1, 1) and not tc.begin(ROOT, 0, 0)


def test_valid_evidence_lists_the_registers() -> None:
    """V6 to V8: what is carried over and what is listed."""
    assert evidence(facts(), departure(), WINDOW, "") == {1: (0, 11)}
    assert evidence(facts(), departure(registers={}, prepares={}), WINDOW, "") == {}


@pytest.mark.parametrize(
    ("changes", "mutant"),
    [
        ({"checkpoint": 1}, None),  # V2: no certificate at 1
        ({"floor": 1}, "floor"),  # V3
        ({"lock_view": 1, "to": 2}, None),  # V4: shows less than it locked
        ({"certified": NewView(ROOT, 1, 0, {1: 99}), "to": 2, "prepares": {}}, "noack"),  # V4
        ({"prepares": {1: 12}}, None),  # V7: no such PREPARE
        ({"prepares": {}}, "omit"),  # V8
    ],
)
def test_invalid_evidence_is_refused(changes: dict[str, object], mutant: Mutant | None) -> None:
    """V2 to V8, and that each mutant drops its rule."""
    message = departure(**changes)
    assert evidence(facts(), message, WINDOW, "") is None
    if mutant is not None:
        assert evidence(facts(), message, WINDOW, mutant) is not None


def test_checkpoint_below_the_base_is_refused_v5() -> None:
    """V5: a view that began at 2 cannot be shown with the checkpoint at 0."""
    certified = NewView(ROOT, 1, 2, {}, certified=True)
    message = departure(to=2, certified=certified, registers={}, prepares={}, lock_view=1)
    assert evidence(facts(), message, WINDOW, "") is None
    assert evidence(facts(), message, WINDOW, "nobasecp") == {}


def test_evidence_bomb_is_refused_a62() -> None:
    """A-62: a PREPARE beyond the window of the checkpoint is not evidence."""
    known = facts()
    known.add_prepare(ROOT, 0, 1 << 60, 13)
    assert evidence(known, departure(prepares={1: 11, 1 << 60: 13}), WINDOW, "") is None


def test_proposals_follow_the_new_view_p6() -> None:
    """P6: above the base, and not against the entries."""
    certified = NewView(ROOT, 1, 1, {2: 12})
    assert allowed(certified, 0, 2, 12) and allowed(certified, 0, 3, 99)
    assert not allowed(certified, 0, 2, 99) and not allowed(certified, 0, 1, 11)
    assert allowed(None, 3, 4, 1) and not allowed(None, 3, 3, 1)


def test_merge_takes_the_highest_view_and_fills_gaps_a53_a54() -> None:
    """A-53, A-54, I-6: highest view per height, NULL in gaps, whatever the order of messages."""
    low = departure(evidence={1: (0, 11), 3: (0, 13)})
    high = departure(node=1, evidence={1: (2, 21)})
    none = departure(node=2, evidence={})
    for order in permutations((low, high, none)):
        assert merge(order, "") == (0, {1: 21, 2: NULL, 3: 13})
        assert merge(order, "lowview")[1][1] == 11


def test_merge_starts_at_the_highest_checkpoint() -> None:
    """The base is the highest checkpoint; evidence at or below it is dropped."""
    behind = departure(evidence={1: (0, 11), 2: (0, 12)})
    ahead = departure(node=1, checkpoint=1, evidence={})
    assert merge((behind, ahead), "") == (1, {2: 12})


def test_every_mutant_has_a_name() -> None:
    """`parse` knows exactly the catalogue."""
    for name in MUTANTS:
        assert parse(name) == name
    with pytest.raises(ValueError, match="no mutant"):
        parse("no_such_defect")
