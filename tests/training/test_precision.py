"""How a training computes does not reach what the process computes later."""

import pytest
import torch

from sdbench.training.precision import denormals_flushed

SMALL = 1e-39  # denormal in float32


def halved() -> float:
    return float(torch.tensor([SMALL]) * 0.5)


def test_denormal_numbers_are_zero_inside_alone():
    assert halved() > 0
    with denormals_flushed():
        assert halved() == 0
    assert halved() > 0
    with pytest.raises(ZeroDivisionError), denormals_flushed():
        raise ZeroDivisionError
    assert halved() > 0
