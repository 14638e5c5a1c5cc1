"""Arms from Python: the tokens of `generate`, alone and as its `custom_generate`."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import sdbench
from sdbench.errors import InputError
from sdbench.sampling import Sampling
from tests.conftest import V, random_model

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
