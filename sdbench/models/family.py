"""Check a family of models before any weights are loaded. Its roles share the tokens of the target, or say how theirs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdbench.errors import InputError
from sdbench.heads.config import HeadConfig, is_head
from sdbench.heads.exit_config import ExitConfig
from sdbench.models.architecture import check_architecture, longest_sequence
from sdbench.models.generation import GenerationDefaults, TokenRules, listed_ids
from sdbench.models.head_files import check_head_sizes, head_config
from sdbench.models.hub import config_document, place_of, read_config, read_generation, read_tokenizer
from sdbench.models.masked_diffusion import mask_token_of
from sdbench.models.skeleton import skeleton
from sdbench.models.spec import ModelSpec, Source, resolve
from sdbench.models.vocabulary import Vocabulary, vocabulary_of
from sdbench.models.weight_files import check_checksums, check_weight_files, sizes_differ, tensors_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Member:
    """The model of one role, without its weights.

    config: of the text model. width: the number of rows of its embedding, which may be padded beyond the tokenizer. context: the
    longest sequence that it can read, in tokens (None: its config sets no limit). why: the reason for this limit, or "" if the
    limit is the config's longest position. eos: token ids that end its output. defaults: the settings of its generation config.
    head: of a head, its own config; the other fields but `config` are those of the model that it reads.
    mask_token: of a masked diffusion model; None for an autoregressive one.
    """

    spec: ModelSpec
    source: Source
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    width: int
    context: int | None
    eos: tuple[int, ...]
    why: str = ""
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    head: HeadConfig | ExitConfig | None = None
    mask_token: int | None = None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """How the member joins the vocabulary of the main member; None if it has the same tokens."""
        return vocabulary_of(self.spec)


@dataclass(frozen=True)
class Family:
    """The checked members of a family, by role, and their common properties.

    main: the target, or the first role in a family without target. tokenizer, eos, defaults: those of the main member. vocab: the
    number of token ids. It is the width of the main member, so the target's distribution is complete. context: the shortest context
    of the members, in tokens. why: the reason for it, or "" if it is a config's longest position.
    """

    members: dict[str, Member]
    main: Member
    context: int | None
    why: str = ""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.main.tokenizer

    @property
    def eos(self) -> tuple[int, ...]:
        return self.main.eos

    @property
    def vocab(self) -> int:
        return self.main.width

    @property
    def defaults(self) -> GenerationDefaults:
        return self.main.defaults

    @property
    def notes(self) -> list[str]:
        """One sentence for each member whose embedding has another width than that of the main member."""
        said = []
        for role, member in self.members.items():
            if member.vocabulary is not None:
                continue
            if member.width < self.vocab:
                said.append(
                    f"The embedding of {role} has {member.width} rows, that of {self.main.spec.role} {self.vocab}: {role} never "
                    f"proposes the ids from {member.width} on, and reads its last row in their place."
                )
            elif member.width > self.vocab:
                said.append(
                    f"The embedding of {role} has {member.width} rows, that of {self.main.spec.role} {self.vocab}: the surplus ids "
                    f"of {role} are never proposed."
                )
        return said


def check_files(spec: ModelSpec) -> None:
    """Look for the files of a member, without an import of `transformers`. `check_family` reads them, which takes seconds.

    Errors: InputError if a source is missing, gated or damaged.
    """
    source = resolve(spec)
    if source.kind == "gguf":
        return
    config = config_document(spec, source)
    check_source(spec, source, quantized="quantization_config" in config)


def check_family(specs: Mapping[str, ModelSpec]) -> Family:
    """Find and check every member, and check that the members can run together.

    Errors: InputError if a source is missing, gated or corrupted, if an architecture is not supported, or if tokenizers differ.
    """
    if not specs:
        raise InputError("The family has no models; it needs at least a target.")
    whole = {role: _member(spec) for role, spec in specs.items() if spec.head_of is None}
    members = {role: whole.get(role) or _head(spec, whole) for role, spec in specs.items()}
    main = members.get("target") or next(iter(members.values()))
    _check_width(main)
    for member in members.values():
        if member is main and member.vocabulary is not None:
            raise InputError(
                f"models.{member.spec.role}.vocabulary is for a smaller model; the {member.spec.role} sets the vocabulary of the "
                "family, so leave it at null."
            )
        if member is not main and (member.vocabulary is None or member.vocabulary.kind == "reduced"):
            _check_tokenizers(main, member)
    # A re-encoded member has a window of its own.
    bounded = [one for one in members.values() if one.vocabulary is None or one.vocabulary.kind != "reencode"]
    shortest = min(bounded, key=lambda member: float("inf") if member.context is None else member.context)
    return Family(members, main, shortest.context, shortest.why)


def _head(spec: ModelSpec, whole: Mapping[str, Member]) -> Member:
    """Check a head. whole: by role, the members that are no heads. Raises: InputError."""
    base = whole.get(spec.head_of or "")
    if base is None:
        raise InputError(
            f"{spec.role} reads the hidden states of {spec.head_of}, which no arm steps: take an arm in which {spec.head_of} "
            "verifies."
        )
    source = resolve(spec)
    head = head_config(spec, source, base.config)
    head.check(spec.role, base.config)
    check_source(spec, source)
    check_head_sizes(spec, source, head)
    config = base.config if isinstance(head, ExitConfig) else head.layer
    return Member(spec, source, config, base.tokenizer, base.width, None, base.eos, "", base.defaults, head)


def _names_a_head(spec: ModelSpec, source: Source) -> bool:
    """Tell whether the config.json is that of a head. One that cannot be read is refused later, with advice."""
    try:
        return is_head(config_document(spec, source))
    except InputError:
        return False


def _member(spec: ModelSpec) -> Member:
    source = resolve(spec)
    if source.kind != "gguf" and _names_a_head(spec, source):
        raise InputError(
            f"{spec.path} ({spec.role}) is a head, which drafts from the hidden states of a model: set models.{spec.role}.head_of, "
            "such as target."
        )
    config = read_config(spec, source)
    check_architecture(spec.role, config)
    text = config.get_text_config()
    quantized = getattr(config, "quantization_config", None) is not None
    check_source(spec, source, quantized)
    if source.kind != "hub" and not quantized:
        check_sizes(spec, Path(place_of(spec, source)[0]), config)
    tokenizer = read_tokenizer(spec, source)
    generation = read_generation(spec, source, config)
    eos = generation.eos_token_id
    if eos is None and isinstance(tokenizer.eos_token_id, int):
        eos = tokenizer.eos_token_id
    ends = listed_ids(eos)
    defaults = GenerationDefaults.of(generation)
    if defaults.rules:
        TokenRules(defaults.rules, ends).check(
            f"The generation_config.json of {spec.path} ({spec.role})", text.vocab_size
        )
    context, why = longest_sequence(text)
    mask_token = mask_token_of(spec.role, text)
    return Member(spec, source, text, tokenizer, text.vocab_size, context, ends, why, defaults, mask_token=mask_token)


def check_source(spec: ModelSpec, source: Source, quantized: bool = False) -> None:
    """Refuse damaged local weight files. The client of the hub checks files of the hub.

    quantized: the model's config has a quantization config.
    """
    if source.kind == "hub":
        return
    folder = Path(place_of(spec, source)[0])
    check_weight_files(folder, quantized)
    if source.packaged:
        check_checksums(folder)


def check_sizes(spec: ModelSpec, folder: Path, config: PreTrainedConfig) -> None:
    """Refuse weights of another size than the config says, from the headers of the files. Loading checks the rest.

    Only tensors whose name is the model's own are compared, and only by their number of elements: a reader may rename or
    transpose a tensor.
    """
    stored, made = tensors_of(folder) or {}, skeleton(config).state_dict()
    shapes = [(name, stored[name]["shape"], tuple(made[name].shape)) for name in sorted(stored.keys() & made.keys())]
    odd = [entry for entry in shapes if math.prod(entry[1]) != math.prod(entry[2])]
    if odd:
        raise InputError(sizes_differ(spec.path, spec.role, odd))


def _check_width(main: Member) -> None:
    """Refuse a target whose embedding has fewer rows than its tokenizer has ordinary tokens."""
    added = main.tokenizer.get_added_vocab()
    needed = 1 + max((number for token, number in main.tokenizer.get_vocab().items() if token not in added), default=0)
    if main.width < needed:
        raise InputError(
            f"The embedding of {main.spec.role} has {main.width} entries, fewer than the {needed} tokens of its tokenizer: take "
            "the tokenizer that belongs to the model."
        )


def _check_tokenizers(main: Member, other: Member) -> None:
    """Refuse two members for which a token id has different meanings.

    Their ordinary tokens must be the same. Added tokens (special or reserved tokens) must agree if both members have them. In some
    families, one member has a token for which the embedding of another member has no row. The other member never proposes it.
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
                f"{_shown(two)} for {second}; models.{second}.vocabulary=intersection or =reencode lets them differ."
            )
    for name in ("eos_token_id", "bos_token_id"):
        one, two = getattr(main.tokenizer, name), getattr(other.tokenizer, name)
        if None not in (one, two) and one != two:
            raise InputError(
                f"The tokenizers of {first} and {second} differ: {name} is {one} for {first} and {two} for {second}; "
                f"models.{second}.vocabulary=intersection lets them differ."
            )


def _shown(token: str | None) -> str:
    return "no token" if token is None else repr(token)
