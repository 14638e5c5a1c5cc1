"""SuffixDecoding (2411.04975; github snowflakedb/ArcticInference): draft by frequency, from the sequence and from earlier answers.

Two suffix structures are searched. One holds the sequence itself, prompt included. The other holds the finished answers of the same
pass over the prompts. For each match of the text's end, the draft grows by the continuation that occurred most often. The
score of a draft is the sum of its nodes' estimated probabilities, and the draft with the highest score wins.

The structures are suffix automata with counts. A state knows how often its texts occurred, so the share of occurrences that a token
followed is the token's estimated probability.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from sdbench import validate
from sdbench.drafting.suffix import SuffixAutomaton
from sdbench.drafting.text import Nodes, TextDrafter
from sdbench.lm.state import DecodeState

MEMORIES = ("run", "sequence")
_NO_ENDS: frozenset[int] = frozenset()


class CountingAutomaton(SuffixAutomaton):
    """A suffix automaton that knows how often each text occurred. It can hold several texts (`close_text`)."""

    def __init__(self) -> None:
        self._count = [0]
        super().__init__()

    def close_text(self) -> None:
        """End a text, so that no match reaches into the next one. The mark is a negative number, which is no token."""
        self.read([-1 - len(self.text)])

    def count(self, state: int) -> int:
        """Return how often the texts of a state occurred."""
        return self._count[state]

    def following(self, state: int) -> Iterator[tuple[int, int]]:
        """Yield each token that followed the texts of a state, and the state behind it."""
        return ((token, behind) for token, behind in self._next[state].items() if token >= 0)

    def suffixes(self) -> Iterator[tuple[int, int]]:
        """Yield a state and a length for the suffixes of the text that occur earlier too, the longest first."""
        state = self._link[self._last]
        while state > 0:
            yield state, self._length[state]
            state = self._link[state]

    def ends(self) -> set[int]:
        """Return the states of all suffixes of the text. Their last occurrence has no follower."""
        found, state = set(), self._last
        while state > 0:
            found.add(state)
            state = self._link[state]
        return found

    def matches(self, tail: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield a state and a length for the suffixes of another text that occur in this one, the longest first."""
        state = length = 0
        for token in tail:
            while state and token not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if token in self._next[state]:
                state, length = self._next[state][token], length + 1
        while state > 0:
            yield state, length
            state = self._link[state]
            length = self._length[state]

    def _extend(self, token: int) -> None:
        super()._extend(token)
        state = self._last
        while state > 0:
            self._count[state] += 1
            state = self._link[state]

    def _split(self, state: int, reached: int, token: int) -> int:
        copy = super()._split(state, reached, token)
        self._count[copy] = self._count[reached]
        return copy

    def _add(self, following: dict[int, int], length: int, end: int) -> int:
        self._count.append(0)
        return super()._add(following, length, end)


@dataclass
class _Scored:
    """A draft with the sum of its nodes' estimated probabilities."""

    nodes: Nodes
    score: float = 0.0


class SuffixDecoding(TextDrafter):
    """Draft by the frequencies of continuations.

    per_match, offset: a match of n tokens drafts at most per_match * n + offset tokens. min_prob: the least estimated probability
    of the path to a drafted token. max_match: tokens of the text's end that are looked up in earlier answers. tree: draft a token
    tree in place of a chain. memory: "run" drafts from earlier answers too, "sequence" from the sequence alone.

    The defaults are those of ArcticInference.
    """

    name = "suffix_decoding"

    def __init__(
        self,
        per_match: float = 1.0,
        offset: float = 0.0,
        min_prob: float = 0.1,
        max_match: int = 64,
        tree: bool = False,
        memory: str = "run",
    ) -> None:
        self.per_match = validate.number("proposer.per_match", per_match, 0)
        self.offset = validate.number("proposer.offset", offset, 0)
        self.min_prob = validate.number("proposer.min_prob", min_prob, 0, 1)
        self.max_match = validate.whole("proposer.max_match", max_match, 1)
        self.trees = validate.switch("proposer.tree", tree)
        self.memory = validate.choice("proposer.memory", memory, MEMORIES)
        self._own: dict[int, CountingAutomaton] = {}
        self._earlier = CountingAutomaton()

    def admit(self, state: DecodeState, row: int) -> None:
        self._own[row] = CountingAutomaton()

    def learn(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        if self.memory == "run":
            self._earlier.read(answer)
            self._earlier.close_text()

    def forget(self) -> None:
        self._earlier = CountingAutomaton()

    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        own = self._own[row]
        if not own.follow(text):  # a stage above has cut the text that this one had decided
            own = self._own[row] = CountingAutomaton()
            own.read(text)
        best = self._best(own, own.suffixes(), own.ends(), length, _Scored(Nodes(parents=[])))
        tail = text[-self.max_match :]
        return self._best(self._earlier, self._earlier.matches(tail), _NO_ENDS, length, best).nodes

    def _best(
        self,
        automaton: CountingAutomaton,
        matches: Iterator[tuple[int, int]],
        ends: Collection[int],
        length: int,
        best: _Scored,
    ) -> _Scored:
        """Return the draft with the highest score: `best`, or one behind one of the matches."""
        for state, matched in matches:
            most = min(length, int(matched * self.per_match + self.offset))
            if most <= best.score:  # no probability exceeds 1, and the other matches are shorter
                break
            found = self._grown(automaton, state, ends, most)
            if found.score > best.score:
                best = found
        return best

    def _grown(self, automaton: CountingAutomaton, state: int, ends: Collection[int], most: int) -> _Scored:
        """Grow a draft behind a state, node by node, by the most probable path first. most: nodes."""
        nodes = Nodes(parents=[])
        grown = _Scored(nodes)
        waiting: list[tuple[float, int, int, int, int]] = []  # minus the probability, order, parent, token, state
        parent, prob, order = 0, 1.0, 0
        while True:
            total = automaton.count(state) - (state in ends)
            behind = [(automaton.count(after), token, after) for token, after in automaton.following(state)]
            if not self.trees and behind:
                behind = [max(behind, key=lambda one: one[0])]  # of equal counts the oldest
            for count, token, after in behind:
                if prob * count / total >= self.min_prob:
                    heappush(waiting, (-prob * count / total, order, parent, token, after))
                    order += 1
            if not waiting or len(nodes.tokens) == most:
                return grown
            negative, _, above, token, state = heappop(waiting)
            prob = -negative
            nodes.tokens.append(token)
            assert nodes.parents is not None
            nodes.parents.append(above)
            parent = len(nodes.tokens)
            grown.score += prob
