"""Arms from Python: the tokens of `generate`, alone and as its `custom_generate`."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

import sdbench
from sdbench.errors import InputError
from sdbench.sampling import Sampling
from tests.conftest import V, random_model
from tests.lm.recurrent_models import recurrent_model

METHODS = ["ar", "sd", "lookup", "suffix", "mcsd", "dynamic_tree"]
NEW = 12


@pytest.fixture(scope="module")
def models():
    return random_model("llama"), random_model("llama", layers=2)


def prompts():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, V, (2, 9), generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_decode(models, method):
    target, draft = models
    ids = prompts()[:1]
    expected = target.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)[0, 9:].tolist()
    assert sdbench.decode(target, draft, ids[0].tolist(), method, NEW) == expected


@pytest.mark.parametrize("method", METHODS)
def test_custom_generate_over_rows_of_other_lengths(models, method):
    """Two rows, the second padded on the left, with an end-of-sequence token and a repetition penalty."""
    target, draft = models
    ids, mask = prompts(), torch.ones(2, 9, dtype=torch.long)
    ids[1, :4], mask[1, :4] = 0, 0
    plain = target.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=int(plain[0, 13]), repetition_penalty=1.2
    )
    expected = target.generate(ids, attention_mask=mask, generation_config=config)
    function = sdbench.custom_generate(draft, method)
    got = target.generate(ids, attention_mask=mask, generation_config=config, custom_generate=function)
    assert got.tolist() == expected.tolist()


def test_a_seed_gives_the_same_sample(models):
    target, draft = models
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        function = sdbench.custom_generate(draft, "mcsd")
        outputs.append(
            target.generate(
                prompts(), max_new_tokens=NEW, do_sample=True, top_k=0, pad_token_id=0, custom_generate=function
            ).tolist()
        )
    assert outputs[0] == outputs[1] != outputs[2]
    drawn = [sdbench.decode(target, draft, [5, 6], "sd", NEW, Sampling(1.0), seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_done_is_refused(models):
    target, _ = models
    with pytest.raises(InputError, match="num_beams"):
        target.generate(
            prompts(),
            max_new_tokens=4,
            num_beams=2,
            do_sample=False,
            pad_token_id=0,
            custom_generate=sdbench.custom_generate(),
        )
    with pytest.raises(InputError, match="draft"):
        sdbench.decode(target, None, [1, 2], "sd")
    with pytest.raises(InputError, match="There is no arm"):
        sdbench.decode(target, None, [1, 2], "sdd")


class Banned(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class Ended(StoppingCriteria):
    def __call__(self, input_ids, scores, **more):
        return torch.ones(len(input_ids), dtype=torch.bool)


CALLS = {
    "min_p": {"do_sample": True, "min_p": 0.5},
    "typical_p": {"do_sample": True, "typical_p": 0.5},
    "return_dict_in_generate": {"return_dict_in_generate": True},
    "guidance_scale": {"guidance_scale": 2.0},
    "Banned": {"logits_processor": LogitsProcessorList([Banned()])},
    "PrefixConstrainedLogitsProcessor": {"prefix_allowed_tokens_fn": lambda row, ids: [5]},
    "Ended": {"stopping_criteria": StoppingCriteriaList([Ended()])},
    "attention_mask": {"attention_mask": torch.tensor([[1] * 9, [0] * 9])},
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_asks_for_more_is_refused(models, name):
    function = sdbench.custom_generate(models[1])
    call = {"do_sample": False, **CALLS[name]}
    with pytest.raises(InputError, match=name):
        models[0].generate(prompts(), max_new_tokens=4, pad_token_id=0, custom_generate=function, **call)


@pytest.mark.parametrize("prompt", [[], [V], [-1], "text", [[1, 2]], torch.tensor([[1, 2]]), [1.5]])
def test_a_prompt_is_a_sequence_of_token_ids(models, prompt):
    with pytest.raises(InputError, match=f"token ids from 0 to {V - 1}"):
        sdbench.decode(models[0], None, prompt, "ar")


def test_a_prompt_may_be_a_tensor(models):
    assert sdbench.decode(models[0], None, torch.tensor([1, 2]), "ar", 3) == sdbench.decode(
        models[0], None, [1, 2], "ar", 3
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"method": "ar,lookup"}, "There is no arm 'ar,lookup'"),
        ({"overrides": ["sampling.temperature=1"]}, "begins with arms.ar."),
        ({"overrides": ["arms=[lookup]"]}, "begins with arms.ar."),
        ({"method": "lookup", "overrides": ["+arms.lookup.grid.draft_length=[1,2]"]}, "one value"),
    ],
)
def test_other_knobs_are_refused(models, more, said):
    with pytest.raises(InputError, match=re.escape(said)):
        sdbench.decode(models[0], None, [1, 2], **{"method": "ar", **more})


def test_a_model_that_loses_its_state_is_refused():
    with pytest.raises(InputError, match="with an empty recurrent state"):
        sdbench.decode(recurrent_model("mamba"), None, [1, 2], "ar")
