"""The tables of `docs/ties.md` are those of the code and of the kept measurements."""

import json
import re

import pytest
import torch

from sdbench.harness.ties import STEPS, tolerance
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "ties.md").read_text()
DTYPES = ["bfloat16", "float16", "float32"]


def row(table: str, dtype: str) -> list[str]:
    return re.findall(rf"^\| {dtype} \| (.+) \|$", PAGE[PAGE.index(table) :], re.M)[0].split(" | ")


def value(cell: str) -> float:
    above, _, below = cell.partition("/")
    return float(above) / float(below or 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tolerance(dtype):
    precision: torch.dtype = getattr(torch, dtype)
    small, large, steps, bound = map(value, row("## The tolerance", dtype))
    logits = torch.tensor([20.0, 19.0, 1.0])
    assert steps == STEPS[precision]
    assert small == pytest.approx(4 * torch.finfo(precision).eps, rel=0.05)
    assert large == pytest.approx(16 * torch.finfo(precision).eps, rel=0.05)
    assert bound == pytest.approx(float(tolerance(logits, logits[1], precision)), rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_measurements(dtype):
    found = json.loads((ROOT / "results" / "bench" / "rounding" / f"smollm2-{dtype}.json").read_text())
    keys = ("half", "most", "largest", "parted")
    assert row("## Measurements", dtype) == [str(found["comparisons"]), *(f"{found[key]:.1f}" for key in keys)]
    assert found["largest"] < STEPS[getattr(torch, dtype)] / 2, "the tolerance has no margin"
