"""Prompts to tokens: the chat template where there is one, one BOS, no EOS, the same tokens on any day."""

from __future__ import annotations

import pytest
from tokenizers import processors

from sdbench.errors import InputError
from sdbench.tasks import Message, Prompt, encode
from tests.tasks.tokenizers_made import CHAT, byte_level

PROMPT = Prompt("p/1", "how many apples?", (Message("user", "many apples?"),))


def bracketed(template: str | None = None):
    """A tokenizer that puts BOS before and EOS behind whatever it encodes."""
    tokenizer = byte_level(template=template)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    return tokenizer


def test_chat_goes_through_the_template():
    tokenizer = byte_level(template=CHAT)
    assert tokenizer.decode(encode(PROMPT, tokenizer)) == "<bos><turn>user: many apples?<turn>assistant: "


@pytest.mark.parametrize(
    ("prompt", "template", "chat"),
    [(PROMPT, CHAT, False), (PROMPT, None, True), (Prompt("p/2", "how many apples?"), CHAT, True)],
    ids=["not wanted", "no template", "no messages"],
)
def test_plain_text_otherwise(prompt, template, chat):
    tokenizer = byte_level(template=template)
    assert tokenizer.decode(encode(prompt, tokenizer, chat)) == "how many apples?"


def test_one_bos_and_no_eos():
    tokenizer = bracketed(template=CHAT)
    for prompt, chat in ((PROMPT, True), (PROMPT, False), (Prompt("p/3", "<bos>how many"), False)):
        tokens = encode(prompt, tokenizer, chat)
        assert tokens.count(tokenizer.bos_token_id) == 1
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens[-1] != tokenizer.eos_token_id


def test_the_date_in_a_template_stands_still():
    tokenizer = byte_level(template=CHAT)
    text = tokenizer.decode(encode(PROMPT, tokenizer, template_options={"show_date": True}))
    assert text.endswith("26 Jul 2024")


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="p/4 has no tokens"):
        encode(Prompt("p/4", ""), byte_level())
