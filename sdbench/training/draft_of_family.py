"""What the recipes share that train a network beside a draft: the draft of the family, logits behind a text, and named draws."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.models.family import check_family
from sdbench.models.identity import model_identity
from sdbench.models.weights import load_weights
from sdbench.training.job import Job


class DraftOfFamily:
    """The draft of the family. identity: of its weights. width: of its hidden state. load: loads it once."""

    def __init__(self, identity: str, width: int, load: Any) -> None:
        self.identity, self.width, self._load = identity, width, load

    @cached_property
    def model(self) -> Any:
        return self._load()


def draft_of(job: Job, what: str) -> DraftOfFamily:
    """Return the draft of the family. what: is trained for it. Errors: InputError if there is none with the target's vocabulary.

    The result of the job depends on it.
    """
    spec = job.specs.get("draft")
    if spec is None:
        raise InputError(f"{what} is trained for a draft, and this family has no role draft: choose another one.")
    family = check_family({role: job.specs[role] for role in ("target", "draft") if role in job.specs})
    member = family.members["draft"]
    if member.vocabulary is not None:
        raise InputError(
            f"models.draft.vocabulary is {member.vocabulary.kind}; {what[0].lower()}{what[1:]} can be trained for a draft with the "
            "target's vocabulary only."
        )
    width, identity = member.config.get_text_config().hidden_size, model_identity(spec)
    job.depends["draft"] = identity
    return DraftOfFamily(identity, width, lambda: load_weights(spec, job.dtype, job.device))


def logits_behind(model: Any, tokens: Int[Tensor, "1 T"], count: int) -> Float[Tensor, "N V"]:
    """Return the logits behind the last `count` tokens, on the CPU."""
    return model(input_ids=tokens, use_cache=False, logits_to_keep=count).logits[0, -count:].float().cpu()


def generator(*words: Any) -> torch.Generator:
    """Return a source of random numbers that some words name."""
    digest = hashlib.sha256(json.dumps(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
