"""What engines have in common that decode in this process: their arguments, and weights that sdbench exports once.

An engine has weights of its own. They come from the modules that the other arms run on, in float32 and without loss. The cache
folder keeps them under the SHA-256 of the weights.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from sdbench import validate
from sdbench.errors import InputError
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge
from sdbench.models.cache import writable_cache
from sdbench.peers.base import Peer


class InProcess(Peer):
    """Decode with an engine in this process, greedily, in float32 on the CPU.

    model: the draft. draft_length: K tokens in every round. ngram: without a draft model, the engine looks up n-grams in the text
    so far, and drafts at most K tokens behind a match. The subclass says what the number counts. Without both, it decodes
    autoregressively. Errors: InputError.

    package, module, extra: the engine's package, its name for imports, and the extra of sdbench that installs it.
    longest: the most tokens that it drafts in a round; None: any number. least_ngram: the smallest number that `ngram` takes.
    """

    one_row = True
    one_width = True
    greedy_only = True
    float32_cpu = True
    package: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    longest: ClassVar[int | None] = None
    least_ngram: ClassVar[int] = 1

    def __init__(
        self,
        verifier: LanguageModel,
        model: LanguageModel | None = None,
        draft_length: int | None = None,
        ngram: int | None = None,
    ) -> None:
        super().__init__([verifier, *([model] if model else [])])
        if importlib.util.find_spec(self.module) is None:
            raise InputError(f"{self.package} is not installed; pip install 'sdbench[{self.extra}]' brings it.")
        drafts = model is not None or ngram is not None
        if drafts != (draft_length is not None) or (model is not None and ngram is not None):
            raise InputError(
                "draft_length belongs to model or to ngram: give one of the two with it, or none of the three."
            )
        if draft_length is not None:
            validate.whole("draft_length", draft_length, 1)
            if self.longest is not None and draft_length > self.longest:
                raise InputError(
                    f"draft_length is {draft_length}; {self.title} drafts at most {self.longest} tokens a round."
                )
        if ngram is not None:
            validate.whole("ngram", ngram, self.least_ngram)
        self.draft_length, self.ngram = draft_length, ngram
        self.edge = Edge(model.name if model else "lookup" if ngram else "", verifier.name)

    def max_lookahead(self) -> int:
        return (self.draft_length or 0) + 1


def exported(part: str, key: str, last: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of exported weights in the cache. It is made once, and appears complete or not at all.

    part: the folder of the engine in the cache. key: the name of the weights. last: a file that a complete folder has. write:
    writes a folder that does not exist yet.
    """
    cache = writable_cache(part)
    place = cache / key
    if (place / last).is_file():
        return place
    with tempfile.TemporaryDirectory(dir=cache) as work:
        made = Path(work) / "model"
        write(made)
        if not place.exists():
            os.replace(made, place)
    return place
