"""What a model's own `generation_config.json` asks for, and which part of it every arm applies.

`transformers`' `generate` follows this file even when it is called without options. Its fields fall into five groups:

    rules      change the law of a token, given the tokens before it: a repetition penalty, banned words, a least length. Every arm
               applies them to the target's logits (`TokenRules`), so the greedy tokens stay those of `generate`.
    stops      end-of-sequence tokens and stop strings. They end an answer beside the task's own stops.
    sampling   temperature, top_k and the like. The run's `sampling` replaces them; the record shows what the model suggests.
    length     the longest answer. The task's, or `max_new_tokens`, replaces it.
    search     what is no law of one token: beams, contrastive search, guidance by a second forward. It is not applied, and the run
               says so.

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

# Each field with the value that changes nothing.
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
    """What a model's generation config asks for, by group; only fields that would change something.

    rules, stop_strings: applied. sampling, length: replaced by the run's own. search: not applied.
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
        """The groups as the run's record keeps them; {} for a model that asks for nothing."""
        return {name: value for name, value in asdict(self).items() if value}

    def notes(self, sampling: str) -> list[str]:
        """Sentences for the reader of a run. sampling: how the run chooses its tokens, in words."""
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
    """The rules of a generation config, as changes of the target's logits given the tokens before them.

    fields: of the group `rules`. eos: the tokens that end an answer, () where none does (`ignore_eos`). The processors are those of
    `transformers`, in the order in which `generate` applies them.
    """

    def __init__(self, fields: Mapping[str, Any], eos: Sequence[int] = ()) -> None:
        self.fields, self.eos = dict(fields), tuple(eos)

    def check(self, where: str, vocab: int) -> None:
        """Refuse values that no processor takes. where: the file, for the message. vocab: the width of the target's logits."""
        try:
            self.start([0], 1)([0], torch.zeros(vocab))
        except Exception as error:  # each processor raises kinds of its own
            raise InputError(
                f"{where} asks for {_listed(self.fields)}, which cannot be applied: {reason_of(error)}."
            ) from error

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> SequenceRules:
        """Return the rules of one sequence. prompt: its token ids."""
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
    """The rules of one sequence: a function from the tokens so far, and the logits behind them, to the logits that count."""

    def __init__(self, processors: Iterable[Any]) -> None:
        self._processors = list(processors)

    def __call__(self, tokens: Sequence[int], logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """Apply the processors in turn. tokens: the prompt and the answer so far. Returns float32 (float64 stays float64)."""
        ids = torch.tensor([list(tokens)], device=logits.device)
        scores = logits[None].to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
        for processor in self._processors:
            scores = processor(ids, scores)
        return scores[0]
