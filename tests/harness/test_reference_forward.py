"""Test the choice of reference forwards after a block: their shapes, their order, and how often each model runs."""

from itertools import pairwise
from typing import Any

import torch

from sdbench.harness.reference_forward import AT_ONCE, GRID, ReferenceForwards
from sdbench.lm.transformer import Transformer
from tests.conftest import random_model

K = 3


def rounds(count: int, loop: bool) -> list[dict[str, Any]]:
    """The steps of rounds that draft K tokens and verify them."""
    draft = {"role": "draft", "kind": "draft", "rows": 1, "tokens": 1, "context": GRID + 1}
    drafts = [{**draft, "loop": K} if loop else draft] * K
    return [*drafts, {"role": "target", "kind": "verify", "rows": 1, "tokens": K + 1, "context": GRID + K + 1}] * count


def timed(monkeypatch, steps: list[dict[str, Any]]) -> list[str]:
    models = {role: Transformer(role, random_model("llama")) for role in ("target", "draft")}
    order = []
    monkeypatch.setattr(ReferenceForwards, "_forward", lambda self, role, *shape: order.append(role) or 1e-3)
    bare = ReferenceForwards(models)
    bare.see(steps)
    for _ in range(10):
        bare.time()
    return order


def test_a_loop_is_timed_as_often_as_what_verifies_it(monkeypatch):
    """Were each of its steps a forward, the loop would run right behind itself most of the time, its weights in the caches."""
    order = timed(monkeypatch, rounds(20, loop=True))
    assert len(order) == 10 * AT_ONCE
    assert abs(order.count("draft") - order.count("target")) <= 2
    assert sum(a == b for a, b in pairwise(order)) <= 10, "in turn, but where one part meets the next"


def test_a_step_is_timed_as_often_as_it_is_made(monkeypatch):
    order = timed(monkeypatch, rounds(20, loop=False))
    assert abs(order.count("draft") - K * order.count("target")) <= 6


def test_what_was_done_beside_the_verifier_is_not_timed(monkeypatch):
    steps = [{**step, "concurrent": True} if step["role"] == "draft" else step for step in rounds(5, loop=False)]
    assert {*timed(monkeypatch, steps)} == {"target"}


@torch.inference_mode()
def test_a_bare_forward_is_of_the_shape_of_the_step():
    model = Transformer("target", random_model("llama"))
    model.allocate(1, 200)
    bare = ReferenceForwards({"target": model})
    bare.see([{"role": "target", "kind": "verify", "rows": 1, "tokens": 4, "context": GRID + 4}])
    rows = bare.time()
    assert {(row["role"], row["rows"], row["tokens"], row["context"]) for row in rows} == {
        ("target", 1, 4, GRID + 4),
        ("target", 1, 4, 2 * GRID + 4),
    }
    assert all(row["seconds"] > 0 for row in rows)
