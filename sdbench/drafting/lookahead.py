"""Lookahead decoding (2402.02057; github hao-ai-lab/LookaheadDecoding): n-grams from a Jacobi window, verified in the same forward.

The window holds guesses of future tokens: `window` columns and ngram - 1 levels. Level 0 is a chain behind the last decided token,
which is column 0. Behind each column hangs its branch of older Jacobi steps, one token a level. So the window is a token tree. The
target reads it beside the candidates, but does not test it (`Draft.tested`). Its most likely token behind each branch ends an
n-gram, and these tokens are the newest level. Then the oldest level leaves, and the window moves on by one token.

The n-grams wait in a pool, by their first token. The candidates are the `guesses` newest ones of the last decided token.

The published window begins with random tokens of the prompt. Here these are the last ones. So a draft is a function of the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.draft import Draft
from sdbench.drafting.text import Nodes, TextDrafter
from sdbench.lm.state import DecodeState
from sdbench.sampling import most_likely


@dataclass
class _Row:
    """The window and the pool of one row.

    levels: of the window, the oldest first. Level 0 lacks column 0. root: column 0 of the last draft. newest: the nodes of the last
    draft that end the branches, by column. pool: the n-grams by their first token, without it, the newest last.
    """

    levels: list[list[int]]
    root: int = 0
    newest: list[int] = field(default_factory=list)
    pool: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)


class Lookahead(TextDrafter):
    """Draft the n-grams of a Jacobi window. window: W. ngram: N, the length of an n-gram. guesses: G, the most candidates.

    The defaults are those that the repository gives for a model of 7B parameters on a GPU.
    """

    name = "lookahead"
    trees = True

    def __init__(self, window: int = 7, ngram: int = 5, guesses: int = 7) -> None:
        self.window = validate.whole("proposer.window", window, 1)
        self.ngram = validate.whole("proposer.ngram", ngram, 2)
        self.guesses = validate.whole("proposer.guesses", guesses, 1)
        self._rows: dict[int, _Row] = {}

    @property
    def own_length(self) -> int | None:
        return self.ngram - 1

    def max_lookahead(self, length: int) -> int:
        # While the window fills, it has level + 1 levels and a wider level 0.
        columns = [self.window + self.ngram - 2 - level for level in range(self.ngram - 1)]
        widest = max(count - 1 + count * level for level, count in enumerate(columns))
        return widest + self.guesses * (self.ngram - 1)

    def admit(self, state: DecodeState, row: int) -> None:
        text = state.tokens[row, : int(state.length[row])].tolist()
        count = self.window + self.ngram - 3
        self._rows[row] = _Row([(text * (count // len(text) + 1))[-count:] if count else []])

    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        own = self._rows[row]
        own.root = text[-1]
        tokens: list[int] = []
        parents: list[int] = []
        known: dict[tuple[int, ...], int] = {(): 0}
        for guess in reversed(own.pool.get(own.root, [])):
            for depth in range(1, len(guess) + 1):
                if guess[:depth] not in known:
                    tokens.append(guess[depth - 1])
                    parents.append(known[guess[: depth - 1]])
                    known[guess[:depth]] = len(tokens)
        candidates = len(tokens)
        first, *branches = own.levels
        own.newest = [0]
        for token in first:
            tokens.append(token)
            parents.append(own.newest[-1])
            own.newest.append(len(tokens))
        for level in branches:
            parents += own.newest
            own.newest = list(range(len(tokens) + 1, len(tokens) + 1 + len(level)))
            tokens += level
        return Nodes(tokens, parents, len(tokens) - candidates)

    def observe(self, state: DecodeState, draft: Draft, logits: Float[Tensor, "B N1 V"]) -> None:
        for row, active in enumerate(state.active.tolist()):
            if active:
                own = self._rows[row]
                first, last = own.newest[0], own.newest[-1]
                at = torch.tensor(own.newest, device=logits.device)
                if last - first + 1 == len(own.newest):
                    at = slice(first, last + 1)  # a view: the logits of some nodes are megabytes
                self._advance(own, most_likely(logits[row, at]).tolist())

    def _advance(self, own: _Row, best: list[int]) -> None:
        """Take the newest tokens of each column into the window. Once it is full, its n-grams go to the pool."""
        if len(own.levels) < self.ngram - 1:
            own.levels = [*(level[1:] for level in own.levels), best[1:]]
            return
        first, *branches = own.levels
        for key, *rest in zip([own.root, *first], *branches, best, strict=True):
            known, found = own.pool.setdefault(key, []), tuple(rest)
            if found in known:
                known.remove(found)
            known.append(found)
            del known[: -self.guesses]
        oldest, *others = [*branches, best]
        own.levels = [oldest[1:], *others]
