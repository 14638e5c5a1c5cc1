"""Find where an output ends: end-of-sequence tokens, stop strings, and the text before them.

A decoder has no tokenizer. It pushes the tokens of each block, and receives the number of tokens that it must keep. The token that
stops an output belongs to the output and counts. The text ends before the stop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sdbench.stopping import StopState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A tokenizer's decoder writes this for bytes that form no character, or an incomplete one.
_BROKEN = "\ufffd"
# Some decoders drop the first blank of the first token. So one more token stands before the part that matters.
_MARGIN = 1


class StopChecker:
    """Stop at end-of-sequence tokens and at stop strings.

    eos: token ids. strings: texts that end an output, at any token borders. If a string is a token of the added
    vocabulary (such as '<|im_end|>'), this token stops the output, because decoded text omits such tokens.
    """

    def __init__(self, eos: Collection[int], strings: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
        added = tokenizer.get_added_vocab()
        self.eos = frozenset(eos)
        self.strings = tuple(text for text in strings if text)
        self.stop_ids = frozenset(added[text] for text in self.strings if text in added)
        self.tokenizer = tokenizer
        self._hidden = frozenset(tokenizer.all_special_ids)
        # Every visible token adds at least one byte. So a stop string spans at most as many tokens as it has bytes.
        longest = max((len(text.encode()) for text in self.strings), default=0)
        self._window = longest + _MARGIN if longest else 0
        # Decoders add and drop blanks, and a character outside ASCII may span several tokens.
        self._plain = all(text[-1].isascii() and not text[-1].isspace() for text in self.strings)
        self._ends: dict[int, bool] = {}  # cached results of `may_end`
        self._word = list(tokenizer("a", add_special_tokens=False)["input_ids"]) if self.strings else []

    def start(self) -> StopState:
        return _Watch(self)

    def text_of(self, tokens: Sequence[int], reason: str | None) -> str:
        """Return the text of an output without special tokens, cut before its stop. reason: what ended the output."""
        kept = list(tokens[:-1] if reason == "eos" else tokens)
        text = self.decode(kept)
        if reason == "stop":
            starts = [start for start in map(text.find, self.strings) if start >= 0]
            text = text[: min(starts, default=len(text))]
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether the text of these tokens contains a stop string."""
        text = self.decode(tokens)
        return any(stop in text for stop in self.strings)

    def may_end(self, token: int) -> bool:
        """Return False if no stop string can end within this token, after any earlier text.

        A stop string that ends there lies in the token's text, or its last characters open that text. The checker calls
        this for every token, and decoding is the slowest step after a round. So it caches one result per token.
        """
        if token not in self._ends:
            # Some decoders write a token differently after a word.
            before, after = self.decode(self._word), self.decode([*self._word, token])
            texts = [self.decode([token]), after.removeprefix(before)]
            known = self._plain and after.startswith(before) and not any(_BROKEN in text for text in texts)
            self._ends[token] = not known or any(ends_in(text.lstrip(), s) for text in texts for s in self.strings)
        return self._ends[token]

    def may_complete(self, tokens: Sequence[int]) -> bool:
        """Return False if neither these tokens nor any prefix of them completes a stop string.

        If tokens are single bytes, an incomplete character can change the text of the bytes before it. The change can
        hide a stop string. Then only the prefixes can show it, so the result is True.
        """
        text = self.decode(tokens)
        return _BROKEN in text or any(stop in text for stop in self.strings)

    def tail(self, tokens: list[int]) -> list[int]:
        """Return the last tokens, in which a stop string may have begun. They start with a complete character."""
        if len(tokens) <= 2 * self._window:  # so that the decoding below runs rarely
            return tokens
        tails = (tokens[-self._window - extra :] for extra in range(4))
        return next((tail for tail in tails if not self.decode(tail).startswith(_BROKEN)), tokens[-self._window :])

    def visible(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that are visible in decoded text."""
        return [token for token in tokens if token not in self._hidden]


def ends_in(text: str, stop: str) -> bool:
    """Return whether `stop` lies in the text, or can begin before the text and end in it."""
    return stop in text or any(stop.endswith(text[:length]) for length in range(1, min(len(text), len(stop)) + 1))


class _Watch:
    """Watch one sequence; store only its last visible tokens, in which a stop string may have begun."""

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
        # The stopping token is not text. The tokens before it may complete a stop string earlier.
        before = tokens[: kept - 1] if self.reason else tokens
        completed = self._completed(before)
        if completed is not None:
            kept, self.reason = completed, "stop"
        return kept if self.reason else None

    def _completed(self, tokens: list[int]) -> int | None:
        """Return the number of these tokens that complete a stop string; None if they complete none."""
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
