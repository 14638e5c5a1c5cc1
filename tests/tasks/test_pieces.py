"""The texts of single tokens make up the whole text, wherever token borders fall."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from sdbench.tasks.pieces import pieces
from tests.tasks.tokenizers_made import byte_level, sentence_piece

BYTE_LEVEL, SENTENCE_PIECE = byte_level(), sentence_piece()


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCE_PIECE], ids=["byte level", "sentence piece"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab .\n7日本é🙂<", max_size=24))
def test_pieces_make_up_the_text(tokenizer, text):
    tokens = tokenizer.encode(text, add_special_tokens=False)
    made = pieces(tokens, tokenizer)
    assert len(made) == len(tokens)
    assert "".join(made) == tokenizer.backend_tokenizer.decode(tokens, skip_special_tokens=False)


def test_a_character_belongs_to_the_token_that_completes_it():
    ((marks, _),) = BYTE_LEVEL.backend_tokenizer.pre_tokenizer.pre_tokenize_str("🙂")  # one mark per byte
    tokens = BYTE_LEVEL.convert_tokens_to_ids(list(marks))
    assert pieces(tokens, BYTE_LEVEL) == ["", "", "", "🙂"]


def test_special_tokens_show_by_name():
    assert pieces([BYTE_LEVEL.eos_token_id], BYTE_LEVEL) == ["<eos>"]


@given(st.lists(st.integers(0, 255), max_size=20))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_text_do_no_harm(numbers):
    tokens = [number + 3 for number in numbers]
    assert len(pieces(tokens, BYTE_LEVEL)) == len(tokens)
