"""Where an output ends: end-of-sequence tokens, stop strings, and the text before them.

A decoder knows no tokenizer: it pushes the tokens of each block and is told how many of them are kept. The token that
stops an output stays in it and counts; the text is cut before the stop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sdbench.stopping import StopState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What a decoder writes for bytes that are no character, or not one yet.
_BROKEN = "\ufffd"
# Some decoders drop the blank that the very first token opens with: a token before the part that matters takes that.
_MARGIN = 1


class StopChecker:
    """Stops at end-of-sequence tokens and at stop strings.

    eos: token ids. strings: texts that end an output, wherever token borders fall; one that is itself a token of the
    tokenizer's added vocabulary (such as '<|im_end|>') stops by that token, since decoded text leaves those out.
    """

    def __init__(self, eos: Collection[int], strings: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
        added = tokenizer.get_added_vocab()
        self.eos = frozenset(eos)
        self.strings = tuple(text for text in strings if text)
        self.stop_ids = frozenset(added[text] for text in self.strings if text in added)
        self.tokenizer = tokenizer
        self._hidden = frozenset(tokenizer.all_special_ids)
        # Every token that shows adds a byte at least, so no stop string spans more tokens than it has bytes.
        longest = max((len(text.encode()) for text in self.strings), default=0)
        self._window = longest + _MARGIN if longest else 0
        # Blanks are what decoders add and drop, and other characters may be spread over tokens.
        self._plain = all(text[-1].isascii() and not text[-1].isspace() for text in self.strings)
        self._ends: dict[int, bool] = {}  # what `may_end` has answered
        self._word = list(tokenizer("a", add_special_tokens=False)["input_ids"]) if self.strings else []

    def start(self) -> StopState:
        return _Watch(self)

    def text_of(self, tokens: Sequence[int], reason: str | None) -> str:
        """The text of an output: without special tokens, cut before the stop that `reason` says it ended with."""
        kept = list(tokens[:-1] if reason == "eos" else tokens)
        text = self.decode(kept)
        if reason == "stop":
            starts = [start for start in map(text.find, self.strings) if start >= 0]
            text = text[: min(starts, default=len(text))]
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def completes(self, tokens: Sequence[int]) -> bool:
        """Whether the text of these tokens holds a stop string."""
        text = self.decode(tokens)
        return any(stop in text for stop in self.strings)

    def may_end(self, token: int) -> bool:
        """False if no stop string ends within this token, whatever stands before it.

        One that ends there has its last characters at the beginning of the token's text, or lies in it. This is asked of every
        token, and decoding takes longer than all else that follows a round: so it is asked once of each.
        """
        if token not in self._ends:
            # Some decoders write a token otherwise behind a word than alone.
            before, after = self.decode(self._word), self.decode([*self._word, token])
            texts = [self.decode([token]), after.removeprefix(before)]
            known = self._plain and after.startswith(before) and not any(_BROKEN in text for text in texts)
            self._ends[token] = not known or any(ends_in(text.lstrip(), s) for text in texts for s in self.strings)
        return self._ends[token]

    def may_complete(self, tokens: Sequence[int]) -> bool:
        """False if neither these tokens nor a shorter part of them completes a stop string.

        Where tokens stand for single bytes, a character that is cut short can spoil the text of the bytes before it, a
        stop string among them: then only the shorter parts can tell.
        """
        text = self.decode(tokens)
        return _BROKEN in text or any(stop in text for stop in self.strings)

    def tail(self, tokens: list[int]) -> list[int]:
        """The last tokens, as many as a stop string may have begun in. A tail opens with a whole character."""
        if len(tokens) <= 2 * self._window:  # so that the work below is done once in a while only
            return tokens
        tails = (tokens[-self._window - extra :] for extra in range(4))
        return next((tail for tail in tails if not self.decode(tail).startswith(_BROKEN)), tokens[-self._window :])

    def visible(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that show in decoded text."""
        return [token for token in tokens if token not in self._hidden]


def ends_in(text: str, stop: str) -> bool:
    """Whether a stop string that began in the text before may end in this one."""
    return stop in text or any(stop.endswith(text[:length]) for length in range(1, min(len(text), len(stop)) + 1))


class _Watch:
    """One sequence: remembers just the last few visible tokens, in which a stop string may have begun."""

    def __init__(self, checker: StopChecker) -> None:
        self.reason: str | None = None
        self._checker = checker
        self._tail: list[int] = []

    def push(self, tokens: list[int]) -> int | None:
        checker = self._checker
        kept, self.reason = len(tokens), None
        for index, token in enumerate(tokens):
            if token in checker.eos or token in checker.stop_ids:
                kept, self.reason = index + 1, "eos" if token in checker.eos else "stop"
                break
        # The stopping token is no text; what stands before it may still complete a stop string earlier.
        before = tokens[: kept - 1] if self.reason else tokens
        completed = self._completed(before)
        if completed is not None:
            kept, self.reason = completed, "stop"
        return kept if self.reason else None

    def _completed(self, tokens: list[int]) -> int | None:
        """How many of these tokens it takes to complete a stop string; None if they complete none."""
        checker = self._checker
        if not checker.strings or not tokens:
            return None
        window = self._tail + checker.visible(tokens)
        if any(map(checker.may_end, tokens)) and checker.may_complete(window):
            for count in range(1, len(tokens) + 1):
                if checker.completes(self._tail + checker.visible(tokens[:count])):
                    return count
        self._tail = checker.tail(window)
        return None
