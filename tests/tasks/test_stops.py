"""Where an output ends does not depend on how its tokens came in blocks, nor on where token borders fall."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sdbench.stopping import NeverStop
from sdbench.tasks import StopChecker
from tests.tasks.tokenizers_made import byte_level, sentence_piece

BYTE_LEVEL, SENTENCE_PIECE = byte_level(), sentence_piece()
TOKENIZERS = [BYTE_LEVEL, SENTENCE_PIECE]
STOPS = ["\n\n", "日本", "Question:", " The answer", "🙂", "<eos>x", "é<turn>\n"]
PLAIN = ["Question:", " The answer", "\ndef", "ex."]  # which end with a character that is always within one token


def pushed(checker: StopChecker, blocks: list[list[int]]) -> tuple[int | None, str | None]:
    """How many tokens are kept in all (None: no stop), and why."""
    state, before = checker.start(), 0
    for block in blocks:
        kept = state.push(block)
        if kept is not None:
            return before + kept, state.reason
        assert state.reason is None
        before += len(block)
    return None, None


def oracle(checker: StopChecker, tokens: list[int]) -> tuple[int | None, str | None]:
    """The definition: the first token that ends the output, or whose arrival puts a stop string into the whole text."""
    for count in range(1, len(tokens) + 1):
        if tokens[count - 1] in checker.eos:
            return count, "eos"
        if checker.completes(tokens[:count]):
            return count, "stop"
    return None, None


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte level", "sentence piece"])
@pytest.mark.parametrize("among", [STOPS, PLAIN], ids=["any stops", "plain stops"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_blocks_do_not_matter(tokenizer, among, data):
    stops = data.draw(st.lists(st.sampled_from(among), min_size=1, max_size=3, unique=True))
    parts = ["\n", "日", "本", " apples", "The", " The answ", "Quest", "ion:", "é", "x", "e", "x.", "de", "f", " ", ":"]
    pieces = st.sampled_from([*STOPS, *PLAIN, *parts, "<turn>", "<eos"])
    text = "".join(data.draw(st.lists(pieces, min_size=1, max_size=30)))
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if data.draw(st.booleans()):
        tokens.insert(data.draw(st.integers(0, len(tokens))), tokenizer.eos_token_id)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=15)))
    blocks = [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]
    checker = StopChecker([tokenizer.eos_token_id], stops, tokenizer)
    assert pushed(checker, blocks) == oracle(checker, tokens)


def test_a_stop_in_the_middle_of_a_block():
    checker = StopChecker([1], ["\n\n"], BYTE_LEVEL)
    before, after = (BYTE_LEVEL(text)["input_ids"] for text in ("12 apples.\n\n", "Question: more"))
    state = checker.start()
    assert state.push(before + after) == len(before)
    assert state.reason == "stop"
    assert checker.text_of(before, "stop") == "12 apples."


def test_a_character_of_several_tokens_completes_with_its_last():
    tokens = BYTE_LEVEL("ok 🙃", add_special_tokens=False)["input_ids"]
    checker = StopChecker([], ["🙃"], BYTE_LEVEL)
    state = checker.start()
    kept = [state.push([token]) for token in tokens]
    assert kept == [None] * (len(tokens) - 1) + [1]
    assert checker.text_of(tokens, "stop") == "ok "


def test_eos_is_kept_and_its_text_is_not():
    tokens = [*BYTE_LEVEL("the end.")["input_ids"], BYTE_LEVEL.eos_token_id]
    checker = StopChecker([BYTE_LEVEL.eos_token_id], ["\n"], BYTE_LEVEL)
    state = checker.start()
    assert state.push([*tokens, 5, 6]) == len(tokens)
    assert state.reason == "eos"
    assert checker.text_of(tokens, "eos") == "the end."
    assert checker.text_of(tokens[:-1], "length") == "the end."


def test_a_stop_string_that_is_a_special_token():
    turn = BYTE_LEVEL.convert_tokens_to_ids("<turn>")
    tokens = [*BYTE_LEVEL("the end.")["input_ids"], turn]
    checker = StopChecker([1], ["<turn>"], BYTE_LEVEL)
    state = checker.start()
    assert state.push([*tokens, 9]) == len(tokens)
    assert state.reason == "stop"
    assert checker.text_of(tokens, "stop") == "the end."


@pytest.mark.parametrize("stop", ["<turn>\n", "end.<turn>", "<turn>Question:"])
def test_a_stop_string_that_holds_a_special_token(stop):
    """It stops at the token and at the token's characters, and not where the characters around it stand alone."""
    as_token = BYTE_LEVEL(f"the end.{stop}", add_special_tokens=False)["input_ids"]
    assert BYTE_LEVEL.convert_tokens_to_ids("<turn>") in as_token
    as_text = [i for sign in f"the end.{stop}" for i in BYTE_LEVEL(sign, add_special_tokens=False)["input_ids"]]
    for tokens in (as_token, as_text):
        checker = StopChecker([1], [stop], BYTE_LEVEL)
        state = checker.start()
        assert state.push([*tokens, 40]) == len(tokens)
        assert state.reason == "stop"
        assert checker.text_of(tokens, "stop") == "the end."
    state = StopChecker([1], [stop], BYTE_LEVEL).start()
    assert state.push(BYTE_LEVEL("end.\nQuestion:", add_special_tokens=False)["input_ids"]) is None


def test_a_stop_string_that_no_text_can_contain_is_noted():
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "go": 2, "##ing": 3}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    checker = StopChecker([], ["go", "Stop"], PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))
    assert len(checker.notes) == 1
    assert "'Stop' will never stop an output" in checker.notes[0]
    for tokenizer in TOKENIZERS:
        assert StopChecker([], ["\n", "Question:", "<eos>", "<eos>\n"], tokenizer).notes == []
    (note,) = StopChecker([], ["\\n"], BYTE_LEVEL).notes
    assert "line break" in note


def test_only_a_short_tail_is_decoded(monkeypatch):
    checker = StopChecker([1], ["Question:"], BYTE_LEVEL)
    lengths = []
    (view,) = checker.views
    decode = view.decode
    monkeypatch.setattr(view, "decode", lambda tokens: lengths.append(len(tokens)) or decode(tokens))
    state = checker.start()
    for _ in range(200):
        assert state.push([40, 41, 42, 43]) is None
    assert max(lengths) <= 2 * (len("Question:") + 1) + 4
    assert len(lengths) < 300


def test_tokens_that_end_no_stop_string_are_not_decoded_twice(monkeypatch):
    checker = StopChecker([1], ["Question:"], BYTE_LEVEL)
    tokens = BYTE_LEVEL("apples and pears, and apples", add_special_tokens=False)["input_ids"]
    state, asked = checker.start(), []
    assert state.push(tokens) is None
    monkeypatch.setattr(checker.views[0], "decode", lambda tokens: asked.append(tokens) or "")
    for token in tokens:
        assert state.push([token]) is None
    assert not [one for one in asked if len(one) == 1]
    assert len(asked) < len(tokens) / 2, "only for a tail to open with a whole character"


def test_a_token_that_is_written_otherwise_behind_a_word():
    """As in WordPiece: alone it shows the marks that say that it goes on."""
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "go": 2, "##ing": 3, "##ne": 4}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    checker = StopChecker([], ["going"], PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"))
    state = checker.start()
    assert [state.push([token]) for token in (2, 4, 2, 3)] == [None, None, None, 1]


def test_never():
    state = NeverStop().start()
    assert state.push([BYTE_LEVEL.eos_token_id] * 9) is None
    assert state.reason is None
