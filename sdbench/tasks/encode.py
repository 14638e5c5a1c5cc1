"""Prompts to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.tasks.base import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Some chat templates (Llama 3.x) write today's date into the system turn; a prompt must not change overnight.
FIXED_DATE = "26 Jul 2024"


def encode(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerFast,
    chat: bool = True,
    template_options: Mapping[str, Any] | None = None,
) -> list[int]:
    """The tokens that a model is given.

    A prompt with messages goes through the tokenizer's chat template, up to where the answer begins, if `chat` is set
    and the tokenizer has one; else its plain text is encoded as the tokenizer does by default. template_options: more
    variables for the template, such as Qwen3's `enable_thinking`. There is at most one BOS, and no EOS.
    """
    if chat and prompt.messages and tokenizer.chat_template:
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        options = {"date_string": FIXED_DATE, **(template_options or {})}
        # A chat whose last turn is the assistant's is an answer that was begun.
        begun = turns[-1]["role"] == "assistant"
        try:
            text = str(
                tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun, **options
                )
            )
        except Exception as error:  # a template is a program: it may refuse, or fail, in any way
            raise InputError(
                f"The chat template refuses the prompt {prompt.id} ({error}); chat=false gives it as plain text."
            ) from error
        # The template writes the special tokens that it wants, BOS included.
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        tokens = tokenizer(prompt.text)["input_ids"]
        # A tokenizer may close what it encodes; an answer cannot follow a closed text.
        if tokens and tokens[-1] == tokenizer.eos_token_id and not prompt.text.endswith(str(tokenizer.eos_token)):
            tokens = tokens[:-1]
    bos = tokenizer.bos_token_id
    while bos is not None and tokens[:2] == [bos, bos]:
        tokens = tokens[1:]
    if not tokens:
        raise InputError(f"The prompt {prompt.id} has no tokens; a prompt must have at least one.")
    return tokens
