"""Read a model's `generation_config.json`, and apply the part of it that every arm must follow.

The method `generate` of `transformers` follows this file even when it is called without options. Its fields form five groups:

    rules      change the distribution of a token, given the earlier tokens: a repetition penalty, banned words, a minimum length.
               Every arm applies them to the target's logits (`TokenRules`), so greedy tokens equal those of `generate`.
    stops      end-of-sequence tokens and stop strings. They end an answer, in addition to the task's own stops.
    sampling   temperature, top_k and similar fields. The run's `sampling` replaces them; the record shows the model's values.
    length     the maximum length of an answer. The task's value, or `max_new_tokens`, replaces it.
    search     beams, contrastive search, guidance by a second forward: these are not distributions of one token. No arm applies
               them, and the run reports this.

The other fields name caches, outputs and helper models. They change no token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.errors import InputError
from sdbench.models.quiet import quiet, reason_of

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Each field with the value that has no effect.
RULES: dict[str, Any] = {
    "sequence_bias": None,
    "encoder_repetition_penalty": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
SAMPLING: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": None,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
LENGTH: dict[str, Any] = {"max_length": None, "max_new_tokens": None}
SEARCH: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "token_healing": False,
    "remove_invalid_values": False,
    "num_return_sequences": 1,
    "max_time": None,
    "use_mtp": False,
    "prompt_lookup_num_tokens": None,
    "assistant_ensemble_weight": None,
    "speculation_type": None,
}


@dataclass(frozen=True)
class GenerationDefaults:
    """The fields of a model's generation config that have an effect, by group.

    rules, stop_strings: every arm applies them. sampling, length: the run's own values replace them. search: no arm applies it.
    """

    rules: Mapping[str, Any] = field(default_factory=dict)
    stop_strings: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    length: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: GenerationConfig) -> GenerationDefaults:
        """Sort the fields of a generation config into the groups."""
        asked = config.to_dict()

        def group(neutral: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: asked[name]
                for name, nothing in neutral.items()
                if asked.get(name) is not None and asked[name] != nothing and asked[name] != []
            }

        stops = asked.get("stop_strings") or ()
        return cls(
            group(RULES),
            (stops,) if isinstance(stops, str) else tuple(stops),
            group(SAMPLING),
            group(LENGTH),
            group(SEARCH),
        )

    @property
    def record(self) -> dict[str, Any]:
        """The groups for the run's record, without the empty ones."""
        return {name: value for name, value in asdict(self).items() if value}

    def notes(self, sampling: str) -> list[str]:
        """Return sentences that tell the user which settings apply. sampling: the run's sampling, in words."""
        said = []
        if self.rules:
            said.append(
                f"The target's generation_config asks for {_listed(self.rules)}; every arm applies it to the target's logits."
            )
        if self.search:
            said.append(
                f"The target's generation_config asks for {_listed(self.search)}, which no arm applies: tokens may differ from "
                "those of the model's own generate."
            )
        if self.sampling:
            said.append(f"The target's generation_config suggests {_listed(self.sampling)}; this run uses {sampling}.")
        return said


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in fields.items())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class TokenRules:
    """The rules of a generation config, which change the target's logits given the earlier tokens.

    fields: the group `rules`. eos: the tokens that end an answer; () with `ignore_eos`. The rules use the logits processors of
    `transformers`, in the order of `generate`.
    """

    def __init__(self, fields: Mapping[str, Any], eos: Sequence[int] = ()) -> None:
        self.fields, self.eos = dict(fields), tuple(eos)

    def check(self, where: str, vocab: int) -> None:
        """Refuse values that a processor rejects. where: the file, for the message. vocab: the width of the target's logits."""
        try:
            self.start([0], 1)([0], torch.zeros(vocab))
        except Exception as error:  # the processors raise different types
            raise InputError(
                f"{where} asks for {_listed(self.fields)}, which cannot be applied: {reason_of(error)}."
            ) from error

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> SequenceRules:
        """Return the rules of one sequence. prompt: its token ids. max_new_tokens: its maximum number of new tokens."""
        return SequenceRules(self._processors(list(prompt), max_new_tokens))

    def _processors(self, prompt: list[int], max_new_tokens: int) -> list[Any]:
        import transformers as t

        asked, eos, begin = self.fields, torch.tensor(self.eos), len(prompt)
        ids: Any = torch.tensor([prompt])
        made: dict[str, Any] = {
            "sequence_bias": lambda value: t.SequenceBiasLogitsProcessor(value),
            "encoder_repetition_penalty": lambda value: t.EncoderRepetitionPenaltyLogitsProcessor(value, ids),
            "repetition_penalty": lambda value: t.RepetitionPenaltyLogitsProcessor(value),
            "no_repeat_ngram_size": lambda value: t.NoRepeatNGramLogitsProcessor(value),
            "encoder_no_repeat_ngram_size": lambda value: t.EncoderNoRepeatNGramLogitsProcessor(value, ids),
            "bad_words_ids": lambda value: t.NoBadWordsLogitsProcessor(value, eos if self.eos else None),
            "min_length": lambda value: t.MinLengthLogitsProcessor(value, eos) if self.eos else None,
            "min_new_tokens": lambda value: (
                t.MinNewTokensLengthLogitsProcessor(begin, value, eos) if self.eos else None
            ),
            "forced_bos_token_id": lambda value: t.ForcedBOSTokenLogitsProcessor(value),
            "forced_eos_token_id": lambda value: t.ForcedEOSTokenLogitsProcessor(begin + max_new_tokens, value),
            "exponential_decay_length_penalty": lambda value: (
                t.ExponentialDecayLengthPenalty(tuple(value), eos, begin) if self.eos else None
            ),
            "suppress_tokens": lambda value: t.SuppressTokensLogitsProcessor(value),
            "begin_suppress_tokens": lambda value: t.SuppressTokensAtBeginLogitsProcessor(
                value, begin if begin > 1 or "forced_bos_token_id" not in asked else begin + 1
            ),
        }
        with quiet():
            processors = [make(asked[name]) for name, make in made.items() if name in asked]
        return [processor for processor in processors if processor is not None]


class SequenceRules:
    """The rules of one sequence: a function from its tokens and the next token's logits to the changed logits."""

    def __init__(self, processors: Iterable[Any]) -> None:
        self._processors = list(processors)

    def __call__(self, tokens: Sequence[int], logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """Apply the processors in order. tokens: the prompt and the answer so far. Returns float32, or float64 for float64."""
        ids = torch.tensor([list(tokens)], device=logits.device)
        scores = logits[None].to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
        for processor in self._processors:
            scores = processor(ids, scores)
        return scores[0]


def listed_ids(ids: int | Iterable[int] | None) -> tuple[int, ...]:
    """Return token ids as a config states them: none, one or several."""
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(map(int, ids))
