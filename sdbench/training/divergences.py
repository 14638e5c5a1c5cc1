"""Divergences between the target's law p and the drafter's law q, per position. The names are those of vllm-project/speculators.

    kl_div     KL(p || q): forward. The default of DistillSpec, speculators and SpecForge
    rkl        KL(q || p): reverse
    jsd        Jensen-Shannon, with equal weights
    tv         total variation, 1 - sum min(p, q): the probability that a drafted token is rejected (Leviathan et al., 2211.17192)
    ce         cross-entropy with the token that the target wrote (speculators: with its most likely token)
    nla        -log sum min(p, q): the negative logarithm of the acceptance
    lk_hybrid  w KL(p || q) + (1 - w) TV with w = exp(-3 alpha): KL while the acceptance alpha is low, TV later (2602.23881)

p is known on its `k` most likely tokens (`sdbench.training.teacher`). All other tokens together are one event, the rest. A token
that the drafter cannot propose belongs to neither law, because what q cannot reach teaches nothing. So kl_div, rkl and jsd compare
q with p restricted to the drafter's vocabulary and renormalised. The acceptance takes p as it is, and tv and nla follow it: what p
gives to tokens that the drafter lacks is lost. Tokens of the rest count nothing there, so the acceptance is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.training.teacher import TopLaw

_TINY = 1e-6  # least probability of an event, so that a logarithm is finite
LEAST = -30.0  # stands for the log probability of a token that the drafter cannot propose


@dataclass(frozen=True)
class Compared:
    """Two laws over k + 1 events: the target's most likely tokens and the rest.

    log_q: [N, k+1] of the drafter. p: [N, k+1] of the target, over what the drafter can propose. true: [N, k] the target's
    probabilities as parts of its whole law; 0 for a token that the drafter cannot propose. log_token: [N] the drafter's log
    probability of the token that the target wrote; -inf where it cannot propose it. best: [N] whether target and drafter have the
    same most likely token.
    """

    log_q: Float[Tensor, "N k1"]
    p: Float[Tensor, "N k1"]
    true: Float[Tensor, "N k"]
    log_token: Float[Tensor, " N"]
    best: Bool[Tensor, " N"]

    @property
    def alpha(self) -> Float[Tensor, " N"]:
        """Return the probability that the exact rule accepts a drafted token, sum min(p, q), over the known tokens."""
        return torch.minimum(self.true, self.log_q[:, :-1].exp()).sum(-1)


def compare(
    logits: Float[Tensor, "N R"], law: TopLaw, written: Int[Tensor, " N"], own: Int[Tensor, " V"] | None = None
) -> Compared:
    """Compare the drafter's logits with the target's law.

    logits: over the drafter's R tokens. written: the token that the target wrote. own: [V] the drafter's index of each token of the
    target, -1 where it has none. None: the vocabularies are the same. The result is on the device of the logits.
    """
    ids, probs, written = (one.to(logits.device) for one in (law.ids, law.probs, written))
    log_q = torch.log_softmax(logits.float(), -1)
    reads, token = (ids, written) if own is None else (own[ids], own[written])
    reach = reads >= 0
    known = log_q.gather(-1, reads.clamp(min=0)).masked_fill(~reach, -torch.inf)
    mass = known.exp().sum(-1).clamp(max=1 - _TINY)
    log_q_all = torch.cat([known, torch.log1p(-mass)[:, None]], -1)
    true = probs * reach
    rest = (1 - probs.sum(-1, keepdim=True)).clamp(min=_TINY)
    p = torch.cat([true, rest], -1)
    log_token = log_q.gather(-1, token.clamp(min=0)[:, None])[:, 0].masked_fill(token < 0, -torch.inf)
    best = reach[:, 0] & (known[:, 0] >= log_q.amax(-1)).detach()
    return Compared(log_q_all, p / p.sum(-1, keepdim=True), true, log_token, best)


Divergence = Callable[[Compared], Float[Tensor, " N"]]


def _held(one: Compared) -> tuple[Tensor, Tensor]:
    """Return log q and log p, finite, on every event. An event outside the drafter's vocabulary has p = 0 and counts nothing."""
    return one.log_q.masked_fill(one.log_q == -torch.inf, LEAST), one.p.clamp(min=_TINY).log()


def kl_div(one: Compared) -> Float[Tensor, " N"]:
    log_q, log_p = _held(one)
    return (one.p * (log_p - log_q)).sum(-1)


def rkl(one: Compared) -> Float[Tensor, " N"]:
    log_q, log_p = _held(one)
    return (one.log_q.exp() * (log_q - log_p)).sum(-1)


def jsd(one: Compared) -> Float[Tensor, " N"]:
    log_q, log_p = _held(one)
    q = one.log_q.exp()
    log_m = ((one.p + q) / 2).clamp(min=_TINY).log()
    return ((one.p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2


def tv(one: Compared) -> Float[Tensor, " N"]:
    return 1 - one.alpha


def ce(one: Compared) -> Float[Tensor, " N"]:
    return torch.where(one.log_token.isfinite(), -one.log_token, 0.0)


def nla(one: Compared) -> Float[Tensor, " N"]:
    return -one.alpha.clamp(min=_TINY).log()


def lk_hybrid(one: Compared) -> Float[Tensor, " N"]:
    weight = torch.exp(-3 * one.alpha.detach())
    return weight * kl_div(one) + (1 - weight) * tv(one)


DIVERGENCES: dict[str, Divergence] = {
    "kl_div": kl_div,
    "rkl": rkl,
    "jsd": jsd,
    "tv": tv,
    "ce": ce,
    "nla": nla,
    "lk_hybrid": lk_hybrid,
}


def divergence(name: str) -> Divergence:
    """Return the divergence of this name. Errors: InputError."""
    return DIVERGENCES[validate.choice("recipe.divergence", name, tuple(DIVERGENCES))]


def streak(log_token: Float[Tensor, "B T"], counted: Tensor, length: int) -> Float[Tensor, ""]:
    """Return minus the mean expected streak of accepted tokens, per token (SpecDiff-2, 2511.00606, streak distillation).

    At each position the streak is sum_j prod_{i<=j} q(token_i) over the next `length` tokens of the target's own text. It is
    divided by `length`.

    log_token: the drafter's log probability of each token. counted: [B, T] which tokens belong to the answer.
    """
    kept = log_token.masked_fill(~counted, -torch.inf)
    total, running = torch.zeros_like(kept), torch.zeros_like(kept)
    for offset in range(min(length, kept.shape[1])):
        moved = torch.full_like(kept, -torch.inf)
        moved[:, : kept.shape[1] - offset] = kept[:, offset:]
        running = running + moved
        total = total + running.exp()
    return -(total[counted] / length).mean()
