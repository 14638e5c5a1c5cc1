"""Draft what followed the longest earlier occurrence of the text's end, found by a suffix automaton (SAM-Decoding, 2411.10666).

Prompt look-up compares the last n tokens with every earlier place. A suffix automaton finds the longest match of any length, and
reads each new token in constant time. The drafter learns from the sequence itself only; no text of another prompt enters.
"""

from __future__ import annotations

from collections.abc import Iterable

from sdbench import validate
from sdbench.drafting.text import Nodes, TextDrafter
from sdbench.lm.state import DecodeState


class SuffixAutomaton:
    """The smallest automaton that accepts every suffix of a text, built token by token (Blumer et al. 1985).

    text: the tokens read so far.
    """

    def __init__(self) -> None:
        self.text: list[int] = []
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]  # of the longest text that leads to a state
        self._end = [0]  # the position behind the first occurrence of that text
        self._last = 0

    def read(self, tokens: Iterable[int]) -> None:
        """Read more tokens."""
        for token in tokens:
            self.text.append(token)
            self._extend(token)

    def follow(self, text: list[int]) -> bool:
        """Read what is new of a text that only grows at its end. Return False if the text is another one."""
        if self.text != text[: len(self.text)]:
            return False
        self.read(text[len(self.text) :])
        return True

    def longest(self) -> tuple[int, int]:
        """Return the length of the longest suffix of the text that occurs earlier too, and the position behind that occurrence.

        Of several occurrences it is the oldest. Without one, the length is 0.
        """
        state = self._link[self._last]
        return (self._length[state], self._end[state]) if state > 0 else (0, 0)

    def _extend(self, token: int) -> None:
        new, state = self._add({}, self._length[self._last] + 1, len(self.text)), self._last
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        if state < 0:
            self._link[new] = 0
        else:
            reached = self._next[state][token]
            if self._length[reached] != self._length[state] + 1:
                reached = self._split(state, reached, token)
            self._link[new] = reached
        self._last = new

    def _split(self, state: int, reached: int, token: int) -> int:
        """Part the texts that lead to `reached`: the shorter ones get a state of their own."""
        copy = self._add(dict(self._next[reached]), self._length[state] + 1, self._end[reached])
        self._link[copy], self._link[reached] = self._link[reached], copy
        while state >= 0 and self._next[state].get(token) == reached:
            self._next[state][token] = copy
            state = self._link[state]
        return copy

    def _add(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._link.append(0)
        self._length.append(length)
        self._end.append(end)
        return len(self._next) - 1


class SuffixLookup(TextDrafter):
    """Draft by the longest match. min_match: shorter matches draft nothing. per_match: the most drafted tokens per matched token.

    SAM-Decoding takes min_match 5, and asks a neural drafter where the match is shorter.
    """

    name = "suffix"
    matches = True

    def __init__(self, min_match: int = 2, per_match: float | None = None) -> None:
        self.min_match = validate.whole("proposer.min_match", min_match, 1)
        self.per_match = None if per_match is None else validate.number("proposer.per_match", per_match, 0)
        self._automata: dict[int, SuffixAutomaton] = {}

    def admit(self, state: DecodeState, row: int) -> None:
        self._automata[row] = SuffixAutomaton()

    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        automaton = self._automata[row]
        if not automaton.follow(text):  # a stage above has cut the text that this one had decided
            automaton = self._automata[row] = SuffixAutomaton()
            automaton.read(text)
        matched, behind = automaton.longest()
        if matched < self.min_match:
            return Nodes(matched=matched)
        most = length if self.per_match is None else min(length, int(matched * self.per_match))
        return Nodes(text[behind : behind + most], matched=matched)
