"""A model's own forward as the calls of its modules, one after the other, without what stands around them.

`transformers` puts checks, look-ups in the configuration, the making of masks and classes of outputs around the modules of a model.
A step needs none of it, and it takes as long as half a layer of a small model. So the first step of each width is watched: which
modules are called, and on what. Where each argument is an input of the forward, what an earlier call gave, or no tensor, the same
calls can be made on other inputs: the same operations, and so the same numbers, bit for bit. What a forward does between its
modules (a factor on the embedding, a cap on the logits) shows, for then an argument is none of these; such a model keeps its own
forward. So does one whose calls, made once more, do not give the very logits of the forward that was watched. A call on positions
alone, that of a rotary embedding, is looked up (`sdbench.lm.rotary_cache`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdbench.lm.kv_cache import KVCache
from sdbench.lm.rotary_cache import Table, by_position

# Numbers are not among them: they may be lengths, and others at the next forward.
PLAIN = (type(None), bool, str, torch.dtype, torch.device)
WIDEST = 32  # tokens; wider forwards, as of a prompt, hardly come again
POSITIONS = 1  # which of the values they are
KEPT = -1  # in place of a value: the last `keep` tokens of what the call before gave


@dataclass(frozen=True)
class Call:
    """A module's call. plain: arguments that are no tensors, values from here on; args, kwargs: which of the values so far; parts:
    whether the elements of the result are values too."""

    module: nn.Module | Table
    plain: list[Any]
    args: list[int]
    kwargs: dict[str, int]
    parts: bool


def call_again(calls: list[Call], inputs: list[Any], keep: int) -> Float[Tensor, "B keep V"]:
    """Make the calls on these inputs, the first of the values; what each call gives is added to them."""
    values: list[Any] = [*inputs]
    result: Any = None
    for call in calls:
        values += call.plain
        args = [result[:, -keep:]] if call.args == [KEPT] else [values[at] for at in call.args]
        result = call.module(*args, **{name: values[at] for name, at in call.kwargs.items()})
        values.append(result)
        if call.parts:
            values += result
    return result


class Forward:
    """The forward of a causal language model, over whatever cache it is given.

    body: the module that holds the decoder's layers; it, and what holds it in turn, is passed through. kinds: of its masks.
    """

    def __init__(self, model: Any, body: nn.Module, kinds: tuple[str, ...]) -> None:
        self.model, self.body, self.kinds = model, body, kinds
        self._calls: dict[int, list[Call] | None] = {}  # by width; None where the model's own forward stays
        self._tables: dict[tuple[Any, ...], Table] = {}  # by module and plain arguments
        through = [part for part in model.modules() if any(inner is body for inner in part.modules())]
        # What was hung around the whole would be left out.
        free = not any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in through)
        self._parts = _called_by(through) if free else []

    def __call__(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        cache: Any,
        masks: list[Float[Tensor, "B 1 T E"]],
        keep: int,
        reach: int,
    ) -> Float[Tensor, "B keep V"]:
        """Logits behind the last `keep` tokens. masks: one for each kind of layers. reach: all positions are below it."""
        width, inputs = tokens.shape[1], [tokens, positions, cache, *masks]
        calls = self._calls.get(width)
        if calls is not None:
            for table in self._tables.values():
                table.grow(reach)
            return call_again(calls, inputs, keep)
        if self.settled(width) or not isinstance(cache, KVCache):
            return self._own(tokens, positions, cache, masks, keep)
        with _watched(self._parts, inputs, keep) as watch:
            logits = self._own(tokens, positions, cache, masks, keep)
        # Over a pool a forward may be made again: it writes the same into the same slots.
        calls = self._looked_up(watch, reach) if watch.cuts == 1 and watch.result is logits else None
        if calls is not None and not torch.equal(call_again(calls, inputs, keep), logits):
            calls, logits = None, self._own(tokens, positions, cache, masks, keep)
        self._calls[width] = calls
        return logits

    def settled(self, width: int) -> bool:
        """Whether it is known how forwards of so many tokens are made; if not, the next one over a pool is watched."""
        return width in self._calls or width > WIDEST or not self._parts

    def _looked_up(self, watch: _Watch, reach: int) -> list[Call]:
        """The same calls, with tables in place of those on positions alone."""
        calls = [*watch.made]
        for at, table in watch.tables.items():
            table = self._tables.setdefault((calls[at].module, *calls[at].plain), table)
            table.grow(reach)
            calls[at] = replace(calls[at], module=table, args=[POSITIONS], kwargs={})
        return calls

    def fresh(self) -> Forward:
        """The same, nothing watched yet: for another process."""
        return Forward(self.model, self.body, self.kinds)

    def _own(
        self, tokens: Tensor, positions: Tensor, cache: Any, masks: list[Tensor], keep: int
    ) -> Float[Tensor, "B keep V"]:
        return self.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            attention_mask=masks[0] if len(masks) == 1 else dict(zip(self.kinds, masks, strict=True)),
            logits_to_keep=keep,
        ).logits


def _called_by(through: list[nn.Module]) -> list[nn.Module]:
    """The modules that these call: their children, and those in lists."""
    found, queue = [], [child for part in through for child in part.children()]
    for part in queue:
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            queue.extend(part.children())
        elif not any(part is holder for holder in through):
            found.append(part)
    return found


class _UnknownError(Exception):
    """An argument of which nobody knows where it comes from."""


class _Watch:
    """Notes what modules are called on while a forward runs. What they call in turn is theirs.

    result: of the last call; None from an argument on of which it is not known where it comes from. cuts: how many calls were on
    the last tokens of a result. tables: by call, what may stand in its place.
    """

    def __init__(self, inputs: list[Any], keep: int) -> None:
        self.values, self.keep = [*inputs], keep  # held here, so that nothing else takes the identity of one
        self.made: list[Call] = []
        self.tables: dict[int, Table] = {}
        self.result: Any = inputs[0]
        self.cuts = self._inner = 0

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inner += 1
        if self._inner > 1 or self.result is None:
            return
        kept = self._kept(args) and not kwargs
        self.cuts += kept
        plain = [] if kept else [one for one in (*args, *kwargs.values()) if isinstance(one, PLAIN)]
        self.values += plain
        try:
            places = [KEPT] if kept else [self._place(one) for one in args]
            named = {name: self._place(one) for name, one in kwargs.items()}
        except _UnknownError:
            self.result = None
        else:
            self.made.append(Call(module, plain, places, named, parts=False))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self._inner -= 1
        if self._inner or self.result is None:
            return
        self.result, parts = result, isinstance(result, tuple | list)
        self.made[-1] = replace(self.made[-1], parts=parts)
        self.values += [result, *(result if parts else ())]
        if by_position(module, args, kwargs, positions := self.values[POSITIONS], result):
            self.tables[len(self.made) - 1] = Table(module, args, kwargs, positions)

    def _place(self, argument: Any) -> int:
        """Which of the values it is: the very object."""
        for at, value in enumerate(self.values):
            if value is argument:
                return at
        raise _UnknownError

    def _kept(self, args: tuple[Any, ...]) -> bool:
        """Whether a call is on the last `keep` tokens of the result before it."""
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(self.result, Tensor):
            return False
        found, last = args[0], self.result[:, -self.keep :]
        same = found.shape == last.shape and found.stride() == last.stride() and found.dtype == last.dtype
        return same and found is not self.result and found.data_ptr() == last.data_ptr()


@contextmanager
def _watched(parts: list[nn.Module], inputs: list[Any], keep: int) -> Iterator[_Watch]:
    watch = _Watch(inputs, keep)
    hooks = [part.register_forward_pre_hook(watch.enter, with_kwargs=True) for part in parts]
    hooks += [part.register_forward_hook(watch.leave, with_kwargs=True) for part in parts]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()
