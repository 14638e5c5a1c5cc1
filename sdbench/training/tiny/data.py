"""Turn texts into batches of tokens. A batch depends only on the seed and its number, so training can resume."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sdbench.tasks.texts import Text, generate
from sdbench.training.tiny.tokenizer import pad_and_eos


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, padded on the right. counted: marks the tokens that the loss includes."""

    tokens: Int[Tensor, "B T"]
    counted: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Example:
    """The tokens of a text, with the end of sequence. prompt_tokens: how many of them belong to the prompt."""

    tokens: list[int]
    prompt_tokens: int


def encode(tokenizer: PreTrainedTokenizerFast, text: Text) -> Example:
    """Encode prompt and completion separately, as in generation, and append the end of sequence."""
    prompt = tokenizer.encode(text.prompt)
    completion = tokenizer.encode(text.completion)
    return Example([*prompt, *completion, pad_and_eos(tokenizer)[1]], len(prompt))


def pad(examples: list[Example], pad_token: int) -> Batch:
    """Make a batch with one example per row."""
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), longest), pad_token)
    counted = torch.zeros((len(examples), longest), dtype=torch.bool)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        counted[row, example.prompt_tokens : len(example.tokens)] = True
    return Batch(tokens, counted)


def pack(examples: list[Example], block_tokens: int) -> Batch:
    """Concatenate examples and cut them into rows of `block_tokens` tokens. An incomplete last row is dropped."""
    tokens = [token for example in examples for token in example.tokens]
    counted = [place >= example.prompt_tokens for example in examples for place in range(len(example.tokens))]
    rows = len(tokens) // block_tokens
    kept = rows * block_tokens
    return Batch(
        torch.tensor(tokens[:kept], dtype=torch.long).view(rows, block_tokens),
        torch.tensor(counted[:kept], dtype=torch.bool).view(rows, block_tokens),
    )


class Corpus:
    """The endless sequence of training batches of one model.

    Texts are drawn in pools, and each pool gives several batches. The rows of a batch have similar lengths, to save padding.

    mixture: the share of each kind of text. late_mixture: the shares from pool number `late_pool` on. batch_tokens: the size of a
    batch with its padding. pool_texts: the number of texts in a pool. block_tokens: the length of a packed row. packed_every: the
    share of packed texts is 1 / packed_every.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        mixture: Mapping[str, float],
        late_mixture: Mapping[str, float],
        late_pool: int,
        seed: int,
        batch_tokens: int,
        pool_texts: int,
        block_tokens: int,
        packed_every: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._mixture = mixture
        self._late_mixture = late_mixture
        self._late_pool = late_pool
        self._seed = seed
        self._batch_tokens = batch_tokens
        self._pool_texts = pool_texts
        self._block_tokens = block_tokens
        self._packed_every = packed_every

    def pool(self, number: int) -> list[Batch]:
        """Make all batches of a pool, in the order of training. number: the pool's, from 0."""
        rng = random.Random(f"pool/{self._seed}/{number}")
        mixture = self._mixture if number < self._late_pool else self._late_mixture
        kinds = rng.choices(list(mixture), weights=list(mixture.values()), k=self._pool_texts)
        texts = [generate(kind, "train", self._seed, number * self._pool_texts + i) for i, kind in enumerate(kinds)]
        examples = [encode(self._tokenizer, text) for text in texts]
        packed_texts = self._pool_texts // self._packed_every
        batches = self._padded(examples[packed_texts:]) + self._packed(examples[:packed_texts])
        rng.shuffle(batches)
        return batches

    def _padded(self, examples: list[Example]) -> list[Batch]:
        pad_token, _ = pad_and_eos(self._tokenizer)
        batches, rows = [], []
        for example in sorted(examples, key=lambda example: len(example.tokens)):
            if rows and (len(rows) + 1) * len(example.tokens) > self._batch_tokens:
                batches.append(pad(rows, pad_token))
                rows = []
            rows.append(example)
        return [*batches, pad(rows, pad_token)]

    def _packed(self, examples: list[Example]) -> list[Batch]:
        batch = pack(examples, self._block_tokens)
        rows = max(1, self._batch_tokens // self._block_tokens)
        return [
            Batch(batch.tokens[first : first + rows], batch.counted[first : first + rows])
            for first in range(0, len(batch.tokens), rows)
        ]
