"""Training-time test: its logits are those of drafting, and it can be differentiated."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import V, random_model
from tests.heads.heads import head_config, hidden_of, plain, random_head


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_unrolled_logits_are_those_of_drafting(kind):
    raw = random_model("llama")
    head = random_head(raw, head_config(kind, norm_before_residual=kind == "qwen3"))
    text = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(5))
    steps = head.unrolled(text, hidden_of(raw, text), 4)
    assert [logits.shape[1] for logits in steps] == [8, 7, 6, 5]
    for step, logits in enumerate(steps):
        for row, place in ((0, 0), (1, 2), (0, logits.shape[1] - 1)):
            wanted = plain(head, raw, text[row, : place + 2 + step].tolist(), place + 2)
            torch.testing.assert_close(logits[row, place], wanted, atol=2e-5, rtol=1e-4)


def test_padding_on_the_right_changes_nothing_before_it():
    raw = random_model("llama")
    head = random_head(raw, head_config())
    text = torch.randint(0, V, (1, 9), generator=torch.Generator().manual_seed(5))
    longer = torch.cat([text, torch.zeros(1, 3, dtype=torch.long)], 1)
    for short, padded in zip(
        head.unrolled(text, hidden_of(raw, text), 3), head.unrolled(longer, hidden_of(raw, longer), 3), strict=True
    ):
        torch.testing.assert_close(padded[:, : short.shape[1]], short, atol=1e-5, rtol=1e-4)


def test_each_step_gives_gradients_to_all_weights():
    raw = random_model("llama")
    head = random_head(raw, head_config()).requires_grad_(True)
    head.embed_tokens.weight.requires_grad_(False)
    text = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(5))
    for step in range(3):
        head.zero_grad()
        head.unrolled(text, hidden_of(raw, text), 3)[step].square().sum().backward()
        weights = {name: weight.grad for name, weight in head.named_parameters() if name != "embed_tokens.weight"}
        assert [name for name, grad in weights.items() if grad is None or not bool(grad.abs().sum() > 0)] == []
    head.requires_grad_(False)
