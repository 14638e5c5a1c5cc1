"""REST (2311.08252; github FasterDecoding/REST): draft what followed the text's end in a corpus.

A suffix array over the corpus finds the longest suffix of the text that occurs there. The continuations of all its occurrences form
a trie, and the most frequent prefixes of it are the draft. The corpus never changes, so a draft does not depend on earlier prompts.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sdbench import validate
from sdbench.drafting.text import Nodes, TextDrafter
from sdbench.errors import InputError
from sdbench.lm.state import DecodeState

Encode = Callable[[str], Sequence[int]]
_END = -1  # stands behind each text of the corpus; it is no token


class Corpus:
    """The texts of a corpus in the order of their suffixes. depth: tokens of a suffix that the order looks at."""

    def __init__(self, texts: Sequence[Sequence[int]], depth: int) -> None:
        joined = [token for text in texts for token in (*text, _END)]
        self._tokens = np.array([*joined, *[_END] * depth], np.int64)  # so that every suffix has `depth` tokens
        self._order = suffix_order(np.array(joined, np.int64), depth)
        self._listed, self._sorted = self._tokens.tolist(), self._order.tolist()  # faster than arrays, one by one

    def longest(self, text: Sequence[int], most: int, least: int) -> tuple[int, int, int]:
        """Find the longest suffix of a text, of `least` to `most` tokens, that occurs in the corpus.

        Returns its length and the range of its occurrences in the order of suffixes; (0, 0, 0) if there is none.
        """
        found, low, high = (0, 0, 0), least, min(most, len(text))
        while low <= high:  # each suffix of a suffix that occurs also occurs
            length = (low + high) // 2
            first, behind = self._range(list(text[-length:]))
            if first < behind:
                found, low = (length, first, behind), length + 1
            else:
                high = length - 1
        return found

    def following(self, first: int, behind: int, offset: int, most: int) -> list[tuple[int, int, int]]:
        """Return the `most` most frequent tokens at an offset behind the starts of a range of suffixes, with their own ranges."""
        if behind - first == 1:
            token = self._listed[self._sorted[first] + offset]
            return [(token, first, behind)] if token != _END else []
        column = self._tokens[self._order[first:behind] + offset]
        starts = np.concatenate(([0], np.flatnonzero(column[1:] != column[:-1]) + 1))
        stops = np.append(starts[1:], len(column))
        counts = (stops - starts) * (column[starts] != _END)
        best = np.argsort(-counts, kind="stable")[:most]
        best = best[counts[best] > 0]
        tokens, starts, stops = column[starts[best]], starts[best] + first, stops[best] + first
        return list(zip(tokens.tolist(), starts.tolist(), stops.tolist(), strict=True))

    def _range(self, pattern: list[int]) -> tuple[int, int]:
        size, everywhere = len(pattern), range(len(self._sorted))

        def start_of(place: int) -> list[int]:
            begin = self._sorted[place]
            return self._listed[begin : begin + size]

        first = bisect_left(everywhere, pattern, key=start_of)
        return first, bisect_right(everywhere, pattern, lo=first, key=start_of)


def suffix_order(tokens: Int[np.ndarray, " N"], depth: int) -> Int[np.ndarray, " N"]:
    """Return the starts of all suffixes, sorted by at least `depth` first tokens (prefix doubling; Manber and Myers 1993)."""
    rank, known = np.unique(tokens, return_inverse=True)[1], 1
    order = np.argsort(rank, kind="stable")
    while known < depth and len(tokens) and rank.max() + 1 < len(tokens):
        second = np.full(len(tokens), -1)
        second[:-known] = rank[known:]
        order = np.lexsort((second, rank))
        pairs = np.stack([rank[order], second[order]])
        new = np.concatenate(([0], (pairs[:, 1:] != pairs[:, :-1]).any(0).cumsum()))
        rank = np.empty_like(new)
        rank[order] = new
        known *= 2
    return order


class Rest(TextDrafter):
    """Draft from a corpus.

    corpus: a text file, or a .jsonl file with a text in `field` of each line. max_match, min_match: the longest and the shortest
    suffix that is looked up. depth: of the tree. The defaults are those of the repository, which drafts 64 tokens.

    Errors: InputError if the corpus cannot be read or is empty.
    """

    name = "rest"
    trees = True

    def __init__(
        self,
        corpus: str | None = None,
        field: str = "text",
        max_match: int = 16,
        min_match: int = 2,
        depth: int = 10,
    ) -> None:
        if corpus is None:
            raise InputError("rest needs proposer.corpus, the path of a text or .jsonl file to draft from.")
        self.max_match = validate.whole("proposer.max_match", max_match, 1)
        self.min_match = validate.whole("proposer.min_match", min_match, 1)
        self.depth = validate.whole("proposer.depth", depth, 1)
        self.path = Path(corpus).expanduser()
        self._texts = read_texts(self.path, field)
        self._corpus: Corpus | None = None

    @property
    def files(self) -> list[Path]:
        """The files that define the drafts, as the config does."""
        return [self.path]

    def take_encoder(self, encode: Encode) -> None:
        """Tokenise the corpus. encode: of the target's tokenizer, without special tokens."""
        self._corpus = Corpus([encode(text) for text in self._texts], self.max_match + self.depth)

    def open(self, state: DecodeState, length: int) -> None:
        if self._corpus is None:
            raise InputError(
                "rest needs a tokenizer for its corpus: call proposer.take_encoder first, as `sdbench run` does."
            )

    def draft_row(self, row: int, text: list[int], length: int) -> Nodes:
        assert self._corpus is not None
        matched, *found = self._corpus.longest(text, self.max_match, self.min_match)
        nodes = Nodes(parents=[])
        assert nodes.parents is not None
        waiting: list[
            tuple[int, int, int, int, int, int, int]
        ] = []  # minus the count, order, parent, depth, token, range
        parent, depth, order, (first, behind) = 0, 0, 0, found
        while matched and len(nodes.tokens) < length:
            if depth < self.depth:
                room = length - len(nodes.tokens)
                for token, start, stop in self._corpus.following(first, behind, matched + depth, room):
                    heappush(waiting, (start - stop, order, parent, depth + 1, token, start, stop))
                    order += 1
            if not waiting:
                break
            _, _, above, depth, token, first, behind = heappop(waiting)
            nodes.tokens.append(token)
            nodes.parents.append(above)
            parent = len(nodes.tokens)
        return nodes


def read_texts(path: Path, field: str) -> list[str]:
    """Return the texts of a corpus file. Errors: InputError."""
    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"proposer.corpus is {path}; it must be a text or .jsonl file in UTF-8 ({error}).") from error
    if path.suffix != ".jsonl":
        texts = [whole]
    else:
        try:
            texts = [json.loads(line)[field] for line in whole.splitlines() if line.strip()]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"proposer.corpus: each line of {path} must be a JSON object with a text in '{field}' ({error!r})."
            ) from error
    if not any(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"proposer.corpus: {path} holds no text.")
    return texts
