"""Synchronous speculative decoding: the published equations by hand."""

import pytest

from sdbench.theory.speculative import expected_tokens, rounds_until, speculative_throughput
from tests.theory.forms import pyramid_throughput


def test_the_published_equations():
    # 4 drafted tokens at 400 tok/s and a verification at 50 tok/s: 30 ms for 0.6 * 5 tokens.
    assert speculative_throughput(0.6, 4, 400, 50) == pytest.approx(3 / 0.030)
    # The pair runs at 100 tok/s; 10 of its tokens and a target call at 20 tok/s: 150 ms for 0.5 * 11 tokens.
    assert pyramid_throughput([0.6, 0.5], [4, 10], 400, [50, 20]) == pytest.approx(5.5 / 0.150)
    assert pyramid_throughput([0.6], [4], 400, [50]) == speculative_throughput(0.6, 4, 400, 50)


def test_expected_tokens_of_a_geometric_acceptance():
    assert expected_tokens(0.5, 2) == pytest.approx(1.75)
    assert expected_tokens(1.0, 4) == 5.0
    assert expected_tokens(0.0, 4) == 1.0


def test_rounds_until_by_hand():
    assert rounds_until(0, {1: 1.0}) == 0
    assert rounds_until(6, {3: 1.0}) == 2
    assert rounds_until(5, {3: 1.0}) == 2
    # Two tokens from rounds of 1 or 2, evenly: 1 round in half the cases, else 2.
    assert rounds_until(2, {1: 0.5, 2: 0.5}) == pytest.approx(1.5)
