"""lm-eval's cache of answers belongs to one arm.

lm-eval looks an answer up by the request alone, not by the model: a file that two arms share would give the text of the first as
the second's. So the first arm that uses a file signs it, and any other is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbench.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.model import CacheHook

OWNER = "sdbench: whose answers these are"


def keep_apart(hook: CacheHook, arm: str, identity: str) -> None:
    """Sign an empty cache; refuse one that another arm has signed, or that holds answers and no signature."""
    answers = hook.dbdict
    if answers is None:
        return
    owner = answers.get(OWNER)
    if owner is None and len(answers) == 0:
        answers[OWNER] = identity
    elif owner != identity:
        raise InputError(
            f"The cache {answers.filename} holds answers of another arm, family or model; give '{arm}' a file of its own "
            "(--use_cache PATH)."
        )
