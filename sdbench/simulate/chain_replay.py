"""Replay a chain of levels over the target's greedy answers, pass by pass, without a model.

In greedy decoding with exact rules, every token that a level hands up is that level's own first choice. So the first choices of all
levels at each place of the answers decide what each pass drafts, and how many of its tokens are kept. On these choices, the replay
runs the rounds of `sdbench.drafting.StagedDrafter`. A level verifies until it has the tokens that it was asked for, and hands up
all of them. The next pass of each model also reads the tokens that the model has not read yet.

The choices were recorded behind the target's own tokens. Behind another token they are unknown. There the levels go on as at
another place of the answers, behind the same last token if there is such a place. A seed decides which place it is. So the
levels agree as often there as at recorded places, but the replay is exact only up to the first such token. In a chain of two levels
no token behind it is kept, so its rounds are exact.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

TARGET, LOOKUP = "target", "lookup"
Pass = tuple[str, str, int]  # a level, the kind of its pass (draft, verify, search), and the pass's new tokens


@dataclass(frozen=True)
class Answers:
    """Hold the target's greedy answers, and what each level picks at their N places.

    tokens: [N] one answer after the other. before: [N] the token before each place. starts: the place of each answer's first token.
    choices: by level below the target, [N] its first choice behind the target's own tokens.
    copied: [N] what look-up copies at each place, up to the longest draft. It may be empty.
    views: the levels that share the target's cache (early exits).
    """

    tokens: Sequence[int]
    before: Sequence[int]
    starts: Sequence[int]
    choices: Mapping[str, Sequence[int]]
    copied: Sequence[Sequence[int]] = ()
    views: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Draft:
    """Hold a draft. tokens: of the draft. held: for each model, how many of the draft's tokens it has read. passes: made for it."""

    tokens: list[int]
    held: tuple[int, ...]
    passes: list[Pass]


@dataclass
class _Drafter:
    """Draft `asked` tokens. name: of the level. choice, after: by place, the level's first choice, and the place behind it."""

    name: str
    asked: int
    choice: Sequence[int]
    after: Sequence[int]
    known: dict[tuple[int, tuple[int, ...]], _Draft] = field(default_factory=dict)

    def propose(self, place: int, unread: tuple[int, ...]) -> _Draft:
        """Return the draft at a place. unread: for each model from this level down, the decided tokens that it has not read."""
        found = self.known.get((place, unread))
        if found is None:
            found = self.known[place, unread] = self._drafted(place, unread)
        return found

    def _drafted(self, place: int, unread: tuple[int, ...]) -> _Draft:
        tokens = []
        for _ in range(self.asked):
            tokens.append(self.choice[place])
            place = self.after[place]
        passes = [(self.name, "draft", unread[0]), *[(self.name, "draft", 1)] * (self.asked - 1)]
        return _Draft(tokens, (self.asked - 1,), passes)  # no step reads the last drafted token


@dataclass
class _Copier(_Drafter):
    """Copy at most `asked` tokens."""

    copied: Sequence[Sequence[int]] = ()

    def _drafted(self, place: int, unread: tuple[int, ...]) -> _Draft:
        tokens = list(self.copied[place][: self.asked])
        return _Draft(tokens, (), [(self.name, "search", len(tokens))])


@dataclass
class _Stage(_Drafter):
    """Verify the drafts of the level below until there are `asked` tokens."""

    below: _Drafter = field(kw_only=True)

    def _drafted(self, place: int, unread: tuple[int, ...]) -> _Draft:
        tokens: list[int] = []
        passes: list[Pass] = []
        held = [
            -count for count in unread
        ]  # the end of what each model has read, counted from the first token of this draft
        while len(tokens) < self.asked:
            size = len(tokens)
            draft = self.below.propose(place, tuple(size - end for end in held[1:]))
            passes += draft.passes
            read = size + len(draft.tokens)
            passes.append((self.name, "verify", read - held[0]))
            for token in draft.tokens:
                if token != self.choice[place]:
                    break
                tokens.append(token)
                place = self.after[place]
            tokens.append(self.choice[place])
            place = self.after[place]
            # No model has read the level's own last token.
            held = [min(end, len(tokens) - 1) for end in (read, *(size + end for end in draft.held))]
        return _Draft(tokens, tuple(held), passes)


class ChainReplay:
    """Count the passes of chains over the answers. What a lower part of a chain drafts is kept for the next chain that has it."""

    def __init__(self, answers: Answers, seed: int = 0) -> None:
        self.answers = answers
        size = len(answers.tokens)
        self._ends = [*answers.starts[1:], size]
        self._last = {end - 1 for end in self._ends}
        self._mixed = np.random.default_rng(seed).integers(1 << 30, size=size).tolist()
        self._behind: dict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(answers.before):
            self._behind[token].append(place)
        self._after = {
            level: [self._next(place, token) for place, token in enumerate(choices)]
            for level, choices in answers.choices.items()
        }
        self._levels: dict[tuple[Sequence[str], Sequence[int]], _Drafter] = {}

    @property
    def decoded(self) -> int:
        """Return the tokens that rounds decode: prefill gives the first one of each answer."""
        return len(self.answers.tokens) - len(self.answers.starts)

    def passes(self, levels: Sequence[str], lengths: Sequence[int]) -> Counter[Pass]:
        """Count the passes that decode all answers.

        Args:
            levels: of the chain, the target first.
            lengths: the tokens that each level asks of the next one.
        """
        answer = self.answers.tokens
        if len(levels) == 1:
            return Counter({(TARGET, "verify", 1): self.decoded})
        first = self._level(tuple(levels[1:]), tuple(lengths))
        models = [level for level in levels[1:] if level != LOOKUP]
        found: list[Pass] = []
        for start, end in zip(self.answers.starts, self._ends, strict=True):
            place, unread = start + 1, (1,) * len(models)
            while place < end:
                draft = first.propose(place, unread)
                found += draft.passes
                found.append((TARGET, "verify", len(draft.tokens) + 1))
                kept = 0
                for token, own in zip(draft.tokens, answer[place:end], strict=False):
                    if token != own:
                        break
                    kept += 1
                place += kept + 1
                unread = tuple(
                    self._unread(level, kept + 1 - min(held, kept), level == levels[-1])
                    for level, held in zip(models, draft.held, strict=True)
                )
        return Counter(found)

    def _unread(self, level: str, count: int, drafts: bool) -> int:
        """Return the decided tokens that a level reads in its next pass, at the start of a round of the target.

        count: those that it has not read itself. The target has read all but one of them for a view. A drafter behind a draft that
        was kept whole reads two all the same, because the logits behind the draft's last token rank the bonus token.
        """
        return count if level not in self.answers.views or (drafts and count == 2) else 1

    def _level(self, levels: tuple[str, ...], lengths: tuple[int, ...]) -> _Drafter:
        """Return the lower part of a chain. lengths: the tokens that the level above asks for, and those of each level."""
        found = self._levels.get((levels, lengths))
        if found is None:
            found = self._levels[levels, lengths] = self._made(levels, lengths)
        return found

    def _made(self, levels: tuple[str, ...], lengths: tuple[int, ...]) -> _Drafter:
        name, asked = levels[0], lengths[0]
        if name == LOOKUP:
            return _Copier(name, asked, (), (), copied=self.answers.copied)
        own = name, asked, self.answers.choices[name], self._after[name]
        return _Stage(*own, below=self._level(levels[1:], lengths[1:])) if len(levels) > 1 else _Drafter(*own)

    def _next(self, place: int, token: int) -> int:
        """Return the place at which the levels go on when `token` stands at `place`."""
        if token == self.answers.tokens[place] and place not in self._last:
            return place + 1
        others = self._behind.get(token) or range(len(self.answers.tokens))
        return others[self._mixed[place] % len(others)]
