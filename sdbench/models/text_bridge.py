"""Carry text between two tokenizers: the target's tokens into a draft's, and the draft's new tokens back.

A tokenizer cuts a text by what follows. So both directions encode the last `LOOKBEHIND` tokens again, together with the new text,
as `assistant_lookbehind` and `target_lookbehind` of transformers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdbench.models.vocabulary import filler, id_of, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOOKBEHIND = 10  # tokens; the default of transformers


class _Side:
    """One tokenizer, as a map between ids and bytes. added: the special tokens that both sides have."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, width: int, added: frozenset[str]) -> None:
        self._tokenizer, self._width = tokenizer, width
        self._bytes = token_bytes(tokenizer)
        names = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        self._bytes |= {number: name.encode() for name, number in names.items() if name in added}
        # Some tokenizers write a blank before the text that they get.
        self._adds_blank = False
        self._adds_blank = self.text(self.encode("a")).startswith(b" ")

    def text(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that ids write. A special token that the other side lacks writes none."""
        return b"".join(self._bytes.get(number, b"") for number in ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens at its ends."""
        if self._adds_blank:
            text = text.removeprefix(" ")
        return [i for i in self._tokenizer(text, add_special_tokens=False)["input_ids"] if i < self._width]

    def extended(self, ids: Sequence[int], text: str) -> list[int]:
        """Return ids whose text is that of `ids` and `text` behind it. Only the last tokens of `ids` may change."""
        kept = self.lookbehind(ids)
        return [*ids[:kept], *self.encode(self.text(ids[kept:]).decode(errors="replace") + text)]

    def lookbehind(self, ids: Sequence[int]) -> int:
        """Return the index of the first id that is encoded again.

        The part behind it starts with a character, and with a blank if the tokenizer adds one. It holds no token without a text.
        """
        first = max((at + 1 for at, number in enumerate(ids) if not self._bytes.get(number)), default=0)
        at = max(len(ids) - LOOKBEHIND, first)
        while at > first and not self._can_open(self.text(ids[at:])):
            at -= 1
        return at

    def _can_open(self, text: bytes) -> bool:
        return _whole(text) and (not self._adds_blank or text.startswith(b" "))


class TextBridge:
    """Translate between the tokens of the target and those of a draft with another tokenizer.

    vocab: V, the number of the target's ids. width: the number of rows of the draft's embedding.
    eos: (the target's end token, the draft's), or None.
    """

    def __init__(self, target: PreTrainedTokenizerFast, own: PreTrainedTokenizerFast, vocab: int, width: int) -> None:
        names = [{str(token) for token in one.added_tokens_decoder.values()} for one in (target, own)]
        both = frozenset(names[0] & names[1])
        self._target, self._own = _Side(target, vocab, both), _Side(own, width, both)
        ours, theirs = id_of(target, "eos_token_id"), id_of(own, "eos_token_id")
        self.eos = None if ours is None or theirs is None else (ours, theirs)
        first = list(own("a")["input_ids"])[:1]
        self.start: list[int] = first if first == [id_of(own, "bos_token_id")] else []
        self._filler = filler(own, ("bos_token_id", "eos_token_id"), width)

    def read(self, own: Sequence[int], tokens: Sequence[int], rest: bytes = b"") -> tuple[list[int], bytes]:
        """Return the draft's tokens for a text that grew by tokens of the target, and the bytes of an incomplete character.

        own: the draft's tokens so far; never empty in the result. rest: the bytes of the incomplete character so far.
        """
        text, rest = _characters(rest + self._target.text(tokens))
        grown = self._own.extended(own, text) if text else list(own)
        return grown or [*self.start] or [self._filler], rest

    def propose(self, tokens: Sequence[int], rest: bytes, drafted: Sequence[int]) -> list[int]:
        """Return the target's tokens for the draft's new ones.

        tokens: the decided tokens of the target. rest: the incomplete character at their end; behind one, nothing is proposed.
        """
        ended = self.eos is not None and self.eos[1] in drafted
        if self.eos is not None and ended:
            drafted = drafted[: list(drafted).index(self.eos[1])]
        text, _ = _characters(self._own.text(drafted))
        if rest:
            return []
        found = self._behind(tokens[self._target.lookbehind(tokens) :], text) if text else []
        return [*found, self.eos[0]] if self.eos is not None and ended else found

    def _behind(self, tail: Sequence[int], text: str) -> list[int]:
        """Encode text behind the last decided tokens. If no token begins where they end, encode the text alone."""
        before = self._target.text(tail)
        if _whole(before):
            together = self._target.encode(before.decode() + text)
            for count in range(len(together) + 1):
                if self._target.text(together[:count]) == before:
                    return together[count:]
        return self._target.encode(text)


def _characters(text: bytes) -> tuple[str, bytes]:
    """Return the complete characters of some bytes, and the bytes of an incomplete last one."""
    for missing in range(min(3, len(text)) + 1):
        head, rest = text[: len(text) - missing], text[len(text) - missing :]
        if _whole(head) and (not rest or _begins_character(rest)):
            return head.decode(), rest
    return text.decode(errors="replace"), b""


def _begins_character(rest: bytes) -> bool:
    """Say whether bytes are the beginning of one longer character."""
    lengths = {0b110: 2, 0b1110: 3, 0b11110: 4}
    length = next((size for lead, size in lengths.items() if rest[0] >> (7 - size) == lead), 0)
    return len(rest) < length


def _whole(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
