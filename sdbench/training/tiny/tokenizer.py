"""Train the tokenizer of a family: a byte-level BPE that never merges a digit with another character."""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sdbench.tasks.texts import GENERATORS, generate, wordproblems

PAD, EOS = "<pad>", "<eos>"
# A word, or a run of punctuation, includes the blank before it. Each digit and each other blank is its own piece.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer(texts: Iterable[str], vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`. It can encode every string, and decoding gives the same string.

    Args:
        texts: the training texts.
        vocabulary: number of tokens, including the special tokens and the 256 bytes.
        positions: longest input of the models, in tokens.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


def pad_and_eos(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Return the ids of the padding token and of the end-of-sequence token."""
    vocabulary = tokenizer.get_vocab()
    return vocabulary[PAD], vocabulary[EOS]


def tokenizer_texts(seed: int, count: int) -> Iterator[str]:
    """Yield the first `count` training texts of every kind.

    Word problems have every length that the generator supports. So the tokenizer also fits longer problems.
    """
    for kind in GENERATORS:
        for index in range(count):
            if kind == wordproblems.KIND:
                text = wordproblems.generate("train", seed, index, most_steps=len(wordproblems.ORDINALS))
            else:
                text = generate(kind, "train", seed, index)
            yield text.prompt + text.completion
