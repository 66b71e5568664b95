"""Which node a load generator takes for the primary, whatever f nodes say."""

from __future__ import annotations

from tepbft.lab.primary import PrimaryGuess


def test_the_first_primary_is_node_0() -> None:
    assert PrimaryGuess(3, 1).node == 0


def test_f_plus_1_nodes_move_it() -> None:
    guess = PrimaryGuess(5, 2)
    for node in range(5):
        guess.introduced(node, 0, 0)
    for node in (1, 2):
        guess.said(node, 3)
        assert guess.node == 0
    guess.said(4, 4)  # a higher view says so as well
    assert guess.node == 3
    guess.said(4, 0)  # an older answer says nothing
    assert guess.node == 3


def test_f_liars_move_nothing() -> None:
    guess = PrimaryGuess(3, 1)
    guess.introduced(2, 1 << 40, 2)
    guess.said(2, 1 << 41)
    assert guess.node == 0
    guess.said(0, 1)
    guess.said(1, 1)
    assert guess.node == 1


def test_the_shift_of_a_configuration_counts_once_f_plus_1_nodes_say_so() -> None:
    guess = PrimaryGuess(3, 1)
    guess.introduced(0, 4, 0)
    assert guess.node == 0
    guess.introduced(1, 4, 0)
    assert guess.node == 0
    guess.said(0, 5)
    guess.said(1, 5)
    assert guess.node == 1


def test_a_node_that_starts_anew_may_name_a_lower_view() -> None:
    guess = PrimaryGuess(3, 1)
    for node in (0, 1):
        guess.introduced(node, 5, 2)
    assert guess.node == 2
    for node in (0, 1):
        guess.introduced(node, 3, 0)
    assert guess.node == 0
