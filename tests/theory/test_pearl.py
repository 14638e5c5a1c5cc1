"""PEARL's tokens per round against its published values."""

import pytest

from sdbench.theory.pearl import tokens_per_round

PEARL = {0.6: (1.416, 1.515, 1.553), 0.7: (1.614, 1.810, 1.913), 0.8: (1.894, 2.283, 2.549), 0.9: (2.314, 3.127, 3.876)}


@pytest.mark.parametrize("a", PEARL)
def test_pearl(a):
    for window, wanted in zip((3, 5, 8), PEARL[a], strict=True):
        assert tokens_per_round(a, window) == pytest.approx(wanted, abs=6e-4)
