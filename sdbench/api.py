"""Decode with any arm from Python: `decode`, and `custom_generate` for `model.generate` of transformers.

    tokens = sdbench.decode(model, draft, prompt, method="sd")
    model.generate(input_ids, custom_generate=sdbench.custom_generate(draft, method="mcsd"), max_new_tokens=64)

A method is the name of an arm (`sdbench ls arms`). The models are those of transformers. The target's generation config is followed
as in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from sdbench.decoding.base import Decoder, Request
from sdbench.errors import InputError
from sdbench.harness.arms import make
from sdbench.harness.config import compose
from sdbench.lm.diffusion import DiffusionTransformer
from sdbench.lm.recurrent import language_model
from sdbench.lm.transformer import Transformer
from sdbench.models.derived import derived
from sdbench.models.generation import GenerationDefaults, TokenRules, listed_ids
from sdbench.models.masked_diffusion import mask_token_of
from sdbench.models.spec import family_specs
from sdbench.sampling import Sampling
from sdbench.stopping import StopAtTokens

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

_NOT_APPLIED = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "stop_strings": None,
    "penalty_alpha": None,
    "max_time": None,
}


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
    config = _config_of(model)
    decoder = _decoder(model, draft, qualifier, method, config, overrides)
    request = Request(list(prompt), "prompt")
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

    It follows the generation config of the call: length, sampling, end-of-sequence tokens and the rules for single tokens. Beams,
    stop strings and time limits are refused. torch's global generator gives the seed.
    """

    def generate(
        model: PreTrainedModel, input_ids: Int[Tensor, "B T"], generation_config: GenerationConfig, **given: Any
    ) -> Int[Tensor, "B L"]:
        refused = [
            name for name, value in _NOT_APPLIED.items() if getattr(generation_config, name, value) not in (value, None)
        ]
        if refused:
            raise InputError(f"sdbench decodes without {', '.join(refused)}: leave them out of the generation config.")
        decoder = _decoder(model, draft, qualifier, method, generation_config, overrides)
        seen = given.get("attention_mask")
        lines = input_ids.tolist()
        shown = seen.bool().tolist() if seen is not None else [[True] * len(line) for line in lines]
        prompts = [
            [token for token, on in zip(line, mask, strict=True) if on] for line, mask in zip(lines, shown, strict=True)
        ]
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
    composed = compose([f"arms=[{method}]", *overrides])
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
    return language_model(role, model, vocab)


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
