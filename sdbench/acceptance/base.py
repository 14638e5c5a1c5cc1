"""The interface of an acceptance rule, and the functions that all rules share.

A verifier has scored K drafted tokens x_1 .. x_K. Its distribution at the position of x_i is p_i, and p_{K+1} is the one behind
the last token. The proposer's distribution is q_i. A rule draws nothing. It states the law of the verdict:

    accepted[n]    the probability that exactly the first n drafted tokens are kept, n = 0 .. K,
    next_token(n)  the law of the token that follows n kept ones: a correction (n < K) or the bonus (n = K).

So each rule can be proved by enumeration, and one function, `draw`, turns any law into a verdict. Most rules test one token after
the other. `tokenwise` makes the law from the probability a_i that test i passes:

    accepted[n] = a_1 ... a_n (1 - a_{n+1}),    accepted[K] = a_1 ... a_K.

At temperature 0 every law consists of zeros and ones, so nothing needs to be drawn.
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
from sdbench.topology import Topology, VerifiedTree


@dataclass
class Law:
    """State the law of a verdict.

    accepted: [B, K+1], the probability of each number of kept tokens.
    next_token: n[B] -> [B, V], the law of the token behind n kept ones. It is computed only for the n that was drawn.
    memory: n[B] -> [B, M], the rule's memory if n tokens were kept and the verifier added its own token, whichever it was. If a
        stage above cuts the text behind n tokens and adds its own token, the memory is the same.
    drawn: the number of kept tokens is drawn at temperature 0 too. Only simulated acceptance needs this.
    best: [B, K+1], the verifier's most likely tokens, if the law keeps the drafted tokens up to the first one that differs.
    """

    accepted: Float[Tensor, "B K1"]
    next_token: Callable[[Int[Tensor, " B"]], Float[Tensor, "B V"]]
    memory: Callable[[Int[Tensor, " B"]], Float[Tensor, "B M"]] | None = None
    drawn: bool = False
    best: Int[Tensor, "B K1"] | None = None


@dataclass
class Verdict:
    """Hold a drawn verdict. accepted: [B] kept drafted tokens. next_token: [B] the token that the verifier adds behind them."""

    accepted: Int[Tensor, " B"]
    next_token: Int[Tensor, " B"]


@dataclass(frozen=True)
class Decided:
    """Hold a verdict on the host, in lists of B.

    proposed, accepted: numbers of drafted tokens; of a tree, the depth of the tree and of the kept node.
    tokens: by row, the accepted tokens and the verifier's own one.
    path: by row, the kept nodes of a tree; None for chains. trees: by row, the tree and how it was verified; None for chains.
    """

    proposed: list[int]
    accepted: list[int]
    tokens: list[list[int]]
    path: list[list[int]] | None = None
    trees: list[VerifiedTree] | None = None

    @property
    def next_token(self) -> list[int]:
        return [gained[-1] for gained in self.tokens]


class AcceptanceRule(Protocol):
    """Decide how much of a draft a verifier keeps. A rule is pure: tensors in, a law out.

    lossless_over: the kinds of drafts over which the output has exactly the verifier's law (NEVER for a lossy rule).
    """

    lossless_over: frozenset[ProposalKind]

    def law(self, draft: Draft, p: Scored, memory: Float[Tensor, "B M"] | None = None) -> Law:
        """Return the law of the verdict on `draft`. p: [B, K+1, V], the verifier's scores. memory: of each row."""
        ...

    def start(self, rows: int) -> Float[Tensor, "B M"] | None:
        """Return the memory of a new sequence; None for a rule that remembers nothing."""
        ...


class Memoryless:
    """Provide what most rules have in common: they remember nothing.

    simulated: the rule tests no token (simulated acceptance), so no quality is reported.
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
    """Return the law of a rule that tests one token after the other.

    passes: the probability that each test passes, given that the earlier ones did.
    replacement: n[B] -> [B, V], the law of the token in place of x_{n+1} if its test failed (None: p).
    memory: as in `Law`. The token behind a whole draft has the law p.
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
        if at_hand(n):  # on the CPU, compute only the part that is needed
            whole = [kept == length for kept, length in zip(n.tolist(), draft.length.tolist(), strict=True)]
            if all(whole):
                return row(p, n).probs
            if not any(whole):
                return replacement(n)
        return torch.where((n == draft.length)[:, None], row(p, n).probs, replacement(n.clamp(max=K - 1)))

    return Law(reach * fails, next_token, memory)


def keep_best(draft: Draft, p: Scored) -> Law:
    """Return the greedy law of the exact rule and of many others: keep the tokens that are the verifier's most likely ones.

    Over any draft the output is then the verifier's greedy one.
    """
    return _Known(draft, p)


class _Known(Law):
    """A deterministic law. Its probability table is computed on demand."""

    def __init__(self, draft: Draft, p: Scored) -> None:
        best, logits = p.best, p.logits
        self.memory, self.drawn, self.best = None, False, best
        self.next_token = lambda n: one_hot(at(best, n), logits)
        self._draft, self._best, self._type = draft, best, wide(logits)

    @cached_property
    def accepted(self) -> Float[Tensor, "B K1"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        draft, best = self._draft, self._best
        if draft.topology is not None:
            lines = zip(draft.topology, *fetched(best, draft.tokens), strict=True)
            kept = torch.tensor([_best_end(*line) for line in lines], device=best.device)
        else:
            kept = draft.tokens.eq(best[:, :-1]).cumprod(-1).sum(-1).minimum(draft.length)
        return torch.zeros(best.shape, dtype=self._type, device=best.device).scatter_(1, kept[:, None], 1.0)


def at(values: Shaped[Tensor, "B T ..."], n: Int[Tensor, " B"]) -> Shaped[Tensor, "B ..."]:
    """Return values[b, n[b]] for every row."""
    return values[torch.arange(len(n), device=values.device), n]


def row(scored: Scored, n: Int[Tensor, " B"]) -> Scored:
    """Return the scores [B, V] at position n[b] of every row. Only these positions are warped, if none was."""
    return scored[torch.arange(len(n), device=n.device), n]


def taken(values: Float[Tensor, "B T V"], tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Return the value (probability, logit) of each drafted token. T may exceed K, because p has one position more."""
    return values[:, : tokens.shape[1]].gather(-1, tokens[..., None]).squeeze(-1)


def one_hot(index: Int[Tensor, " B"], like: Float[Tensor, "*batch V"]) -> Float[Tensor, "B V"]:
    """Return distributions with all mass on index[b], over the vocabulary of `like`."""
    zeros = torch.zeros(len(index), like.shape[-1], dtype=wide(like), device=like.device)
    return zeros.scatter_(-1, index[:, None], 1.0)


def ratio(p: Float[Tensor, "B T V"], q: Float[Tensor, "B K V"], draft: Draft) -> Float[Tensor, "B K"]:
    """Return min(1, p(x) / q(x)) for each drafted token; 0 where p and q give it no mass, as in a relabelled draft."""
    return (taken(p, draft.tokens) / taken(q, draft.tokens)).nan_to_num(nan=0.0).clamp(max=1)


def normalised(weights: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """Return weights / their sum. A row of zeros, which no draw can reach, becomes uniform rather than NaN."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total, 1.0 / weights.shape[-1])


def residual(p: Float[Tensor, "*batch V"], q: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """Return norm((p - q)+), the law of the correction behind the test min(1, p/q).

    Where nothing is left, because q covers p, it is p. Tokens drawn from q never get there, but a relabelled draft may.
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
    """Apply a rule to a draft. Return the verdict and its law. This is the only function that waits for the device.

    An empty draft under a rule without memory has no law (None): p's own token follows.
    """
    draft, p = draft.candidates(p)
    if draft.tokens.shape[1] == 0 and memory is None:
        own = p.best if sampler.sampling.greedy else sampler.draw(p[:, 0], key / "next")[:, None]
        (tokens,) = fetched(own)
        none = [0] * len(tokens)
        return Decided(none, none, tokens), None
    if draft.topology is not None:
        return _on_tree(rule, draft, draft.topology, p, sampler, key)
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


def _on_tree(
    rule: Any, draft: Draft, trees: list[Topology], p: Scored, sampler: Sampler, key: Key
) -> tuple[Decided, Law]:
    """Apply a rule to a draft of token trees."""
    law: Law = rule.tree_law(draft, p)
    if law.best is not None and sampler.sampling.greedy:
        best, drafted = fetched(law.best, draft.tokens)
        ends = [_best_end(*line) for line in zip(trees, best, drafted, strict=True)]
        following = [line[node] for line, node in zip(best, ends, strict=True)]
    else:
        verdict = draw(law, sampler, key)
        ends, following, drafted = fetched(verdict.accepted, verdict.next_token, draft.tokens)
    paths = [tree.path(node) for tree, node in zip(trees, ends, strict=True)]
    kept = [[line[node - 1] for node in path] for line, path in zip(drafted, paths, strict=True)]
    proposed = [max(tree.depth) for tree in trees]
    gained = [[*tokens, token] for tokens, token in zip(kept, following, strict=True)]
    verified = [
        VerifiedTree(tree, line[: tree.size], node) for tree, line, node in zip(trees, drafted, ends, strict=True)
    ]
    return Decided(proposed, list(map(len, paths)), gained, paths, verified), law


def _best_end(tree: Topology, best: list[int], drafted: list[int]) -> int:
    """Return the node at which the path of the verifier's most likely tokens leaves a tree."""
    node = 0
    while True:
        fits = (child for child in tree.children[node] if drafted[child - 1] == best[node])
        child = next(fits, None)
        if child is None:
            return node
        node = child


def _alike(best: list[int], drafted: list[int], length: int) -> int:
    """Count the drafted tokens, of the first `length`, before the first that is not the best one."""
    kept = 0
    while kept < length and drafted[kept] == best[kept]:
        kept += 1
    return kept


def fetched(*tensors: Int[Tensor, "B ..."]) -> list[list[Any]]:
    """Return tensors of one device as lists, with one wait for the device."""
    if tensors[0].is_cpu:
        return [tensor.tolist() for tensor in tensors]
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).tolist() for part, tensor in zip(parts, tensors, strict=True)]


def draw(law: Law, sampler: Sampler, key: Key) -> Verdict:
    """Draw the number of kept tokens, then the token behind them. Greedy decoding needs no choice."""
    accepted = count(law, sampler, key)
    if sampler.sampling.greedy:
        return Verdict(accepted, most_likely(law.next_token(accepted)))
    return Verdict(accepted, sampler.choices.choose(law.next_token(accepted), key / "next"))


def count(law: Law, sampler: Sampler, key: Key) -> Int[Tensor, " B"]:
    """Draw how many drafted tokens are kept."""
    if sampler.sampling.greedy and not law.drawn:
        return most_likely(law.accepted)
    return sampler.choices.choose(law.accepted, key / "accepted")
