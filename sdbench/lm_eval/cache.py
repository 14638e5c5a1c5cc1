"""Tie each file of lm-eval's cache of answers to one arm.

lm-eval finds a cached answer by the request alone, not by the model. If two arms shared a file, the second arm would get the texts
of the first. So the first arm that uses a file signs it, and other arms cannot use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbench.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.model import CacheHook

OWNER = "sdbench: whose answers these are"


def keep_apart(hook: CacheHook, arm: str, identity: str) -> None:
    """Sign an empty cache.

    arm: the arm's name, for the message. identity: the signature. Errors: InputError if another arm signed the cache, or if it
    holds answers without a signature.
    """
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
