"""Find where an output ends: end-of-sequence tokens, stop strings, and the text before them.

A decoder has no tokenizer. It pushes the tokens of each block, and receives the number of tokens that it must keep. The token that
stops an output belongs to the output and counts. The text ends before the stop.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sdbench.stopping import StopState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A tokenizer's decoder writes this for bytes that form no character, or an incomplete one.
_BROKEN = "\ufffd"
# Some decoders drop the first blank of the first token. So one more token stands before the part that matters.
_MARGIN = 1
_WRITTEN_ESCAPE = re.compile(r"\\[nrt]")


class StopChecker:
    """Stop at end-of-sequence tokens and at stop strings.

    eos: token ids. strings: texts that end an output, at any token borders. A text is looked for without special tokens. But a
    string that holds a special token, such as '<|im_end|>' or '<|im_start|>user', is looked for in the text with them. So the
    token stops the output, and so do its characters.
    """

    def __init__(self, eos: Collection[int], strings: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
        added = tokenizer.get_added_vocab()
        named = frozenset(tokenizer.all_special_ids)
        special = {str(one): i for i, one in tokenizer.added_tokens_decoder.items() if one.special or i in named}
        self.eos = frozenset(eos)
        self.strings = tuple(text for text in strings if text)
        self.stop_ids = frozenset(added[text] for text in self.strings if text in added)
        self.tokenizer = tokenizer
        self._special = sorted(special, key=len, reverse=True)
        marked = [text for text in self.strings if any(one in text for one in special)]
        hidden = frozenset(special.values()) | named
        views = (
            TextView(tokenizer, [text for text in self.strings if text not in marked], hidden),
            TextView(tokenizer, marked, frozenset()),
        )
        self.views = [view for view in views if view.strings]

    def start(self) -> StopState:
        return _Watch(self)

    def text_of(self, tokens: Sequence[int], reason: str | None) -> str:
        """Return the text of an output without special tokens, cut before its stop. reason: what ended the output."""
        kept = list(tokens[:-1] if reason == "eos" else tokens)
        text = str(self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if reason != "stop":
            return text
        cuts = [view.before_stop(kept) for view in self.views]
        return min((self._without_special(cut) for cut in cuts if cut is not None), key=len, default=text)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether these tokens contain a stop."""
        return not self.stop_ids.isdisjoint(tokens) or any(view.completes(view.visible(tokens)) for view in self.views)

    @property
    def notes(self) -> list[str]:
        """Return a sentence on each stop string that no text of this tokenizer can contain, or that looks mistyped."""
        found = []
        for text in self.strings:
            if not self._can_occur(text):
                found.append(
                    f"The stop string {text!r} will never stop an output: this tokenizer writes no text that contains it."
                )
            elif _WRITTEN_ESCAPE.search(text):
                found.append(
                    f'The stop string {text!r} holds a backslash and a letter. For a line break, write "\\n" in double quotes.'
                )
        return found

    def _can_occur(self, text: str) -> bool:
        """Return whether the text survives the tokenizer, alone or after a letter."""
        for before in ("", "a"):
            ids = self.tokenizer(before + text, add_special_tokens=False)["input_ids"]
            if text in self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False):
                return True
        return False

    def _without_special(self, text: str) -> str:
        for one in self._special:
            text = text.replace(one, "")
        return text


class TextView:
    """Look for strings in the text of tokens. hidden: the tokens that are left out of the text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, strings: Sequence[str], hidden: frozenset[int] = frozenset()
    ) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        self._hidden = hidden
        # Every visible token adds at least one byte. So a stop string spans at most as many tokens as it has bytes.
        self._window = max((len(text.encode()) for text in self.strings), default=0) + _MARGIN
        # Decoders add and drop blanks, and a character outside ASCII may span several tokens.
        self._plain = all(text[-1].isascii() and not text[-1].isspace() for text in self.strings)
        self._ends: dict[int, bool] = {}  # cached results of `may_end`
        self._word = list(tokenizer("a", add_special_tokens=False)["input_ids"]) if self.strings else []

    def visible(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens that are visible in the text."""
        return [token for token in tokens if token not in self._hidden]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of visible tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether the text of these visible tokens contains one of the strings."""
        text = self.decode(tokens)
        return any(stop in text for stop in self.strings)

    def before_stop(self, tokens: Sequence[int]) -> str | None:
        """Return the text before the first of the strings; None if the text of these tokens contains none."""
        text = self.decode(self.visible(tokens))
        starts = [start for start in map(text.find, self.strings) if start >= 0]
        return text[: min(starts)] if starts else None

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


def ends_in(text: str, stop: str) -> bool:
    """Return whether `stop` lies in the text, or can begin before the text and end in it."""
    return stop in text or any(stop.endswith(text[:length]) for length in range(1, min(len(text), len(stop)) + 1))


class _Watch:
    """Watch one sequence; store only its last visible tokens, in which a stop string may have begun."""

    def __init__(self, checker: StopChecker) -> None:
        self.reason: str | None = None
        self._checker = checker
        self._tails: list[list[int]] = [[] for _ in checker.views]

    def push(self, tokens: list[int]) -> int | None:
        checker = self._checker
        kept, self.reason = len(tokens), None
        for index, token in enumerate(tokens):
            if token in checker.eos or token in checker.stop_ids:
                kept, self.reason = index + 1, "eos" if token in checker.eos else "stop"
                break
        # The stopping token is not text. The tokens before it may complete a stop string earlier.
        before = tokens[: kept - 1] if self.reason else tokens
        completed = [self._completed(index, before) for index in range(len(checker.views))]
        first = min((count for count in completed if count is not None), default=None)
        if first is not None:
            kept, self.reason = first, "stop"
        return kept if self.reason else None

    def _completed(self, index: int, tokens: list[int]) -> int | None:
        """Return the number of these tokens that complete a stop string of one view; None if they complete none."""
        view, tail = self._checker.views[index], self._tails[index]
        if not tokens:
            return None
        window = tail + view.visible(tokens)
        if any(map(view.may_end, tokens)) and view.may_complete(window):
            for count in range(1, len(tokens) + 1):
                if view.completes(tail + view.visible(tokens[:count])):
                    return count
        self._tails[index] = view.tail(window)
        return None
