"""A family of models: roles that share a tokenizer. Everything about it is checked before weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdbench.errors import InputError
from sdbench.models.architecture import check_architecture
from sdbench.models.hub import place_of, read_config, read_eos, read_tokenizer
from sdbench.models.spec import ModelSpec, Source, resolve
from sdbench.models.weight_files import check_checksums, check_weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Member:
    """One role's model as far as it is known without its weights.

    config: of the text model. width: entries of its embedding, which may be padded beyond the tokenizer. context: the
    longest sequence that it can read, in tokens (None: not limited by its config). eos: token ids that end its output.
    """

    spec: ModelSpec
    source: Source
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    width: int
    context: int | None
    eos: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """Checked members by role, and what they share.

    tokenizer, eos: the target's (the first role's, where there is no target). vocab: how many logits every member can
    give, at least one for each ordinary token. context: the shortest of the members' contexts, in tokens.
    """

    members: dict[str, Member]
    tokenizer: PreTrainedTokenizerFast
    eos: tuple[int, ...]
    vocab: int
    context: int | None


def check_family(specs: Mapping[str, ModelSpec]) -> Family:
    """Find every member, and refuse what cannot be run together.

    Errors: InputError if a source is missing, gated or corrupted, an architecture unsuited, or tokenizers differ.
    """
    if not specs:
        raise InputError("The family has no models; it needs at least a target.")
    members = {role: _member(spec) for role, spec in specs.items()}
    main = members.get("target") or next(iter(members.values()))
    for member in members.values():
        if member is not main:
            _check_tokenizers(main, member)
    contexts = [member.context for member in members.values() if member.context is not None]
    return Family(
        members=members,
        tokenizer=main.tokenizer,
        eos=main.eos,
        vocab=min(member.width for member in members.values()),
        context=min(contexts, default=None),
    )


def _member(spec: ModelSpec) -> Member:
    source = resolve(spec)
    config = read_config(spec, source)
    check_architecture(spec.role, config)
    text = config.get_text_config()
    check_source(spec, source, quantized=getattr(config, "quantization_config", None) is not None)
    tokenizer = read_tokenizer(spec, source)
    eos = read_eos(spec, source, config)
    if not eos and isinstance(tokenizer.eos_token_id, int):
        eos = (tokenizer.eos_token_id,)
    context = getattr(text, "max_position_embeddings", None)
    return Member(spec, source, text, tokenizer, text.vocab_size, context, eos)


def check_source(spec: ModelSpec, source: Source, quantized: bool = False) -> None:
    """Refuse local weight files that are damaged. The hub's own client checks files of the hub.

    quantized: the model's config has a quantization config.
    """
    if source.kind == "hub":
        return
    folder = Path(place_of(spec, source)[0])
    check_weight_files(folder, quantized)
    if source.packaged:
        check_checksums(folder)


def _check_tokenizers(main: Member, other: Member) -> None:
    """Refuse two members between which a token id would change its meaning.

    Ordinary tokens must be the same. Added ones (special tokens, reserved places) must agree where both have them: some
    families give one member a token that another's embedding has no room for, and none of the two ever writes it.
    """
    first, second = main.spec.role, other.spec.role
    ours, theirs = main.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if ours != theirs:
        extra = {**main.tokenizer.get_added_vocab(), **other.tokenizer.get_added_vocab()}
        left, right = ({number: token for token, number in vocab.items()} for vocab in (ours, theirs))
        for number in sorted(left.keys() | right.keys()):
            one, two = left.get(number), right.get(number)
            if one == two or (None in (one, two) and (one or two) in extra):
                continue
            raise InputError(
                f"The vocabularies of {first} and {second} differ: token {number} is {_shown(one)} for {first} and "
                f"{_shown(two)} for {second}; a family must share one tokenizer."
            )
    for name in ("eos_token_id", "bos_token_id"):
        one, two = getattr(main.tokenizer, name), getattr(other.tokenizer, name)
        if None not in (one, two) and one != two:
            raise InputError(
                f"The tokenizers of {first} and {second} differ: {name} is {one} for {first} and {two} for {second}."
            )
    added = main.tokenizer.get_added_vocab()
    needed = 1 + max((number for token, number in ours.items() if token not in added), default=0)
    for member in (main, other):
        if member.width < needed:
            raise InputError(
                f"The embedding of {member.spec.role} has {member.width} entries, fewer than the {needed} tokens of "
                f"{first}."
            )


def _shown(token: str | None) -> str:
    return "no token" if token is None else repr(token)
