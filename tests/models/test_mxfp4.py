"""The MXFP4 cast against the table of the OCP specification: every code, tie and scale, and blocks at the ends of the range."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from sdbench.models.mxfp4 import BITS, BLOCK, E2M1, mxfp4, scales, to_e2m1


def value_of(code: int) -> float:
    """The value of an E2M1 code, from its bits: a sign, two bits of exponent with bias 1, one bit of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, (code >> 1) & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else 2.0 ** (exponent - 1) * (1 + mantissa / 2))


VALUES = [value_of(code) for code in range(16)]
SIZES = VALUES[:8]


def nearest(value: float) -> float:
    """Round by the definition: the nearest value, of two at the same distance the one with an even code; beyond 6 it is 6."""
    code = min(range(8), key=lambda code: (abs(Fraction(abs(value)) - Fraction(SIZES[code])), code & 1))
    return math.copysign(SIZES[code], value)


def test_the_table_of_values():
    assert tuple(SIZES) == E2M1 == (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    assert VALUES[8:] == [-size for size in SIZES]
    assert BITS == 4.25


def test_every_code_is_its_own_value():
    assert to_e2m1(torch.tensor(VALUES)).tolist() == VALUES
    assert math.copysign(1, float(to_e2m1(torch.tensor([-0.0, -0.2]))[1])) == -1, "a zero keeps its sign"


def test_every_tie_goes_to_the_even_code():
    ties = [(low + high) / 2 for low, high in itertools.pairwise(SIZES)]
    assert to_e2m1(torch.tensor(ties)).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    above = torch.tensor(ties).nextafter(torch.tensor(math.inf))
    below = torch.tensor(ties).nextafter(torch.tensor(0.0))
    assert to_e2m1(above).tolist() == SIZES[1:]
    assert to_e2m1(below).tolist() == SIZES[:-1]


def test_every_value_between():
    values = torch.cat([torch.linspace(-8, 8, 4097), torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3])
    assert to_e2m1(values).tolist() == [nearest(value) for value in values.tolist()]
    # A negative control: rounding ties away from zero is another function.
    away = torch.copysign((values.abs() * 2 + 0.5).floor() / 2, values)
    assert to_e2m1(values).tolist() != away.tolist()


@pytest.mark.parametrize("value", [6.5, 7.0, 7.99, 100.0, 1e38])
def test_what_is_too_large_saturates(value):
    assert to_e2m1(torch.tensor([value, -value])).tolist() == [6.0, -6.0]


def block(first: float, *others: float) -> torch.Tensor:
    return torch.tensor([first, *others] + [0.0] * (BLOCK - 1 - len(others)))


def test_every_shared_scale():
    """2^(floor(log2(amax)) - 2) in E8M0, for the magnitudes of float32 from the smallest subnormal to the largest number."""
    for exponent in range(-149, 128):
        for mantissa in (1.0, 1.5):
            amax = mantissa * 2.0**exponent
            if mantissa == 1.5 and exponent == -149:
                continue  # not a float32
            got = float(scales(block(amax))[0])
            assert got == 2.0 ** max(exponent - 2, -127), amax
            assert float(scales(block(0.0, -amax))[0]) == got


def by_definition(values: list[float]) -> list[float]:
    amax = max(map(abs, values))
    scale = 2.0 ** max(math.frexp(amax)[1] - 3, -127) if amax else 1.0
    return [nearest(value / scale) * scale for value in values]


@pytest.mark.parametrize("exponent", [-140, -126, -20, 0, 20, 125])
def test_blocks_against_the_definition(exponent):
    noise = torch.randn(6, 4 * BLOCK, generator=torch.Generator().manual_seed(exponent + 200)).clamp(-3.9, 3.9)
    weight = noise * 2.0**exponent
    got = mxfp4(weight)
    expected = [by_definition(part) for row in weight.unflatten(1, (-1, BLOCK)).tolist() for part in row]
    assert got.reshape(-1, BLOCK).tolist() == expected


def test_the_largest_of_a_block_saturates_at_the_top_of_its_binade():
    assert mxfp4(block(7.9, 1.0))[:2].tolist() == [6.0, 1.0]
    assert mxfp4(block(-7.9 * 2**10, 2.0**9))[:2].tolist() == [-6.0 * 2**10, 2.0**9]


def test_zero_and_subnormal_blocks():
    assert mxfp4(torch.zeros(2, 64)).tolist() == torch.zeros(2, 64).tolist()
    # Below the smallest scale, 2^-127, the smallest element is 2^-128: its half goes to the even zero.
    assert mxfp4(block(2.0**-128, 2.0**-129, 2.0**-149))[:3].tolist() == [2.0**-128, 0.0, 0.0]
    assert mxfp4(block(1.0, 0.125, 0.0625, 2.0**-149))[:4].tolist() == [1.0, 0.125, 0.0, 0.0]


def test_blocks_do_not_see_each_other_and_the_last_may_be_shorter():
    weight = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    weight[:, 40] *= 1e4
    got = mxfp4(weight)
    for start in range(0, 70, BLOCK):
        assert got[:, start : start + BLOCK].equal(mxfp4(weight[:, start : start + BLOCK]))
    assert mxfp4(weight.T, dim=0).equal(got.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cast_weight_is_its_own_cast(dtype):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    once = mxfp4(weight)
    assert once.dtype == dtype
    assert mxfp4(once).equal(once)
    assert once.float().equal(mxfp4(weight.float())), "the dtype holds every value of the format"
    assert not once.equal(weight)


def test_torchao_gives_the_same_values():
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", reason="needs torchao: pip install torchao")
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    theirs = mx.MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, BLOCK, mx.ScaleCalculationMode.FLOOR)
    assert mxfp4(weight).equal(theirs.dequantize(torch.float32))
