"""The text that each token of an output adds, so that a report can show an output token by token.

A token alone is not always text: it may hold part of a character's bytes, or a blank that depends on what stands before it. So a
token is decoded behind the tokens before it, and one that leaves a character unfinished adds nothing: the token that completes the
character adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens


def pieces(tokens: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """One text per token, special tokens by their names; together they are the output's text, up to bytes that are no character."""
    decode = tokenizer.backend_tokenizer.decode
    made: list[str] = []
    before: list[int] = []  # the last tokens whose text is whole
    open_tokens: list[int] = []  # those of an unfinished character, and what stands before it in them
    shown = waiting = 0  # characters of the open tokens that were given; tokens that gave none since
    for token in tokens:
        open_tokens.append(token)
        known = decode(before, skip_special_tokens=False) if before else ""
        text = decode([*before, *open_tokens], skip_special_tokens=False)[len(known) :]
        whole = text.rstrip(_BROKEN)
        waiting = 0 if len(whole) > shown else waiting + 1
        if text != whole and waiting < _LONGEST_CHARACTER:
            made.append(whole[shown:])
            shown = len(whole)
            continue
        made.append(text[shown:])
        before, open_tokens, shown, waiting = open_tokens, [], 0, 0
    return made
