"""Blocked copies of weights: the same products, made anew when a weight changes, and none where they must not be."""

import copy

import pytest
import torch
from torch import nn

from sdbench.device import native_bfloat16
from sdbench.lm import prepacked
from sdbench.lm.prepacked import PrepackedLinear, prepack, prepacked_bytes


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr(prepacked, "SMALLEST", 64)
    torch.manual_seed(0)
    part = nn.Linear(48, 40).requires_grad_(False)
    prepack(part)
    assert type(part) is PrepackedLinear
    return part


def plain(part, given):
    return nn.functional.linear(given, part.weight, part.bias)


@pytest.mark.parametrize("shape", [(1, 48), (5, 48), (2, 3, 48), (0, 48)])
def test_the_products_are_those_of_a_plain_layer(linear, shape):
    given = torch.randn(shape)
    torch.testing.assert_close(linear(given), plain(linear, given), rtol=1e-5, atol=1e-5)
    last = torch.randn(2, 7, 48)[:, -1:]  # the last of several tokens keeps the stride of all of them
    torch.testing.assert_close(linear(last), plain(linear, last), rtol=1e-5, atol=1e-5)


def test_a_changed_weight_is_used_at_once(linear):
    given = torch.randn(3, 48)
    linear(given)
    linear.weight.mul_(2)
    torch.testing.assert_close(linear(given), plain(linear, given), rtol=1e-5, atol=1e-5)
    linear.weight = nn.Parameter(torch.randn(40, 48), requires_grad=False)
    torch.testing.assert_close(linear(given), plain(linear, given), rtol=1e-5, atol=1e-5)


def test_a_copy_of_the_module_has_its_own_blocked_weight(linear):
    given = torch.randn(3, 48)
    linear(given)
    other = copy.deepcopy(linear)
    assert prepacked_bytes(other) == 0 < prepacked_bytes(linear) == 4 * 40 * 48
    other.weight.zero_()
    torch.testing.assert_close(other(given), other.bias.expand(3, 40))


def test_a_training_gets_gradients(linear):
    linear.requires_grad_(True)
    linear(torch.randn(3, 48)).sum().backward()
    assert float(linear.weight.grad.abs().sum()) > 0
    assert prepacked_bytes(linear) == 0


@pytest.mark.parametrize("native", [True, False])
def test_only_large_matrices_on_the_cpu_are_prepacked(native, monkeypatch):
    monkeypatch.setattr(prepacked, "SMALLEST", 100)
    monkeypatch.setattr("sdbench.device.native_bfloat16", lambda: native)
    parts = nn.ModuleList([
        nn.Linear(9, 9),
        nn.Linear(12, 12, dtype=torch.bfloat16),
        nn.Linear(12, 12, dtype=torch.float64),
        nn.Linear(12, 12, device="meta"),
        nn.Linear(12, 12),
    ])  # fmt: skip
    prepack(parts)
    assert [type(part) is PrepackedLinear for part in parts] == [False, native, False, False, True]


@pytest.mark.skipif(not native_bfloat16(), reason="this processor has no bfloat16 instructions")
@pytest.mark.parametrize("shape", [(1, 48), (2, 3, 48)])
def test_bfloat16(shape, monkeypatch):
    monkeypatch.setattr(prepacked, "SMALLEST", 64)
    part = nn.Linear(48, 40, dtype=torch.bfloat16).requires_grad_(False)
    prepack(part)
    given = torch.randn(shape, dtype=torch.bfloat16)
    torch.testing.assert_close(part(given), plain(part, given), rtol=2e-2, atol=2e-2)
    assert prepacked_bytes(part) == 2 * 40 * 48


def test_another_type_of_numbers_is_computed_as_before(linear):
    given = torch.randn(3, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(given).dtype == torch.bfloat16
    assert prepacked_bytes(linear) == 0
