"""Try a loaded model before anything is measured: do steps over cache slots give the model's own logits?

A config cannot tell whether a model's code, called with slots, positions and masks of our own, computes what the same model
computes by itself. So every loaded model decodes a few tokens in both ways: ragged rows, a rejected token that is overwritten, and
a step of several tokens. A model that fails, or that gives other logits, is refused by name.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.errors import InputError
from sdbench.lm.model import FAR
from sdbench.lm.programs.execution import Execution
from sdbench.lm.recurrent import RecurrentTransformer
from sdbench.lm.transformer import Transformer
from sdbench.models.quiet import quiet, reason_of

_LONG, _SHORT = 7, 4  # tokens of the two rows
_PREFILL = 4  # of them, in the first step of the long row
# The largest deviation that rounding explains, as a share of the spread of the logits. A token in a wrong place moves the logits
# by about their spread.
_TOLERANCE = {torch.float32: 0.01, torch.float64: 0.01, torch.bfloat16: 0.25, torch.float16: 0.1}


@torch.inference_mode()
def check_steps(lm: Transformer) -> None:
    """Refuse a model whose steps over the KV cache fail, or deviate from its own forward, or are not finite.

    Errors: InputError that names the model and, for numbers that are not finite, the module where they begin.
    """
    name = f"{lm.name}: {type(lm.model).__name__}"
    rows, execution = _tokens(lm), lm.execution
    lm.execution = Execution()  # no program is made for these shapes
    try:
        with quiet():
            own = [_own_logits(lm, ids) for ids in rows]
            stepped = _stepped_logits(lm, rows)
            forgets = isinstance(lm, RecurrentTransformer) and _begins_anew(lm, rows[0])
    except Exception as error:  # a model's code may fail in any way
        raise InputError(f"{name} cannot be stepped over cache slots ({reason_of(error)}).") from error
    finally:
        lm.execution = execution
        lm.allocate(0, 0)
    if forgets:
        raise InputError(
            f"{name} begins a step of several tokens with an empty recurrent state, so it cannot be stepped."
        )
    for ids, expected, found in zip(rows, own, stepped, strict=True):
        # Tokens that the model lacks are -inf on purpose.
        known = lm.ids.proposable.to(expected.device)
        if not bool(expected[known].isfinite().all()):
            raise InputError(f"{name} in {_type(lm)} gives logits that are not finite{_where(lm, ids)}")
        deviation = float((expected[known] - found[known]).abs().max() / expected[known].std().clamp(min=1e-6))
        if not deviation <= _TOLERANCE.get(lm.dtype, 0.25):
            raise InputError(
                f"{name} gives other logits over cache slots than by itself (they deviate by {deviation:.2g} of their spread), so "
                "it cannot be stepped."
            )


def first_not_finite(model: Any, ids: Int[Tensor, "1 T"]) -> str | None:
    """Return the name of the first module of a model whose output is not finite when it reads `ids`; None if all are finite."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if (
                not found
                and isinstance(first, Tensor)
                and first.is_floating_point()
                and not bool(first.isfinite().all())
            ):
                found.append(name)

        return look

    hooks = [part.register_forward_hook(watch(name)) for name, part in model.named_modules() if name]
    try:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _where(lm: Transformer, ids: Tensor) -> str:
    module = first_not_finite(lm.model, lm.ids.read(ids)[None])
    hint = "load it in bfloat16 or float32" if lm.dtype == torch.float16 else "fetch its weights again"
    return f", first in the output of {module}: {hint}." if module else f": {hint}."


def _type(lm: Transformer) -> str:
    return str(lm.dtype).removeprefix("torch.")


def _tokens(lm: Transformer) -> list[Tensor]:
    """Two rows of token ids of different lengths, spread over the vocabulary."""
    ids = (torch.arange(_LONG + _SHORT) * 7919 + 5).remainder(min(lm.vocab, lm.ids.width)).to(lm.device)
    return [ids[:_LONG], ids[_LONG:]]


def _own_logits(lm: Transformer, ids: Int[Tensor, " T"]) -> Float[Tensor, " V"]:
    """The logits behind the last token, by the model's own forward, called as `generate` calls it."""
    at = torch.arange(len(ids), device=lm.device)[None]
    output = lm.model(
        input_ids=lm.ids.read(ids)[None], attention_mask=torch.ones_like(at), position_ids=at, use_cache=True
    )
    return lm.ids.widen(output.logits[0, -1]).float()


def _stepped_logits(lm: Transformer, rows: list[Tensor]) -> list[Float[Tensor, " V"]]:
    """The logits behind the last token of each row, by steps over the slots of a batch of two."""
    long, short = rows
    lm.allocate(2, _LONG + 2)
    for row, ids in ((0, long[:_PREFILL]), (1, short[:1])):
        at = torch.arange(len(ids), device=lm.device)[None]
        lm.step(ids[None], at, None, rows=slice(row, row + 1), attend_len=len(ids))
    # A token that is rejected: what it wrote is forgotten, or overwritten below.
    wrong, at = long[:1][None].expand(2, 1), torch.tensor([[_PREFILL], [1]], device=lm.device)
    lm.step(wrong, at, at, attend_len=_PREFILL + 1)
    for row, read in enumerate((_PREFILL, 1)):
        lm.forget(row, read)
    width, places = _LONG - _PREFILL, torch.arange(_LONG, device=lm.device)
    tokens, positions = long.new_zeros(2, width), torch.full((2, width), FAR, device=lm.device)
    slots = torch.full((2, width), lm.slots, device=lm.device)  # of padding
    for row, ids, read in ((0, long, _PREFILL), (1, short, 1)):
        new = len(ids) - read
        tokens[row, -new:] = ids[read:]
        positions[row, -new:] = slots[row, -new:] = places[read : len(ids)]
    logits = lm.step(tokens, positions, slots, attend_len=_LONG).logits[:, -1].float()
    return [logits[0], logits[1]]


def _begins_anew(lm: RecurrentTransformer, ids: Int[Tensor, " T"]) -> bool:
    """Return whether a step of several tokens gives the same logits behind another recurrent state, which the code then ignores."""
    places, found = torch.arange(len(ids), device=lm.device)[None], []
    lm.allocate(1, len(ids))
    lm.step(ids[None, :_PREFILL], places[:, :_PREFILL], None, attend_len=_PREFILL)
    if not any(kind == "recurrent" for kind, _, _ in lm.pool.row_states[0]):
        return False
    for share in (1.0, 0.0):
        states = lm.pool.row_states[0].items()
        lm.pool.row_states[0] = {key: state * share if key[0] == "recurrent" else state for key, state in states}
        behind = lm.step(ids[None, _PREFILL:], places[:, _PREFILL:], None, attend_len=len(ids))
        found.append(behind.logits[0, -1])
        lm.forget(0, _PREFILL)
    return torch.equal(*found)
