"""Find the text that each token of an output adds, so that a report can show an output token by token.

A single token is not always text. It may hold some bytes of a character, or a blank that depends on the tokens before it. So
`pieces` decodes each token together with the tokens before it. A token that leaves a character incomplete adds no text. The token
that completes the character adds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes in UTF-8, and so tokens


def pieces(tokens: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return one text per token; special tokens give their names.

    The joined texts are the text of the output, except for bytes that form no character.
    """
    decode = tokenizer.backend_tokenizer.decode
    made: list[str] = []
    before: list[int] = []  # the last tokens with complete text
    open_tokens: list[int] = []  # the tokens of an incomplete character, and the text before it in them
    shown = waiting = 0  # characters of the open tokens already returned; tokens since then that added none
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
