"""pass@k and pass^k against enumeration of all subsets."""

from itertools import combinations

import pytest

from k2core.evals.passk import pass_at_k, pass_hat_k


@pytest.mark.parametrize("n", range(1, 7))
def test_equal_to_enumeration(n):
    for c in range(n + 1):
        outcomes = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(outcomes, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
            assert pass_hat_k(n, c, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


def test_at_one_both_are_the_pass_rate():
    assert pass_at_k(8, 3, 1) == pass_hat_k(8, 3, 1) == 3 / 8


@pytest.mark.parametrize("arguments", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="needs 0 <= c <= n"):
        pass_at_k(*arguments)
    with pytest.raises(ValueError, match="needs 0 <= c <= n"):
        pass_hat_k(*arguments)
