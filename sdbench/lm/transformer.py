"""Any `transformers` causal language model as a `LanguageModel` over a slotted KV cache.

The model's own forward runs, with the cache, positions and masks that a step prepares. So no architecture is written again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.device import put, upload
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.early_exit import first_layers, hook_exit
from sdbench.lm.forward import check_taps, forward
from sdbench.lm.kv_cache import KVCache, hidden_layer
from sdbench.lm.masks import MaskForm, additive_masks, aligned, chain_masks
from sdbench.lm.model import FAR, LanguageModel, Lengths
from sdbench.lm.output import StepOutput
from sdbench.lm.prepacked import prepacked_bytes
from sdbench.lm.programs.chain import ChainInputs, laid
from sdbench.lm.programs.execution import Execution
from sdbench.lm.programs.traced import Inputs, StepInputs
from sdbench.lm.programs.tree import TreeInputs, spread
from sdbench.lm.state import DecodeState
from sdbench.models.architecture import longest_sequence
from sdbench.models.skeleton import CHUNKED, KINDS, attention_kinds, tried, unmasked_kinds
from sdbench.models.token_map import SameIds
from sdbench.sampling import Sampling
from sdbench.topology import Topology

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ALL = slice(None)


class Rest(Protocol):
    """What reads drafted tokens in place of the whole model, where it can (`sdbench.lm.exit_stages`)."""

    def scored(self, state: DecodeState, count: int) -> StepOutput | None:
        """Return what `LanguageModel.score` of the whole model returns for chains. None: the whole model must read them."""
        ...


class Transformer(LanguageModel):
    """A `transformers` causal language model with its KV cache.

    vocab: the number of token ids of the target, and so of logits to return; by default the model's own.
    ids: translates between the target's ids and the model's own; by default they are the same.
    execution: how steps are executed; eager by default.
    layers: the number of layers.
    cached: the numbers of the cache's layers that a step writes; None until the first eager step. Layers that share keys and
    values have one cache layer between them, and some models have several for each layer. Tapped hidden states have layers too.
    pool: the KV cache. mask_form: the masks that the model takes.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        vocab: int | None = None,
        execution: Execution | None = None,
        ids: SameIds | None = None,
    ) -> None:
        config = model.config.get_text_config()
        ids = ids or SameIds(vocab or config.vocab_size, config.vocab_size)
        super().__init__(name, ids.vocab, model.device, execution or Execution())
        self.model: Any = model
        self.config = config
        self.layers: int = config.num_hidden_layers
        self.ids, self.proposable = ids.to(model.device), int(ids.proposable.sum())
        self._own_layers: tuple[int, ...] | None = None  # of the cache, without those of taps
        self._rest: Rest | None = None
        self.mask_form, self._unmasked = _mask_form(name, model), unmasked_kinds(config)
        self.pool = self._new_pool(0, 0)
        _pack_input(model.get_output_embeddings())

    @property
    def cached(self) -> tuple[int, ...] | None:
        own = self._own_layers
        return own if own is None or not self.taps else (*sorted(map(hidden_layer, self.taps)), *own)

    @property
    def max_positions(self) -> int:
        return longest_sequence(self.config)[0] or FAR

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def bytes(self) -> int:
        own = [part for weight in self.model.parameters() for part in _stored(weight)]
        held = {part.data_ptr(): part.numel() * part.element_size() for part in own}
        return sum(held.values()) + prepacked_bytes(self.model) + self.pool.bytes

    @property
    def weight_bytes(self) -> int | None:
        """The bytes of the weights that a step reads: all but tables of embeddings. None for a mixture of experts."""
        if any("experts" in name for name, _ in self.model.named_modules()):
            return None  # each token chooses some of them
        head = self.model.get_output_embeddings()
        tables = [part.weight for part in self.model.modules() if isinstance(part, torch.nn.Embedding)]
        left = {id(weight) for weight in tables if head is None or weight is not head.weight}
        parts = (part for weight in self.model.parameters() if id(weight) not in left for part in _stored(weight))
        return sum({part.data_ptr(): part.numel() * part.element_size() for part in parts}.values())

    @property
    def token_bytes(self) -> int:
        """The bytes of keys and values of one token in the layers that a step reads."""
        values = tried(self.config).cache_values or 0
        return values * self.dtype.itemsize * self.layers // self.config.num_hidden_layers

    def allocate(self, rows: int, slots: int) -> None:
        # A cache that is large enough is used again: a step reads only the part of it that holds tokens.
        if rows != self.pool.rows or slots > self.pool.slots:
            self.pool = self._new_pool(rows, self.execution.slots(slots))
        self._allocated(rows, self.pool.slots)
        self._rest = None

    def _new_pool(self, rows: int, slots: int) -> KVCache:
        return KVCache(rows, slots, self.device)

    def freeze(self) -> None:
        self.execution.freeze(self)

    def bare(self) -> Self:
        other = super().bare()
        other.execution = self.execution.fresh()
        return other

    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        self.pool.move(rows, source, target, self.cached or (), positions=self.mask_form.local)

    def tap(self, layers: Sequence[int]) -> None:
        wanted = tuple(sorted({*self.taps, *layers}))
        if wanted != self.taps and any(self._kv_len):
            raise InputError(f"{self.name} has read tokens already: ask for hidden states before its first step.")
        check_taps(self.name, self.model, wanted)
        self.taps = wanted

    def hidden(self, layers: Sequence[int], rows: np.ndarray, slots: np.ndarray) -> Float[Tensor, "S W"]:
        lacking = [layer for layer in layers if layer not in self.taps]
        if lacking:
            raise InputError(f"{self.name} keeps no hidden states of the layers {lacking}: ask for them with tap.")
        where = upload(rows, self.device), upload(slots, self.device)
        return torch.cat([self.pool.states(hidden_layer(layer), *where) for layer in layers], -1)

    def truncated(self, layers: int) -> TruncatedTransformer:
        return TruncatedTransformer(self, layers)

    def verify_behind(self, rest: Rest) -> None:
        """Let `rest` read the tokens of a chain that it can read behind an early exit (AdaDecode), until the next `allocate`."""
        self._rest = rest

    def score(self, state: DecodeState, count: int, trees: Sequence[Topology] | None = None) -> StepOutput:
        output = None if self._rest is None or trees is not None else self._rest.scored(state, count)
        return super().score(state, count, trees) if output is None else output

    def step(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None = None,
        num_logits: int | Int[Tensor, "B R"] = 1,
        rows: slice = slice(None),
        attend_len: int | None = None,
    ) -> StepOutput:
        stop, width = self.slots if attend_len is None else attend_len, tokens.shape[1]
        read = self.execution.attend_len(stop, self.slots)
        if self.mask_form.local:
            self.pool.position[rows].scatter_(1, self._written(positions, slots, mask, stop), positions)
        if slots is not None and slots is not positions:
            positions = torch.where(positions == FAR, 0, positions)
        masks = self._masks(positions, slots, mask, rows, read, stop)
        missed = False
        if self.execution.name != "eager" and rows == _ALL and isinstance(num_logits, int):
            written = self._written(positions, slots, mask, stop)
            outputs = self.execution.run(self, StepInputs(tokens, positions, written, masks, num_logits))
            if outputs is not None:
                return StepOutput(outputs[0], outputs[1])
            missed = True
        self.pool.select(rows, slots, stop - width, read)
        count = num_logits if isinstance(num_logits, int) else width
        with self._exiting(count, rows):
            kinds, ids = self.mask_form.kinds, self.ids
            logits = forward(
                self.model, tokens, positions, self.pool, kinds, masks, count, ids, self.taps, self._unmasked
            )
        if self._own_layers is None:
            self._own_layers = tuple(sorted({*self.pool.touched} - {*map(hidden_layer, self.taps)}))
        if not isinstance(num_logits, int):
            logits = logits.gather(1, num_logits[:, :, None].expand(-1, -1, self.vocab))
        return StepOutput(logits, missed=missed)

    @contextmanager
    def _exiting(self, count: int, rows: slice) -> Iterator[None]:
        """Give the logits of an early exit to whoever asked for them, in the middle of a forward."""
        asked, self._exit = self._exit, None
        if asked is None:
            yield
            return
        layers, receive = asked
        hook = hook_exit(self.model, layers, self.layers, count, lambda logits: receive(self.ids.widen(logits), rows))
        try:
            yield
        finally:
            hook.remove()

    def chain(
        self,
        state: DecodeState,
        ends: tuple[list[int], list[int]],
        width: int,
        attend_len: int,
        num_logits: int,
        uniform: Float[Tensor, "K M"] | None = None,
    ) -> list[Tensor] | None:
        if self.execution.name == "eager":
            return None
        given = ChainInputs(
            self.execution.sized(state.tokens_on(self.device), self.slots),
            upload(np.array(ends), self.device),
            self._slots_read(attend_len),
            width,
            num_logits,
            None if uniform is None else state.sampler.sampling,
            None if uniform is None else put(uniform, self.device),
        )
        outputs = self.execution.run(self, given)
        if outputs is not None and self.mask_form.local:
            positions, slots, _ = laid(given.ends, width, width + given.depth - 1, self.slots)
            self.pool.position.scatter_(1, slots, positions)
        return outputs

    def tree(
        self,
        roots: Int[Tensor, "B M"],
        behind: Int[Tensor, "B M"],
        lengths: list[int],
        base: int,
        sampling: Sampling,
        uniform: Float[Tensor, "K BM"],
    ) -> tuple[Int[Tensor, "B M K"], Float[Tensor, "B K M V"]] | None:
        if self.execution.name == "eager":
            return None
        at = upload(np.array([*lengths, base]), self.device)
        read = self._slots_read(base + len(uniform) * roots.shape[1])
        given = TreeInputs(roots, behind, at, read, sampling, put(uniform, self.device))
        outputs = self.execution.run(self, given)
        if outputs is None:
            return None
        if self.mask_form.local:
            _, positions, slots = spread(behind, at, given.depth, self.max_positions - 1)
            self.pool.position.scatter_(1, slots, positions)
        return outputs[1], outputs[0]

    def inputs_for(self, rows: int, width: int, context: int, depth: int = 1) -> Inputs | None:
        """Return inputs for an existing program of `depth` steps behind `context` tokens, the first step of `width` tokens per row.

        Returns None if there is no such program, or if the cache has too few slots. Among programs that differ in their taps, the
        one with the fewest is taken, and the model taps what that program taps, until the next `allocate`.
        """
        for taps in self.execution.tap_sets:
            self.taps = taps
            known = self.execution.known(self)
            alike = [one for one in known if (self.rows, one.first, one.depth) == (rows, width, depth)]
            given = max(alike, key=lambda one: one.shape, default=None)  # the one that returns most logits
            if given is not None and (needed := given.needs(context)) <= self.slots:
                return given.after(context, self._slots_read(needed))
        return None

    def _slots_read(self, needed: int) -> Int[Tensor, " E"]:
        """The numbers of the slots that attention reads in a step that needs the first `needed` slots."""
        return self._positions[: self.execution.attend_len(needed, self.slots)]

    def _written(
        self,
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None,
        stop: int,
    ) -> Int[Tensor, "B T"]:
        """The slots that a step writes."""
        if slots is not None:
            return slots
        if mask is None:
            return positions  # in a chain, the slot of a token is its position
        return self._positions[stop - positions.shape[1] : stop].expand_as(positions)

    def _masks(
        self,
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None,
        rows: slice,
        read: int,
        stop: int,
    ) -> list[Float[Tensor, "B 1 T E"]]:
        """Make the masks of a step that reads `read` slots. The boolean mask tells of the first `stop` of them."""
        form, padding = self.mask_form, None if slots is None or slots is positions else slots == self.slots
        if mask is None:
            masks = chain_masks(form, positions, self._positions[:read], padding)
        else:
            visible = pad(mask[:, :, :stop], (0, read - stop))
            distance = positions[:, :, None] - self.pool.position[rows, None, :read] if form.local else None
            masks = additive_masks(form, visible, positions, distance, padding)
        return masks if self.device.type == "cpu" else [aligned(mask) for mask in masks]


class TruncatedTransformer(Transformer):
    """The first layers of a model and its head (early exit; LayerSkip, 2404.16710).

    It reads and writes the cache of the whole model. The first layers have read every token that the whole model has read, so the
    view need not read it again. The whole model reads the tokens that the view drafted when it verifies them.
    """

    def __init__(self, whole: Transformer, layers: int) -> None:
        depth = whole.layers
        if not 0 < layers < depth:
            raise InputError(
                f"{whole.name}: early exit after {layers} layers; it has {depth}, so choose 1 to {depth - 1}."
            )
        model = first_layers(whole.model, layers, depth)
        super().__init__(f"{whole.name}[{layers}]", model, execution=whole.execution.fresh(), ids=whole.ids)
        self._whole, self.layers = whole, layers
        self._verifies = False

    @property
    def bytes(self) -> int:
        return 0

    def score(self, state: DecodeState, count: int, trees: Sequence[Topology] | None = None) -> StepOutput:
        self._verifies = True
        return super().score(state, count, trees)

    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        """Move the slots of a tree that this view has verified. If it drafted the tree, its verifier has moved them."""
        if self._verifies:
            super()._move(rows, source, target)

    def allocate(self, rows: int, slots: int) -> None:
        self.pool = self._whole.pool
        self._allocated(rows, self.pool.slots)

    def read(
        self, state: DecodeState, stop: Lengths, kind: str, num_logits: int = 1, row: int | None = None
    ) -> StepOutput:
        self._follow(state)
        return super().read(state, stop, kind, num_logits, row)

    def draft(
        self, state: DecodeState, depth: int, kind: str, key: Key, num_logits: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B R V"] | None] | None:
        self._follow(state)
        return super().draft(state, depth, kind, key, num_logits)

    def _follow(self, state: DecodeState) -> None:
        """Take over the decided tokens that the whole model has read since the last step."""
        self._adopt(state)
        if self._own_layers is None and self._whole._own_layers == tuple(range(self._whole.layers)):
            self._own_layers = tuple(range(self.layers))  # one cache layer for each layer of the model

    def _adopt(self, state: DecodeState) -> None:
        self.pool = self._whole.pool
        seen = zip(self._kv_len, self._whole.kv_len, state.length.tolist(), strict=True)
        self._kv_len = [max(own, min(whole, length)) for own, whole, length in seen]


def _pack_input(head: Any) -> None:
    """Give a head inputs with plain strides.

    The last of several tokens keeps the stride of all of them. For such an input torch takes a batched product, and copies the
    whole weight for it.
    """
    if head is not None and _packed not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_packed)


def _packed(head: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return given[0].contiguous().view(-1).view(given[0].shape), *given[1:]  # a view with the strides of its shape


def _stored(weight: Any) -> list[Tensor]:
    """The tensors that hold a weight: of a quantised one its parts, of a tensor-parallel one the part of this process."""
    weight = getattr(weight, "_local_tensor", weight)
    flatten = getattr(weight, "__tensor_flatten__", None)
    return [weight] if flatten is None else [part for name in flatten()[0] for part in _stored(getattr(weight, name))]


def _mask_form(name: str, model: PreTrainedModel) -> MaskForm:
    """Read from a model's config which masks it takes.

    Raises:
        InputError: the model has layers of another kind.
    """
    config = model.config.get_text_config()
    kinds = attention_kinds(config)
    if {*kinds} - {*KINDS}:
        raise InputError(
            f"{name}: {type(model).__name__} has layers of kind {', '.join(sorted({*kinds} - {*KINDS}))}; "
            "only full, indexed, sliding-window and chunked attention can be stepped over slots."
        )
    window, chunk = getattr(config, "sliding_window", None), config.attention_chunk_size if CHUNKED in kinds else FAR
    seen, unseen = (torch.tensor(x, dtype=model.dtype, device=model.device) for x in (0.0, -torch.inf))
    return MaskForm(kinds, window or FAR, seen, unseen, chunk=chunk)
