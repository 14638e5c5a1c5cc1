"""Decode with any arm from Python: `decode`, and `custom_generate` for `model.generate` of transformers.

    tokens = sdbench.decode(model, draft, prompt, method="sd")
    model.generate(input_ids, custom_generate=sdbench.custom_generate(draft, method="mcsd"), max_new_tokens=64)

A method is the name of an arm (`sdbench ls arms`). The models are those of transformers. The target's generation config is followed
as in a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.decoding.base import Decoder, Request
from sdbench.errors import InputError
from sdbench.harness.arms import make
from sdbench.harness.config import choices, compose
from sdbench.lm.diffusion import DiffusionTransformer
from sdbench.lm.probe import check_steps
from sdbench.lm.recurrent import RecurrentTransformer, language_model
from sdbench.lm.transformer import Transformer
from sdbench.models.derived import derived
from sdbench.models.generation import SAMPLING, SEARCH, GenerationDefaults, TokenRules, listed_ids
from sdbench.models.masked_diffusion import mask_token_of
from sdbench.models.spec import family_specs
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

_SAMPLED = ("do_sample", "temperature", "top_k", "top_p")  # the fields of sampling that a decoder applies
# What ends an answer: the first two are followed, and the fields of the config that make the others are refused by their names.
_ENDS = ("MaxLengthCriteria", "EosTokenCriteria", "MaxTimeCriteria", "StopStringCriteria")


def decode(
    model: PreTrainedModel,
    draft: PreTrainedModel | None,
    prompt: Sequence[int],
    method: str = "sd",
    max_new_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int = 0,
    qualifier: PreTrainedModel | None = None,
    overrides: Sequence[str] = (),
) -> list[int]:
    """Return the new tokens of an answer, with the end-of-sequence token if there is one.

    Args:
        draft, qualifier: the smaller models, for methods that use them.
        prompt: token ids.
        method: the name of an arm, such as sd, lookup or mcsd.
        sampling: None is greedy.
        overrides: values of the arm's knobs, as for `sdbench run`, such as arms.sd.draft_length=6.

    Raises:
        InputError: there is no such method, it needs a model that is not given, or a value is wrong.
    """
    config, tokens = _config_of(model), _token_ids(prompt, model.config.get_text_config().vocab_size)
    validate.whole("max_new_tokens", max_new_tokens, 1)
    decoder = _decoder(model, draft, qualifier, method, config, overrides)
    request = Request(tokens, "prompt")
    stop = StopAtTokens(listed_ids(config.eos_token_id))
    (finished,) = decoder.generate([request], sampling or Sampling(), stop, max_new_tokens, seed)
    decoder.close()
    return finished.tokens


def custom_generate(
    draft: PreTrainedModel | None = None,
    method: str = "sd",
    qualifier: PreTrainedModel | None = None,
    overrides: Sequence[str] = (),
) -> Callable[..., Int[Tensor, "B L"]]:
    """Return a function for `model.generate(..., custom_generate=FUNCTION)`. The arguments are those of `decode`.

    It follows the generation config of the call: length, temperature, top-k, top-p, end-of-sequence tokens and the rules for single
    tokens. What it cannot follow is refused: beams, other kinds of sampling, stop strings, time limits, streamers, and processors
    and criteria that the call brings along. torch's global generator gives the seed.
    """

    def generate(
        model: PreTrainedModel, input_ids: Int[Tensor, "B T"], generation_config: GenerationConfig, **given: Any
    ) -> Int[Tensor, "B L"]:
        _check_call(model, input_ids, generation_config, given)
        decoder = _decoder(model, draft, qualifier, method, generation_config, overrides)
        seen = given.get("attention_mask")
        lines = input_ids.tolist()
        shown = seen.bool().tolist() if seen is not None else [[True] * len(line) for line in lines]
        prompts = [
            [token for token, on in zip(line, mask, strict=True) if on] for line, mask in zip(lines, shown, strict=True)
        ]
        if not all(prompts):
            raise InputError("a row of input_ids has no token that attention_mask shows; give each row a prompt")
        new = int(generation_config.max_length or 0) - input_ids.shape[1]
        seed = int(torch.randint(1 << 62, ()))
        requests = [Request(tokens, str(number)) for number, tokens in enumerate(prompts)]
        eos = listed_ids(generation_config.eos_token_id)
        answers = {
            done.request.name: done.tokens
            for done in decoder.generate(
                requests, _sampling(generation_config), StopAtTokens(eos), new, seed, len(requests)
            )
        }
        decoder.close()
        longest = max(map(len, answers.values()))
        pad = generation_config.pad_token_id
        filler = pad if pad is not None else next(iter(eos), 0)
        tokens = [answers[str(row)] + [filler] * (longest - len(answers[str(row)])) for row in range(len(requests))]
        return torch.cat([input_ids, torch.tensor(tokens, device=input_ids.device)], 1)

    return generate


def _decoder(
    model: PreTrainedModel,
    draft: PreTrainedModel | None,
    qualifier: PreTrainedModel | None,
    method: str,
    config: GenerationConfig,
    overrides: Sequence[str],
) -> Decoder:
    """Make the decoder of an arm over these models."""
    if method not in choices("arms"):
        raise validate.unknown("There is no arm", method, choices("arms"))
    for word in overrides:
        if not re.match(rf"\+*(\w+@)?arms\.{re.escape(method)}\.", word):
            raise InputError(f"'{word}' is no knob of the method: an override here begins with arms.{method}.")
    composed = compose([f"arms=[{method}]", *overrides])
    if list(composed["arms"]) != [method]:
        raise InputError(
            f"the overrides make the arms {', '.join(composed['arms'])} of {method}; give each knob one value"
        )
    roles = {"target": model, "qualifier": qualifier, "draft": draft}
    vocab = model.config.get_text_config().vocab_size
    family = {role: _stepped(role, part, vocab) for role, part in roles.items() if part is not None}
    for role, spec in family_specs(composed["models"]).items():
        source = roles.get(spec.derive.source) if spec.derive else None
        if spec.derive and source is not None and role not in family:
            family[role] = language_model(role, derived(source, role, spec.derive), vocab)
    (arm,) = make({method: composed["arms"][method]}, family)
    rules = GenerationDefaults.of(config).rules
    if rules:
        family["target"].rules = TokenRules(rules, listed_ids(config.eos_token_id))
    return arm.decoder


def _stepped(role: str, model: PreTrainedModel, vocab: int) -> Transformer:
    """Return a model as decoders take it. Raises: InputError, if the config of a diffusion model is incomplete."""
    if mask_token_of(role, model.config.get_text_config()) is not None:
        return DiffusionTransformer(role, model)
    made = language_model(role, model, vocab)
    if isinstance(made, RecurrentTransformer):
        check_steps(made)  # the code of some models loses the recurrent state
    return made


def _check_call(model: Any, input_ids: Tensor, config: GenerationConfig, given: Mapping[str, Any]) -> None:
    """Refuse what a call of `generate` asks for and a decoder does not do. Raises: InputError."""
    fields = {**SEARCH, "stop_strings": None, "return_dict_in_generate": False}
    if config.do_sample:
        fields |= {name: value for name, value in SAMPLING.items() if name not in _SAMPLED}
    refused = [name for name, value in fields.items() if getattr(config, name, value) not in (value, None)]
    refused += ["streamer"] if given.get("streamer") is not None else []
    refused += ["inputs_embeds"] if given.get("inputs_embeds") is not None else []
    own = model._get_logits_processor(config, input_ids.shape[1], input_ids, device=input_ids.device, model_kwargs={})
    known = {type(one) for one in own}
    refused += [type(one).__name__ for one in given.get("logits_processor") or () if type(one) not in known]
    ends = [type(one).__name__ for one in given.get("stopping_criteria") or ()]
    refused += [name for name in ends if name not in _ENDS]
    if refused:
        raise InputError(
            f"sdbench decodes without {', '.join(refused)}: leave them out of the call and of its generation config."
        )


def _token_ids(prompt: Any, vocab: int) -> list[int]:
    """Return a prompt as a list. Raises: InputError, if it is no sequence of token ids."""
    given = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    right = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    if not right or not all(isinstance(token, int) and 0 <= token < vocab for token in given):
        raise InputError(f"the prompt must be one sequence of token ids from 0 to {vocab - 1}, with at least one")
    return list(given)


def _config_of(model: PreTrainedModel) -> GenerationConfig:
    """Return the generation config that `generate` would use."""
    from transformers import GenerationConfig

    return model.generation_config or GenerationConfig()


def _sampling(config: GenerationConfig) -> Sampling:
    """Return the sampling of a generation config, with transformers' defaults for what it leaves open."""
    if not config.do_sample:
        return Sampling()
    temperature, top_k, top_p = config.temperature, config.top_k, config.top_p
    return Sampling(
        1.0 if temperature is None else float(temperature), int(top_k or 0), 1.0 if top_p is None else float(top_p)
    )
