"""Convert prompts to token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sdbench.errors import InputError
from sdbench.tasks.base import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Some chat templates (Llama 3.x) write today's date into the system turn. A fixed date keeps the prompt the same every day.
FIXED_DATE = "26 Jul 2024"


def encode(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerFast,
    chat: bool = True,
    template_options: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the input tokens of a prompt, with at most one BOS at the start and no added EOS at the end.

    If `chat` is set and the tokenizer has a chat template, the template formats a prompt with messages, up to the start
    of the answer. Otherwise the tokenizer encodes the plain text with its defaults. template_options: more variables
    for the template, such as Qwen3's `enable_thinking`. Errors: InputError if the template fails or no token results.
    """
    if chat and prompt.messages and tokenizer.chat_template:
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        options = {"date_string": FIXED_DATE, **(template_options or {})}
        # If the last turn is the assistant's, the model continues this answer.
        begun = turns[-1]["role"] == "assistant"
        try:
            text = str(
                tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun, **options
                )
            )
        except Exception as error:  # a template is a program: it may raise any exception
            raise InputError(
                f"The chat template refuses the prompt {prompt.id} ({error}); chat=false gives it as plain text."
            ) from error
        # The template writes all special tokens, including BOS.
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        tokens = tokenizer(prompt.text)["input_ids"]
        # Some tokenizers append EOS, but an answer cannot follow EOS.
        if tokens and tokens[-1] == tokenizer.eos_token_id and not prompt.text.endswith(str(tokenizer.eos_token)):
            tokens = tokens[:-1]
    bos = tokenizer.bos_token_id
    while bos is not None and tokens[:2] == [bos, bos]:
        tokens = tokens[1:]
    if not tokens:
        raise InputError(f"The prompt {prompt.id} has no tokens; a prompt must have at least one.")
    return tokens


def encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], list[int]]:
    """Return the function from a text within a sequence to its token ids: no special tokens are added."""
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])
