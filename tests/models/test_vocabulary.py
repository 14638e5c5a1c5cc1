"""Drafts of another vocabulary: which tokens match, what is kept of a head, and how text passes between two tokenizers."""

from __future__ import annotations

import pytest
import torch
from tokenizers import pre_tokenizers

from sdbench.errors import InputError
from sdbench.models.spec import ModelSpec
from sdbench.models.text_bridge import TextBridge
from sdbench.models.token_map import MappedIds, SameIds, keep_head_rows
from sdbench.models.vocabulary import Vocabulary, intersection, most_frequent, reduced, token_bytes, vocabulary_of
from tests.conftest import V, random_model
from tests.tasks.tokenizers_made import TEXTS, byte_level, letters, sentence_piece

TEXT = "The answer is 12 apples, naïve façade 日本語 🙂 ok."
TOKENIZERS = {
    "byte level": byte_level(),
    "another byte level": byte_level(330, ["<eos>", "<bos>"]),
    "pieces": sentence_piece(),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_bytes_of_tokens_are_those_of_the_text(name):
    tokenizer = TOKENIZERS[name]
    spelled = token_bytes(tokenizer)
    for text in (*TEXTS, TEXT):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(spelled[number] for number in ids) == text.encode()
    assert not spelled.keys() & set(tokenizer.added_tokens_decoder)


def test_every_byte_has_its_character():
    """The alphabet is the one of the library: 256 characters, and a text of every byte that UTF-8 has comes back."""
    tokenizer = TOKENIZERS["byte level"]
    spelled = token_bytes(tokenizer)
    single = {tokenizer.convert_ids_to_tokens(n) for n, text in spelled.items() if len(text) == 1}
    assert single == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("own", TOKENIZERS)
def test_the_intersection_maps_equal_bytes(own):
    target, other = TOKENIZERS["byte level"], TOKENIZERS[own]
    vocab, width = len(target) + 3, len(other)  # a padded embedding: ids behind the tokenizer are never proposed
    ids = intersection(target, other, vocab, width, "draft")
    ours, theirs = token_bytes(target), token_bytes(other)
    ends = {target.eos_token_id: other.eos_token_id, target.bos_token_id: other.bos_token_id}
    pairs = dict(zip(ids.proposes.tolist(), ids.rows, strict=True))
    assert {n for n in ours if ours[n] in theirs.values()} == pairs.keys() - target.added_tokens_decoder.keys()
    assert all(ours[n] == theirs[m] for n, m in pairs.items() if n in ours)
    assert ends.items() <= pairs.items()
    assert pairs.keys() <= {*ours, *ends, target.convert_tokens_to_ids("<turn>")}
    assert ids.proposes.tolist() == sorted(pairs)
    assert max(pairs) < len(target)
    assert ids.read(torch.arange(vocab)).max() < width
    assert all(ids.reads[n] == m for n, m in pairs.items())


def test_a_lacking_token_is_read_as_the_end_of_its_text():
    ids = intersection(letters(["a", "b", "ab"]), letters(["b", "a", "c"]), 3, 3, "draft")
    assert (ids.proposes.tolist(), ids.rows) == ([0, 1], [1, 0])
    assert ids.reads.tolist() == [1, 0, 0]  # ab is read as b


def test_almost_nothing_in_common_is_refused():
    with pytest.raises(InputError, match=r"have 1 ordinary tokens in common: take models\.draft\.vocabulary=reencode"):
        intersection(letters(["a", "b"]), letters(["b", "c"]), 2, 2, "draft")


def test_the_most_frequent_ids():
    texts = [[5, 5, 5, 2], [2, 3, 7]]
    assert most_frequent(texts, 3, [9], 10, "draft") == [2, 5, 9]
    assert most_frequent(texts, 5, [], 10, "draft") == [0, 2, 3, 5, 7]  # without a count, the smallest id
    assert most_frequent([], 3, [], 10, "draft") == [0, 1, 2]
    with pytest.raises(InputError, match="a size of 10, but the vocabulary has 10 tokens"):
        most_frequent(texts, 10, [], 10, "draft")
    with pytest.raises(InputError, match="not those of a vocabulary of 6 tokens"):
        most_frequent(texts, 3, [], 6, "draft")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # gpt2 shares its head with its embedding
@torch.inference_mode()
def test_a_sliced_head_gives_the_logits_of_its_rows(architecture):
    raw, small = random_model(architecture), random_model(architecture)
    ids = MappedIds(list(range(V)), [3, 8, 50], [8, 3, 50], V)
    keep_head_rows("draft", small, ids.rows)
    assert small.get_output_embeddings().weight.shape == (3, 64)
    assert small.get_input_embeddings().weight.shape == (V, 64)
    text = torch.arange(9)[None]
    found = ids.widen(small(text).logits)
    assert torch.allclose(found[..., [3, 8, 50]], raw(text).logits[..., [8, 3, 50]], atol=1e-5)
    assert int(found.isfinite().sum()) == 9 * 3
    assert ids.proposable.nonzero().flatten().tolist() == [3, 8, 50]


def test_other_widths_are_a_map_too():
    wide, narrow = SameIds(5, 8), SameIds(5, 3)
    assert wide.widen(torch.zeros(8)).tolist() == [0.0] * 5
    assert narrow.widen(torch.zeros(3)).tolist() == [0.0] * 3 + [-torch.inf] * 2
    assert narrow.read(torch.arange(5)).tolist() == [0, 1, 2, 2, 2]
    assert [ids.proposable.sum().item() for ids in (wide, narrow)] == [5, 3]
    assert reduced([0, 2], 5, 3).reads.tolist() == [0, 1, 2, 2, 2]


def test_a_head_that_cannot_be_sliced_is_refused():
    model = random_model("llama")
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    with pytest.raises(InputError, match=r"models\.draft\.vocabulary needs a head that is a plain linear layer"):
        keep_head_rows("draft", model, [1, 2])


@pytest.mark.parametrize("asked", ["reduced", {"size": 1, "text": "x"}, {"size": 5}, {"size": True, "text": "x"}, 5])
def test_other_values_are_refused(asked):
    with pytest.raises(
        InputError, match=r"models\.draft\.vocabulary is .*; it must be null, intersection, reencode, or"
    ):
        vocabulary_of(ModelSpec("draft", "x", vocabulary=asked))


def test_the_values():
    made = [
        vocabulary_of(ModelSpec("draft", "x", vocabulary=one)) for one in (None, "reencode", {"size": 5, "text": "x"})
    ]
    assert made == [None, Vocabulary("reencode"), Vocabulary("reduced", 5, "x")]


@pytest.mark.parametrize("own", TOKENIZERS)
@pytest.mark.parametrize("step", [1, 7])
def test_the_draft_reads_the_text_of_the_target(own, step):
    """Token by token or seven at a time, the draft's tokens spell the decided text, up to a character that is not whole yet."""
    target, other = TOKENIZERS["byte level"], TOKENIZERS[own]
    bridge, spelled = TextBridge(target, other, len(target), len(other)), token_bytes(other)
    ids = target(TEXT, add_special_tokens=False)["input_ids"]
    made, rest = list(bridge.start), b""
    for first in range(0, len(ids), step):
        made, rest = bridge.read(made, ids[first : first + step], rest)
        said = b"".join(spelled[number] for number in made) + rest
        assert said == b"".join(token_bytes(target)[number] for number in ids[: first + step])
    assert made == other(TEXT, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("own", TOKENIZERS)
def test_the_target_gets_the_text_of_the_draft(own):
    target, other = TOKENIZERS["byte level"], TOKENIZERS[own]
    bridge = TextBridge(target, other, len(target), len(other))
    before = target("Question: how many", add_special_tokens=False)["input_ids"]
    drafted = other(" apples? Answer:", add_special_tokens=False)["input_ids"]
    found = bridge.propose(before, b"", drafted)
    assert target.decode([*before, *found]) == "Question: how many apples? Answer:"
    assert [*before, *found] == target("Question: how many apples? Answer:", add_special_tokens=False)["input_ids"]
    assert bridge.propose(before, b"\xe6", drafted) == []  # behind half of a character
    ended = bridge.propose(before, b"", [*drafted, other.eos_token_id, *drafted])
    assert ended == [*found, target.eos_token_id]
    assert bridge.propose(before, b"", [other.eos_token_id]) == [target.eos_token_id]


def test_special_tokens_that_only_one_side_has_write_no_text():
    target, other = TOKENIZERS["byte level"], TOKENIZERS["another byte level"]
    bridge = TextBridge(target, other, len(target), len(other))
    turn, begin = target.convert_tokens_to_ids(["<turn>", "<bos>"])
    made, rest = bridge.read([], [begin, turn, *target("ok", add_special_tokens=False)["input_ids"]])
    assert (other.decode(made), rest) == ("<bos>ok", b"")
