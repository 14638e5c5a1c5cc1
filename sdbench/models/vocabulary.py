"""Say how a draft with another vocabulary joins a family, and match its tokens with those of the target.

With `intersection` the draft proposes the tokens that both tokenizers have, matched by their bytes (TLI of Timor et al.,
2502.05202). A reduced head computes only the most frequent tokens of the target (FR-Spec, 2502.14856). With `reencode` the draft
writes text of its own, and the target's tokenizer encodes it (`sdbench.models.text_bridge`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdbench.errors import InputError
from sdbench.models.token_map import MappedIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sdbench.models.spec import ModelSpec

KINDS = ("intersection", "reencode")
IDS_FILE = "vocabulary.json"  # the ids that a trained draft proposes
_FEWEST_SHARED = 2
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """How a model joins the vocabulary of the target.

    Of a reduced one: size and text, the number of tokens and what is counted; or ids, the folder that holds the list of them.
    """

    kind: Literal["intersection", "reduced", "reencode"]
    size: int = 0
    text: str = ""
    ids: str = ""


def vocabulary_of(spec: ModelSpec) -> Vocabulary | None:
    """Return the vocabulary that a spec asks for; None for that of the family. Errors: InputError if the value is no such thing."""
    asked = spec.vocabulary
    if asked is None:
        return None
    if isinstance(asked, Mapping) and asked.keys() == {"size", "text"}:
        size, text = asked["size"], asked["text"]
        if isinstance(size, int) and not isinstance(size, bool) and size >= _FEWEST_SHARED and isinstance(text, str):
            return Vocabulary("reduced", size, text)
    elif isinstance(asked, Mapping) and asked.keys() == {"ids"} and isinstance(asked["ids"], str):
        return Vocabulary("reduced", ids=asked["ids"])
    elif asked in KINDS:
        return Vocabulary(asked)
    raise InputError(
        f"models.{spec.role}.vocabulary is {asked!r}; it must be null, intersection, reencode, or "
        "{size:TOKENS,text:PATH} with at least 2 tokens, or {ids:FOLDER}."
    )


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """Return the bytes that each ordinary token writes, by id. Special and other added tokens have none.

    A byte-level tokenizer spells bytes in GPT-2's alphabet. A SentencePiece one writes a blank as '▁' and a byte as <0x0A>.
    """
    alphabet = _gpt2_alphabet() if "ByteLevel" in json.dumps(_decoder(tokenizer)) else None
    added = set(tokenizer.added_tokens_decoder)
    found = {}
    for token, number in tokenizer.get_vocab().items():
        if number in added:
            continue
        byte = _BYTE.fullmatch(token)
        if alphabet is not None:
            found[number] = bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()
        elif byte:
            found[number] = bytes([int(byte[1], 16)])
        else:
            found[number] = token.replace("▁", " ").encode()
    return found


def intersection(
    target: PreTrainedTokenizerFast, own: PreTrainedTokenizerFast, vocab: int, width: int, role: str
) -> MappedIds:
    """Return the map of a model onto the target's ids, over the tokens that both tokenizers have.

    Ordinary tokens match by their bytes, added ones by their text, and the tokens that end a text by their use. In place of a token
    that the model lacks it reads the last of its own tokens for the same text: the next token depends most on the text's end.

    vocab: V, the number of the target's ids. width: the number of rows of the model's embedding. role: for messages.

    Raises:
        InputError: the two have almost no token in common.
    """
    ours, theirs = token_bytes(target), token_bytes(own)
    by_bytes = {text: number for number, text in sorted(theirs.items(), reverse=True) if number < width}
    shared = {number: by_bytes[text] for number, text in ours.items() if number < vocab and text in by_bytes}
    ordinary = len(shared)
    added = {str(token): number for number, token in own.added_tokens_decoder.items() if number < width}
    names = {number: str(token) for number, token in target.added_tokens_decoder.items() if number < vocab}
    shared |= {number: added[name] for number, name in names.items() if name in added}
    for end in ("eos_token_id", "bos_token_id"):
        one, other = id_of(target, end), id_of(own, end)
        if one is None or other is None:
            continue
        if one < vocab and one not in shared and other not in shared.values():
            shared[one] = other
    if ordinary < _FEWEST_SHARED:
        raise InputError(
            f"models.{role}.vocabulary is intersection, but the tokenizers of target and {role} have {ordinary} ordinary tokens in "
            f"common: take models.{role}.vocabulary=reencode."
        )
    reads = _stand_ins(ours, own, vocab, width)
    for number, mine in shared.items():
        reads[number] = mine
    proposes = sorted(shared)
    return MappedIds(reads, proposes, [shared[number] for number in proposes], width)


def _stand_ins(ours: Mapping[int, bytes], own: PreTrainedTokenizerFast, vocab: int, width: int) -> list[int]:
    """Return, for each id of the target, the last own token of the same text; where there is no text, the unknown or end token."""
    nothing = filler(own, ("unk_token_id", "eos_token_id"), width)
    numbers = [number for number in ours if number < vocab]
    texts = [ours[number].decode(errors="replace") for number in numbers]
    reads = [nothing] * vocab
    for number, ids in zip(numbers, own(texts, add_special_tokens=False)["input_ids"] if texts else [], strict=True):
        if ids and ids[-1] < width:
            reads[number] = ids[-1]
    return reads


def most_frequent(
    sequences: Iterable[Sequence[int]], size: int, always: Sequence[int], vocab: int, role: str
) -> list[int]:
    """Return the `size` most frequent ids of some token sequences, ascending; smaller ids first among equals.

    always: ids that are kept whatever their count, such as those that end a text. vocab: the number of ids. Ids without a
    count fill up the rest, the smallest first: a BPE tokenizer numbers its tokens by their frequency in its own training text.

    Raises:
        InputError: the vocabulary is not larger, or an id is no token of it.
    """
    if size >= vocab:
        raise InputError(
            f"models.{role}.vocabulary has a size of {size}, but the vocabulary has {vocab} tokens: take fewer, or null."
        )
    counts = Counter(token for tokens in sequences for token in tokens)
    if counts and not 0 <= min(counts) <= max(counts) < vocab:
        raise InputError(f"models.{role}.vocabulary.text: its tokens are not those of a vocabulary of {vocab} tokens.")
    kept = sorted(range(vocab), key=lambda token: (token not in always, -counts[token], token))[:size]
    return sorted(kept)


def listed(folder: Path, vocab: int, knob: str) -> list[int]:
    """Return the ids that a trained draft proposes, ascending. vocab: the number of ids. Errors: InputError."""
    file = folder / IDS_FILE
    if not file.is_file():
        raise InputError(f"{knob}: the folder {folder} holds no {IDS_FILE}; `sdbench train` writes one.")
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{knob}: {file} is no JSON ({error}): train the draft again.") from error
    if (
        not isinstance(ids, list)
        or len(ids) < _FEWEST_SHARED
        or not all(type(one) is int and 0 <= one < vocab for one in ids)
    ):
        raise InputError(f"{knob}: {file} does not list ids of a vocabulary of {vocab} tokens.")
    return sorted(set(ids))


def reduced(ids: Sequence[int], vocab: int, width: int) -> MappedIds:
    """Return the map of a model with the target's own ids that proposes only some of them. ids: ascending."""
    return MappedIds([min(number, width - 1) for number in range(vocab)], ids, ids, width)


def ids_digest(ids: Sequence[int]) -> str:
    """Return a SHA-256 of some ids, by which they enter the `run_id`."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def id_of(tokenizer: PreTrainedTokenizerFast, name: str) -> int | None:
    """Return the id of a tokenizer's special token. name: such as eos_token_id."""
    number = getattr(tokenizer, name)
    return number if isinstance(number, int) else None


def filler(tokenizer: PreTrainedTokenizerFast, names: Sequence[str], width: int) -> int:
    """Return the first of some special tokens that the tokenizer has and an embedding has a row for; else 0."""
    numbers = (id_of(tokenizer, name) for name in names)
    return next((number for number in numbers if number is not None and number < width), 0)


def _decoder(tokenizer: PreTrainedTokenizerFast) -> Any:
    return json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]


def _gpt2_alphabet() -> dict[str, int]:
    """Return the byte that each character of GPT-2's byte alphabet stands for.

    Printable bytes stand for themselves. The others, in order, are the characters from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
