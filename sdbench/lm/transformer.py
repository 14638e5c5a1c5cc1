"""Any `transformers` causal language model as a `LanguageModel`, over the slot pool.

The model's own forward (`sdbench.lm.module_replay`) is given the pool, positions and a ready mask, so nothing of an architecture is
written again here. Layers with a sliding window see a token only when it is nearer than the window: the mask of a query at
position i over a slot with position j is  seen(i, j) and i - j < window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sdbench.device import put, upload
from sdbench.errors import InputError
from sdbench.lm.early_exit import decoder, first_layers
from sdbench.lm.kv_cache import KVCache
from sdbench.lm.model import FAR, LanguageModel
from sdbench.lm.module_replay import Forward
from sdbench.lm.output import StepOutput
from sdbench.lm.programs.base import Execution, Inputs, StepInputs
from sdbench.lm.programs.chain import ChainInputs, chain_masks, laid
from sdbench.lm.programs.tree import TreeInputs, spread
from sdbench.models.architecture import FULL, SLIDING
from sdbench.sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sdbench.lm.state import DecodeState


_ALL = slice(None)
_ROUND = 8  # numbers of a mask
_BANDED = 16  # queries; wider steps, as in prefill, make their mask


class Transformer(LanguageModel):
    """A `transformers` causal LM with its pool.

    vocab: how many logits to give; a family's models may pad their embeddings to different widths. execution: how steps are
    executed (eager by default). missed: whether the last step found no program for its shape. window: how far layers with a sliding
    window see. added: to the score of a slot that is seen, and of one that is not.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        vocab: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        config = model.config.get_text_config()
        super().__init__(name, vocab or config.vocab_size, model.device)
        self.model = model
        self.config = config
        self.execution = execution or self.execution
        kinds = set(getattr(config, "layer_types", None) or [])
        window = getattr(config, "sliding_window", None)
        if not kinds:
            kinds = {SLIDING} if window and getattr(config, "use_sliding_window", True) else {FULL}
        if not kinds <= {FULL, SLIDING}:
            raise InputError(
                f"{name}: {type(model).__name__} has layers of kind {', '.join(sorted(kinds - {FULL, SLIDING}))}; "
                "only full and sliding-window attention can be stepped over slots."
            )
        self._kinds: set[str] = kinds
        self.window: int = window or FAR
        self._layers: int = config.num_hidden_layers  # the config looks its fields up slowly
        seen, unseen = (torch.tensor(x, dtype=model.dtype, device=model.device) for x in (0.0, -torch.inf))
        self.added = seen, unseen
        self.pool = KVCache(0, 0, self.device)
        self._bands: dict[int, list[Tensor]] = {}
        self._cuts: dict[tuple[int, ...], list[Tensor]] = {}  # of bands, each of them looked at, not copied
        self._places: dict[int, Tensor] = {}  # the first so many, looked at too
        self._shown: tuple[Tensor, Tensor] | None = None  # the last mask that was given, and what it adds to the scores
        self.forward = Forward(model, decoder(model, self.layers)[0], self.mask_kinds)

    @property
    def layers(self) -> int:
        return self._layers

    @property
    def mask_kinds(self) -> tuple[str, ...]:
        """The kinds of layers, in the order of their masks."""
        return tuple(kind for kind in (FULL, SLIDING) if kind in self._kinds)

    @property
    def max_positions(self) -> int:
        return getattr(self.config, "max_position_embeddings", FAR)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def bytes(self) -> int:
        # Of a model that is shared out, this process's part.
        own = [getattr(t, "_local_tensor", t) for t in self.model.parameters()]
        held = {t.data_ptr(): t.numel() * t.element_size() for t in own}
        return sum(held.values()) + self.pool.bytes

    def allocate(self, rows: int, slots: int) -> None:
        # A pool that is large enough is used again: steps attend over the part of it that holds tokens.
        if rows != self.pool.rows or slots > self.pool.slots:
            self.pool = KVCache(rows, self.execution.slots(slots), self.device)
        self._allocated(rows, self.pool.slots)

    def _allocated(self, rows: int, slots: int) -> None:
        if slots != self.slots:
            self._bands, self._cuts, self._places = {}, {}, {}
        super()._allocated(rows, slots)

    def bare(self) -> Self:
        other = super().bare()
        other.execution = self.execution.fresh()
        other._shown = None
        other.forward = self.forward.fresh()
        return other

    def _move(self, rows: list[int], source: list[int], stride: int, target: list[int], count: int) -> None:
        self.pool.move(rows, source, stride, target, count, positions=SLIDING in self._kinds)

    def truncated(self, layers: int) -> TruncatedTransformer:
        return TruncatedTransformer(self, layers)

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
        attend_len = self.slots if attend_len is None else attend_len
        pool, width = self.pool, tokens.shape[1]
        reach = self.execution.attend_len(attend_len, self.slots)
        if SLIDING in self._kinds:
            pool.position[rows].scatter_(1, self._where(positions, slots, mask, attend_len), positions)
        if slots is not None and slots is not positions:
            positions = torch.where(positions == FAR, 0, positions)
        masks = self._masks(positions, slots, mask, rows, reach, attend_len - width)
        missed = False
        if self.execution.name != "eager" and rows == _ALL and isinstance(num_logits, int):
            where = self._where(positions, slots, mask, attend_len)
            outputs = self.execution.run(self, StepInputs(tokens, positions, where, masks, num_logits))
            if outputs is not None:
                return StepOutput(outputs[0], outputs[1])
            missed = True
        if slots is None:
            pool.select(rows, None, attend_len - width, reach)
        else:
            pool.select(rows, slots, 0, reach)
        kept = num_logits if isinstance(num_logits, int) else width
        logits = self.forward(tokens, positions, pool, masks, kept, self.slots)[..., : self.vocab]
        if not isinstance(num_logits, int):
            logits = logits.gather(1, num_logits[:, :, None].expand(-1, -1, self.vocab))
        return StepOutput(logits, missed=missed)

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
        held = self._host_numbers(self._ends, ends)
        given = ChainInputs(
            self.execution.sized(state.tokens_on(self.device), self.slots),
            held,
            self._reached(attend_len),
            width,
            num_logits,
            None if uniform is None else state.sampler.sampling,
            None if uniform is None else put(uniform, self.device),
        )
        outputs = self.execution.run(self, given)
        if outputs is not None and SLIDING in self._kinds:
            positions, slots, _ = laid(given.ends, width, width + given.depth - 1, self.slots)
            self.pool.position.scatter_(1, slots, positions)
        return outputs

    def _host_numbers(self, buffer: Int[Tensor, "*shape"], numbers: Sequence[Any]) -> Int[Tensor, "*shape"]:
        """Numbers of the host where the model is; on a CPU, where a step is over when it returns, in a buffer used again."""
        if self.device.type != "cpu":
            return upload(np.array(numbers), self.device)
        buffer.numpy()[:] = numbers
        return buffer

    def _reached(self, attend_len: int) -> Int[Tensor, " E"]:
        """The numbers of the slots that are attended over where `attend_len` of them are needed."""
        if attend_len not in self._places:
            self._places[attend_len] = self._positions[: self.execution.attend_len(attend_len, self.slots)]
        return self._places[attend_len]

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
        places, at = self._reached(base + len(uniform) * roots.shape[1]), self._host_numbers(self._at, [*lengths, base])
        given = TreeInputs(roots, behind, at, places, sampling, put(uniform, self.device))
        outputs = self.execution.run(self, given)
        if outputs is None:
            return None
        if SLIDING in self._kinds:
            _, positions, slots = spread(behind, at, given.depth, self.max_positions - 1)
            self.pool.position.scatter_(1, slots, positions)
        return outputs[1], outputs[0]

    def inputs_for(self, rows: int, width: int, context: int, depth: int = 1) -> Inputs | None:
        """Inputs of `depth` steps behind `context`, the first of `width` new tokens a row, as an existing program wants them.

        None if there is no such program, or no room.
        """
        known = self.execution.known(self)
        alike = [one for one in known if (self.rows, one.first, one.depth) == (rows, width, depth)]
        given = max(alike, key=lambda one: one.shape, default=None)  # the one that keeps most
        if given is None or (attend_len := given.needs(context)) > self.slots:
            return None
        return given.after(context, self._reached(attend_len))

    def _where(
        self,
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None,
        attend_len: int,
    ) -> Int[Tensor, "B T"]:
        """The slots that are written."""
        if slots is not None:
            return slots
        if mask is None:
            return positions  # a chain's slot is its position
        return self._positions[attend_len - positions.shape[1] : attend_len].expand_as(positions)

    def _masks(
        self,
        positions: Int[Tensor, "B T"],
        slots: Int[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"] | None,
        rows: slice,
        attend_len: int,
        first: int,
    ) -> list[Float[Tensor, "B 1 T E"]]:
        """What each query sees, as numbers to be added (0 or -inf), for each kind of layers in turn.

        first: where the queries begin that stand one behind the other (slots None).
        """
        if mask is None and slots is None and positions.shape[1] <= _BANDED:
            # The chain of a few tokens is the same band wherever it stands: cut from one that was made once.
            place = *positions.shape, first, attend_len
            if place in self._cuts:
                return self._cuts[place]
            bands = [band.narrow(3, self.slots - first, attend_len) for band in self._bands_of(positions.shape[1])]
            if self.device.type != "cpu":
                bands = [aligned(part) for part in bands]
            bands = [part.expand(len(positions), -1, -1, -1) for part in bands]
            if self.device.type == "cpu":  # where a cut takes no memory
                self._cuts[place] = bands
            return bands
        padding = None if slots is None or slots is positions else slots == self.slots
        if (
            mask is not None
            and padding is None
            and SLIDING not in self._kinds
            and attend_len == first + positions.shape[1]
        ):
            # The steps of a tree come with one mask.
            if self._shown is None or self._shown[0] is not mask:
                self._shown = mask, torch.where(mask, *self.added)[:, None]
            cut = self._shown[1][..., :attend_len]
            return [cut if self.device.type == "cpu" else aligned(cut)]
        if mask is None:
            masks = chain_masks(
                positions, padding, self._positions[:attend_len], self.mask_kinds, self.window, self.added
            )
        else:
            masks = self._tree_masks(positions, padding, mask, rows, attend_len, first + positions.shape[1])
        return masks if self.device.type == "cpu" else [aligned(mask) for mask in masks]

    def _tree_masks(
        self,
        positions: Int[Tensor, "B T"],
        padding: Bool[Tensor, "B T"] | None,
        mask: Bool[Tensor, "B T N"],
        rows: slice,
        attend_len: int,
        shown: int,
    ) -> list[Float[Tensor, "B 1 T E"]]:
        """Those of a mask that tells of the first `shown` slots. Padding sees something here too."""
        seen = mask[:, :, :shown]
        if shown < attend_len:
            seen = pad(seen, (0, attend_len - shown))
        if padding is not None:
            seen = seen | padding[:, :, None]
        masks = [torch.where(seen, *self.added)[:, None]] if FULL in self._kinds else []
        if SLIDING in self._kinds:
            near = seen & (positions[:, :, None] - self.pool.position[rows, None, :attend_len] < self.window)
            if padding is not None:
                near = near | padding[:, :, None]
            masks.append(torch.where(near, *self.added)[:, None])
        return masks

    def _bands_of(self, width: int) -> list[Float[Tensor, "1 1 T N2"]]:
        """The masks of `width` queries at positions N, N + 1, ... over 2 N places."""
        if width not in self._bands:
            self._bands[width] = self.band(width, self.slots, 2 * self.slots)
        return self._bands[width]

    def band(self, width: int, first: int, attend_len: int) -> list[Float[Tensor, "1 1 T E"]]:
        """The masks of a chain of `width` queries from position `first` on, over `attend_len` places, for each kind of layers."""
        positions = torch.arange(first, first + width, device=self.device)[None]
        places = torch.arange(attend_len, device=self.device)
        return chain_masks(positions, None, places, self.mask_kinds, self.window, self.added)


class TruncatedTransformer(Transformer):
    """The first layers of a model and its head (early exit; LayerSkip, 2404.16710).

    It reads and writes the whole model's pool. What the whole model has read, its first layers have read: so the view
    knows that too, and only its own drafting is to be read again when the whole model verifies.
    """

    def __init__(self, whole: Transformer, layers: int) -> None:
        depth = whole.layers
        if not 0 < layers < depth:
            raise InputError(
                f"{whole.name}: early exit after {layers} layers; it has {depth}, so choose 1 to {depth - 1}."
            )
        self._whole, self._depth = whole, layers
        model = first_layers(whole.model, layers, depth)
        super().__init__(f"{whole.name}[{layers}]", model, whole.vocab, whole.execution.fresh())

    @property
    def layers(self) -> int:
        return self._depth

    @property
    def bytes(self) -> int:
        return 0

    def allocate(self, rows: int, slots: int) -> None:
        self.pool = self._whole.pool
        self._allocated(rows, self.pool.slots)

    def read(self, state, stop, kind, num_logits=1, row=None):
        self._look(state)
        return super().read(state, stop, kind, num_logits, row)

    def draft(self, state, depth, kind, key, num_logits=1):
        self._look(state)
        return super().draft(state, depth, kind, key, num_logits)

    def _look(self, state: DecodeState) -> None:
        """See what the whole model has read since."""
        self.pool = self._whole.pool
        seen = zip(self._kv_len, self._whole.kv_len, state.length.tolist(), strict=True)
        self._kv_len = [max(own, min(whole, length)) for own, whole, length in seen]


def aligned(mask: Float[Tensor, "B 1 T E"]) -> Float[Tensor, "B 1 T E"]:
    """The same mask in memory of its own, the row of each query at a round address.

    Of a lone row that is at no such address a GPU's kernels fail; of others each layer would make a copy that is.
    """
    attend_len = mask.shape[-1]
    held = mask.new_empty(*mask.shape[:-1], -(-attend_len // _ROUND) * _ROUND)
    held[..., :attend_len] = mask
    return held[..., :attend_len]
