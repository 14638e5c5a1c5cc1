"""Small tokenizers of the two kinds that models have: byte-level BPE (Llama 3, Qwen, SmolLM) and SentencePiece-like."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Question: how many apples? Answer: 12 apples.\n\n",
    "naïve façade 日本語 — ok 🙂\n",
    "the end. The answer is 7.\n",
]
SPECIAL = ["<bos>", "<eos>", "<turn>"]
CHAT = (
    "{{ '<bos>' }}{% for message in messages %}{{ '<turn>' + message['role'] + ': ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>assistant: ' }}{% endif %}"
    "{% if date_string is defined and show_date is defined %}{{ date_string }}{% endif %}"
)


def byte_level(words: int = 300, special: list[str] = SPECIAL, template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE: a character may be cut into several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    made.chat_template = template
    return made


def sentence_piece() -> PreTrainedTokenizerFast:
    """Blanks as part of words, bytes for what is unknown, and the blank that opens a text dropped when decoding."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special[:3], show_progress=False)
    tokenizer.train_from_iterator(["▁the▁end.▁The▁answer▁is▁7.", "Question:▁how▁many?"], trainer)
    state = tokenizer.to_str()
    import json

    document = json.loads(state)
    vocab = document["model"]["vocab"]
    for piece in special[3:]:
        vocab[piece] = len(vocab)
    made = Tokenizer.from_str(json.dumps(document))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def letters(tokens: list[str]) -> PreTrainedTokenizerFast:
    """These tokens, in this order: letters, and pairs of letters. A text with other letters loses them."""
    vocab = {token: number for number, token in enumerate(tokens)}
    pairs = [(token[0], token[1]) for token in tokens if len(token) == 2]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab, pairs)))
