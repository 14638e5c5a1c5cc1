"""Divergences equal their formulas on whole laws, also with a reduced vocabulary, and their gradients are finite."""

import math

import pytest
import torch

from sdbench.training.divergences import DIVERGENCES, Compared, compare, streak
from sdbench.training.teacher import TopLaw
from sdbench.training.token_masks import loss_gap, rejected

V, N = 12, 40
OWN = [1, 2, 3, 5, 7, 8, 11]  # ids of the reduced vocabulary


def laws(reduced: bool, top: int = V) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Compared]:
    """Return p [N, V] of the target, q [N, V] of the drafter, its logits, the written tokens [N], and the comparison."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(N, V, generator=generator), -1)
    written = torch.multinomial(p, 1, generator=generator)[:, 0]
    own = None
    if reduced:
        own = torch.full((V,), -1)
        own[OWN] = torch.arange(len(OWN))
    logits = (2 * torch.randn(N, len(OWN) if reduced else V, generator=generator)).requires_grad_()
    q = torch.softmax(logits.detach(), -1)
    if reduced:
        q = torch.zeros(N, V).index_copy(1, torch.tensor(OWN), q)
    best = p.topk(top)
    return p, q, logits, written, compare(logits, TopLaw(best.indices, best.values), written, own)


def kl(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.where(one > 0, one * (one.clamp(min=1e-30) / other.clamp(min=1e-30)).log(), 0.0).sum(-1)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_its_formula_on_whole_laws(name: str, reduced: bool) -> None:
    whole, q, _, written, compared = laws(reduced)
    p = whole * torch.isin(torch.arange(V), torch.tensor(OWN)) if reduced else whole
    p = p / p.sum(-1, keepdim=True)
    alpha = torch.minimum(whole, q).sum(-1)
    middle = (p + q) / 2
    token = q.gather(-1, written[:, None])[:, 0]
    expected = {
        "kl_div": kl(p, q),
        "rkl": kl(q, p),
        "jsd": (kl(p, middle) + kl(q, middle)) / 2,
        "tv": 1 - alpha,
        "ce": torch.where(token > 0, -token.clamp(min=1e-30).log(), 0.0),
        "nla": -alpha.log(),
        "lk_hybrid": torch.exp(-3 * alpha) * kl(p, q) + (1 - torch.exp(-3 * alpha)) * (1 - alpha),
    }[name]
    torch.testing.assert_close(DIVERGENCES[name](compared).detach(), expected, atol=2e-4, rtol=2e-3)
    assert (expected.max() - expected.min()) > 0.1  # the laws differ enough to tell formulas apart


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_finite_and_lower_the_loss(name: str) -> None:
    """Also where the drafter cannot propose what the target says, and where it is almost sure."""
    _, _, logits, _, compared = laws(reduced=True, top=4)
    loss = DIVERGENCES[name](compared).mean()
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0
    sure = torch.zeros(1, 3)
    sure[0, 0] = 200.0
    sure.requires_grad_()
    law = TopLaw(torch.tensor([[4, 1, 2]]), torch.tensor([[0.7, 0.2, 0.1]]))
    one = compare(sure, law, torch.tensor([4]), torch.tensor([0, 1, 2, -1, -1]))
    (slope,) = torch.autograd.grad(DIVERGENCES[name](one).sum(), sure)
    assert slope.isfinite().all()


def test_a_forward_divergence_pulls_up_a_token_of_any_small_probability() -> None:
    logits = torch.tensor([[0.0, -60.0]], requires_grad=True)
    one = compare(logits, TopLaw(torch.tensor([[1, 0]]), torch.tensor([[0.9, 0.1]])), torch.tensor([1]))
    (slope,) = torch.autograd.grad(DIVERGENCES["kl_div"](one).sum(), logits)
    assert slope[0, 1] < -0.5


def test_the_most_likely_token_is_compared_over_all_tokens() -> None:
    """With `top` 1 the rest may hold a larger token, or much mass in small ones."""
    law = TopLaw(torch.tensor([[0], [0]]), torch.tensor([[0.9], [0.9]]))
    logits = torch.log(torch.tensor([[0.3, 0.2, 0.2, 0.3 - 1e-3], [0.3, 0.4, 0.2, 0.1]]))
    assert compare(logits, law, torch.tensor([0, 0])).best.tolist() == [True, False]


@pytest.mark.parametrize("length", [1, 3, 20])
def test_a_streak_is_a_sum_over_products(length: int) -> None:
    q = torch.rand(3, 7, generator=torch.Generator().manual_seed(1))
    counted = torch.arange(7)[None] < torch.tensor([[7], [4], [1]])
    found = []
    for row in range(3):
        for begin in range(7):
            if not counted[row, begin]:
                continue
            streaks = [math.prod(q[row, begin : end + 1].tolist()) for end in range(begin, min(begin + length, 7))]
            inside = [bool(counted[row, end]) for end in range(begin, min(begin + length, 7))]
            found.append(sum(one for one, kept in zip(streaks, inside, strict=True) if kept) / length)
    log_q = q.log().requires_grad_()
    loss = streak(log_q, counted, length)
    assert float(loss.detach()) == pytest.approx(-sum(found) / len(found), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, log_q)
    assert slope.isfinite().all()
    assert (slope[counted] < 0).all()


def test_masks_keep_the_worst_tokens() -> None:
    own, reference = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0]), torch.tensor([2.9, 0.0, 1.0, 2.5, 1.0])
    assert loss_gap(own, reference, 0.4).tolist() == [False, False, True, False, True]
    assert loss_gap(own, reference, 1.0).all()
    assert rejected(torch.tensor([1.0, 0.95, 0.9, 0.2]), 0.1).tolist() == [False, False, True, True]
