"""What an acceptance rule is.

A verifier has scored K drafted tokens x_1 .. x_K: p_i is its distribution at the place of x_i (p_{K+1} the one behind
the last), q_i the proposer's. A rule draws nothing. It states the law of what may happen:

    accepted[n]    the probability that exactly the first n drafted tokens are kept, n = 0 .. K,
    next_token(n)  the law of the token that follows n kept ones: a correction (n < K) or the bonus (n = K).

So each rule can be proved by enumeration, and one function, `draw`, turns any law into a verdict. Most rules test one
token after another; `tokenwise` makes the law from the probability a_i that test i passes:

    accepted[n] = a_1 ... a_n (1 - a_{n+1}),    accepted[K] = a_1 ... a_K.

At temperature 0 every law consists of zeros and ones, so that nothing needs to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sdbench.acceptance.draft import NEVER, Draft, ProposalKind, wide
from sdbench.device import at_hand
from sdbench.keyed_random import Key
from sdbench.sampling import Sampler, Scored, most_likely


@dataclass
class Law:
    """The law of a verdict.

    accepted: [B, K+1], the probability of each number of kept tokens. next_token(n[B]) -> [B, V]: the law of the token
    behind n kept ones, made only for the n that was drawn. memory(n[B]) -> [B, M]: what a rule that remembers carries
    on when n were kept and the verifier added its own token, whichever that was; a stage above that cuts the stream
    behind n tokens and puts its own token there goes back to the same. drawn: the number of kept tokens is drawn at
    temperature 0 too, where a law of zeros and ones would leave nothing to draw. best: [B, K+1], of a law of zeros and ones: what
    follows each place; the drafted tokens are kept up to the first that differs from it.
    """

    accepted: Float[Tensor, "B K1"]
    next_token: Callable[[Int[Tensor, " B"]], Float[Tensor, "B V"]]
    memory: Callable[[Int[Tensor, " B"]], Float[Tensor, "B M"]] | None = None
    drawn: bool = False
    best: Int[Tensor, "B K1"] | None = None


@dataclass
class Verdict:
    """accepted: [B] drafted tokens kept; next_token: [B] the token that the verifier adds behind them."""

    accepted: Int[Tensor, " B"]
    next_token: Int[Tensor, " B"]


@dataclass(frozen=True)
class Decided:
    """A verdict on the host, in lists of B: drafted tokens that were proposed, and accepted; and the tokens that each row's stream
    gains, which are the accepted ones and the verifier's own."""

    proposed: list[int]
    accepted: list[int]
    tokens: list[list[int]]

    @property
    def next_token(self) -> list[int]:
        return [gained[-1] for gained in self.tokens]


class AcceptanceRule(Protocol):
    """Decides how much of a draft a verifier keeps. Pure: tensors in, a law out.

    lossless_over: for which drafts the verified stream has exactly the verifier's law (NEVER for a lossy rule).
    """

    lossless_over: frozenset[ProposalKind]

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B M"] | None = None) -> Law:
        """The law of what happens to `draft` under the verifier's scores p: [B, K+1, V]."""
        ...

    def start(self, rows: int) -> Float[Tensor, "B M"] | None:
        """The memory of a fresh row; None for a rule that remembers nothing."""
        ...


class Memoryless:
    """What most rules have in common: they test one token after another, and remember nothing.

    simulated: the rule tests nothing, what is kept is forced; no quality is reported of its stream.
    """

    lossless_over: frozenset[ProposalKind] = NEVER
    simulated = False

    def start(self, rows: int) -> None:
        return None


def tokenwise(
    draft: Draft,
    p: Scored,
    passes: Shaped[Tensor, "B K"],
    replacement: Callable[[Int[Tensor, " B"]], Float[Tensor, "B V"]] | None = None,
    memory: Callable[[Int[Tensor, " B"]], Float[Tensor, "B M"]] | None = None,
) -> Law:
    """The law of a rule that tests one token after another.

    passes: the probability that each test is passed, given that the earlier ones were. replacement(n): the law of the
    token in place of x_{n+1} when its test failed, p itself if none is given. Behind a draft kept whole stands p.
    """
    K = draft.tokens.shape[1]
    passes = passes.to(wide(p.logits))
    if not draft.full:
        passes = torch.where(torch.arange(K, device=draft.tokens.device) < draft.length[:, None], passes, 0)
    ones = passes.new_ones(len(passes), 1)
    reach, fails = torch.cat([ones, passes.cumprod(-1)], 1), torch.cat([1 - passes, ones], 1)

    def next_token(n: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        if replacement is None or K == 0:
            return row(p, n).probs
        if at_hand(n):  # where asking costs nothing, only what is needed is made
            whole = [kept == length for kept, length in zip(n.tolist(), draft.length.tolist(), strict=True)]
            if all(whole):
                return row(p, n).probs
            if not any(whole):
                return replacement(n)
        return torch.where((n == draft.length)[:, None], row(p, n).probs, replacement(n.clamp(max=K - 1)))

    return Law(reach * fails, next_token, memory)


def keep_best(draft: Draft, p: Scored) -> Law:
    """The greedy form of the exact rule and of many others: keep the tokens that are the verifier's most likely ones.

    Whatever the draft is, the stream is then the verifier's greedy one.
    """
    return _Known(draft, p)


class _Known(Law):
    """The law of zeros and ones of what is known beforehand, written out for who asks."""

    def __init__(self, draft: Draft, p: Scored) -> None:
        best, logits = p.best, p.logits
        self.memory, self.drawn, self.best = None, False, best
        self.next_token = lambda n: one_hot(at(best, n), logits)
        self._draft, self._best, self._type = draft, best, wide(logits)

    @cached_property
    def accepted(self) -> Float[Tensor, "B K1"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        draft, best = self._draft, self._best
        kept = draft.tokens.eq(best[:, :-1]).cumprod(-1).sum(-1).minimum(draft.length)
        return torch.zeros(best.shape, dtype=self._type, device=best.device).scatter_(1, kept[:, None], 1.0)


def at(values: Shaped[Tensor, "B T ..."], n: Int[Tensor, " B"]) -> Shaped[Tensor, "B ..."]:
    """values[b, n[b]] for every row."""
    return values[torch.arange(len(n), device=values.device), n]


def row(scored: Scored, n: Int[Tensor, " B"]) -> Scored:
    """The scores [B, V] of place n[b] of every row: warped, if they were not yet, for these places only."""
    return scored[torch.arange(len(n), device=n.device), n]


def taken(values: Float[Tensor, "B T V"], tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """What `values` (probabilities, logits) say of each drafted token (T may exceed K: p has one row more)."""
    return values[:, : tokens.shape[1]].gather(-1, tokens[..., None]).squeeze(-1)


def one_hot(index: Int[Tensor, " B"], like: Float[Tensor, "*batch V"]) -> Float[Tensor, "B V"]:
    """All mass on index[b], over the vocabulary of `like`."""
    zeros = torch.zeros(len(index), like.shape[-1], dtype=wide(like), device=like.device)
    return zeros.scatter_(-1, index[:, None], 1.0)


def ratio(p: Float[Tensor, "B T V"], q: Float[Tensor, "B K V"], draft: Draft) -> Float[Tensor, "B K"]:
    """min(1, p(x) / q(x)) for each drafted token; 0 where neither gives it any mass (a nominal draft may hold such)."""
    return (taken(p, draft.tokens) / taken(q, draft.tokens)).nan_to_num(nan=0.0).clamp(max=1)


def normalised(weights: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """weights / their sum; a row of zeros (which no draw can reach) becomes uniform rather than NaN."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total, 1.0 / weights.shape[-1])


def residual(p: Float[Tensor, "*batch V"], q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """norm((p - q)+), the law that makes up for what the test min(1, p/q) lets through.

    Where nothing is left (q covers p) it is p: over tokens drawn from q no draw gets there, but a nominal draft may.
    """
    rest = (p - q).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total, p)


def verify(
    rule: AcceptanceRule,
    draft: Draft,
    p: Scored,
    memory: Float[Tensor, "B M"] | None,
    sampler: Sampler,
    key: Key,
) -> tuple[Decided, Law | None]:
    """Apply a rule to a draft: what happens, and the law that it was drawn from. It is the one place that waits for the device.

    Where nothing was drafted and nothing is remembered there is nothing to decide, so no law: p's own token follows.
    """
    if draft.tokens.shape[1] == 0 and memory is None:
        own = p.best if sampler.sampling.greedy else sampler.draw(p[:, 0], key / "next")[:, None]
        (tokens,) = fetched(own)
        none = [0] * len(tokens)
        return Decided(none, none, tokens), None
    law = rule.law(draft, p, memory)
    if law.best is not None and sampler.sampling.greedy:
        best, drafted, proposed = fetched(law.best, draft.tokens, draft.length)
        accepted = [_alike(*line) for line in zip(best, drafted, proposed, strict=True)]
        following = [line[n] for line, n in zip(best, accepted, strict=True)]
    else:
        verdict = draw(law, sampler, key)
        accepted, following, drafted, proposed = fetched(
            verdict.accepted, verdict.next_token, draft.tokens, draft.length
        )
    gained = [[*line[:n], token] for line, n, token in zip(drafted, accepted, following, strict=True)]
    return Decided(proposed, accepted, gained), law


def _alike(best: list[int], drafted: list[int], length: int) -> int:
    """How many of the first `length` drafted tokens are the best ones, up to the first that is not."""
    kept = 0
    while kept < length and drafted[kept] == best[kept]:
        kept += 1
    return kept


def fetched(*tensors: Int[Tensor, "B ..."]) -> list[list[Any]]:
    """Tensors of one device as lists, with one wait for it."""
    if tensors[0].is_cpu:
        return [tensor.tolist() for tensor in tensors]
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).tolist() for part, tensor in zip(parts, tensors, strict=True)]


def draw(law: Law, sampler: Sampler, key: Key) -> Verdict:
    """Draw what happens: the number of kept tokens, then the token behind them. Greedy needs no choice."""
    accepted = count(law, sampler, key)
    if sampler.sampling.greedy:
        return Verdict(accepted, most_likely(law.next_token(accepted)))
    return Verdict(accepted, sampler.choices.choose(law.next_token(accepted), key / "next"))


def count(law: Law, sampler: Sampler, key: Key) -> Int[Tensor, " B"]:
    """How many drafted tokens are kept."""
    if sampler.sampling.greedy and not law.drawn:
        return most_likely(law.accepted)
    return sampler.choices.choose(law.accepted, key / "accepted")
