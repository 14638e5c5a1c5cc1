"""Tokenizer and batches: reproducible, loss-free, and the right tokens are counted."""

import hashlib

import pytest
import torch
import yaml
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

from sdbench.tasks.texts import GENERATORS, generate
from sdbench.training.recipes.tiny_family import family_tokenizer
from sdbench.training.tiny.data import Corpus, encode, pack, pad
from sdbench.training.tiny.recipe import TrainRecipe

TOKENIZER_DIGEST = "4bd4700a5709cae1e39038740f678634748f891266a14fbb1bba11cfda754c06"


@pytest.fixture(scope="module")
def recipe() -> TrainRecipe:
    with open("conf/train/tiny.yaml") as file:
        return TrainRecipe.from_mapping(yaml.safe_load(file))


@pytest.fixture(scope="module")
def tokenizer(recipe: TrainRecipe) -> PreTrainedTokenizerFast:
    return family_tokenizer(recipe)


def test_tokenizer_is_the_same_everywhere(tokenizer: PreTrainedTokenizerFast) -> None:
    assert hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest() == TOKENIZER_DIGEST


def test_special_tokens_are_distinct(tokenizer: PreTrainedTokenizerFast, recipe: TrainRecipe) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template is None
    assert len(tokenizer) == recipe.vocabulary
    assert tokenizer.eos_token_id not in tokenizer.encode("Question: 1")


def test_each_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.decode([token]) for token in tokenizer.encode("Mia has 1234 +5")] == [
        *("Mia", " has", " ", "1", "2", "3", "4", " +", "5")
    ]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_decoding_gives_the_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", GENERATORS)
def test_examples_are_prompt_completion_and_end(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    for index in range(50):
        text = generate(kind, "train", 0, index)
        example = encode(tokenizer, text)
        assert tokenizer.decode(example.tokens) == text.prompt + text.completion + "<eos>"
        assert tokenizer.decode(example.tokens[example.prompt_tokens :]) == text.completion + "<eos>"
        assert tokenizer.encode(text.prompt + text.completion) == example.tokens[:-1]
        assert len(example.tokens) < 384


def test_padding_is_not_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [encode(tokenizer, generate("stories", "train", 0, index)) for index in range(4)]
    batch = pad(examples, 0)
    for row, example in enumerate(examples):
        assert batch.tokens[row, batch.counted[row]].tolist() == example.tokens[example.prompt_tokens :]


def test_packed_rows_hold_the_texts_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [encode(tokenizer, generate("records", "train", 0, index)) for index in range(8)]
    batch = pack(examples, 64)
    flat = [token for example in examples for token in example.tokens]
    assert batch.tokens.flatten().tolist() == flat[: len(flat) // 64 * 64]
    assert int(batch.counted[:2].sum()) < 128


def test_pools_depend_on_their_number_alone(tokenizer: PreTrainedTokenizerFast, recipe: TrainRecipe) -> None:
    def corpus() -> Corpus:
        return Corpus(
            tokenizer, recipe.mixture, recipe.late_mixture, 1, 0, 2048, 200, recipe.block_tokens, recipe.packed_every
        )

    after_another, alone = corpus(), corpus()
    after_another.pool(0)
    pairs = list(zip(after_another.pool(1), alone.pool(1), strict=True))
    assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.counted, b.counted) for a, b in pairs)
    assert all(batch.tokens.numel() <= 2048 for batch, _ in pairs)
    assert any(batch.tokens.shape[1] == recipe.block_tokens for batch, _ in pairs)
    assert len(pairs) > 2 * len(alone.pool(0))  # the late mixture has longer texts
