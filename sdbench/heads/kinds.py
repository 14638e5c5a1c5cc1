"""The kinds of heads that predict in one pass, by the name in `sdbench_head` of their config.json."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sdbench.errors import InputError

if TYPE_CHECKING:
    from sdbench.heads.parallel import ParallelHead

KINDS = {
    "medusa": "Medusa",
    "parallelspec": "ParallelSpec",
    "specformer": "SpecFormer",
    "block_diffusion": "BlockDiffusion",
    "specdec": "SpecDec",
}


def kind_of(name: str) -> type[ParallelHead]:
    """Return the class of a kind of head. Raises: InputError."""
    if name not in KINDS:
        raise InputError(f"'{name}' is no kind of head; there are: {', '.join(KINDS)}.")
    return getattr(import_module(f"sdbench.heads.{name}"), KINDS[name])
