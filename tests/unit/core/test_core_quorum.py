"""Quorum arithmetic against its obvious twin: enumeration of all subsets."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepbft.core.quorum import quorums


def twin(n: int) -> tuple[int, int, int]:
    """(f, commit quorum, certificate quorum), found by trying: the largest f with 2f + 1 <= n; the
    largest commit quorum that f silent nodes cannot block; the smallest certificate quorum that
    contains a correct node."""
    f = max(k for k in range(n) if 2 * k + 1 <= n)
    commit = max(q for q in range(1, n + 1) if n - f >= q)
    certificate = min(q for q in range(1, n + 1) if q > f)
    return f, commit, certificate


@given(st.integers(min_value=3, max_value=64))
def test_quorums_equal_their_twin(n: int) -> None:
    q = quorums(n)
    assert (q.f, q.commit, q.certificate) == twin(n)
    assert q.n == n
    assert q.commit + q.certificate == n + 1


@pytest.mark.parametrize("n", range(3, 9))
def test_every_commit_quorum_meets_every_certificate_quorum(n: int) -> None:
    """I-1: what A6.2 needs, over all subsets; one vote less and it breaks."""
    q = quorums(n)

    def meet(size: int, other: int) -> bool:
        return all(
            set(some) & set(others)
            for some in combinations(range(n), size)
            for others in combinations(range(n), other)
        )

    assert meet(q.commit, q.certificate)
    assert not meet(q.commit - 1, q.certificate)
    assert not meet(q.commit, q.certificate - 1)


def test_even_sizes_commit_with_more_than_f_plus_1() -> None:
    """n = 4 tolerates one fault, commits with 3, certifies with 2."""
    assert quorums(4) == (4, 1, 3, 2)


@pytest.mark.parametrize("n", [-1, 0, 1, 2])
def test_too_small_clusters_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        quorums(n)
