"""A language model that can be stepped.

`step` writes T new tokens of each row into given cache slots, and returns logits for the last of them. A mask says which slots
each query sees. A chain has the mask "all slots up to my own position"; a token tree has another mask.

The model also counts the tokens of each row that its cache holds: `kv_len[B]`. `read` reads a row up to a given length in one
step. That step includes every token that the model has not read before: a correction, or its own last drafted token. After a
verdict, `keep` forgets the rejected tokens. In a chain the slot of a token is its position.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdbench.device import upload
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.output import StepOutput
from sdbench.lm.programs.execution import Execution
from sdbench.lm.state import DecodeState
from sdbench.models.generation import TokenRules
from sdbench.models.text_bridge import TextBridge
from sdbench.sampling import Sampling
from sdbench.topology import Topology

Lengths = np.ndarray | list[int]  # [B]
Paths = list[list[int]]  # by row, the kept nodes of a token tree
Exit = Callable[
    [Tensor, slice], None
]  # gets the logits [b, R, V] of an early exit, and the rows of the batch that they belong to
FAR = 1 << 30  # the position of a padding query; no real token reaches it


class LanguageModel(ABC):
    """A model over a vocabulary of V tokens, with N cache slots for each of B rows.

    name: the role of the model (target, qualifier, draft, ...). execution: how its steps are executed.
    """

    name: str
    vocab: int
    device: torch.device
    rules: TokenRules | None = (
        None  # what the model's own generation config asks for; of a target, every arm applies them
    )
    bridge: TextBridge | None = None  # between the target's tokens and those of a draft that is re-encoded

    def __init__(self, name: str, vocab: int, device: torch.device, execution: Execution) -> None:
        self.name, self.vocab, self.device, self.execution = name, vocab, device, execution
        self.proposable = vocab  # the number of these tokens that the model can propose
        self.rows = self.slots = 0
        self._kv_len: list[int] = []
        self._nodes_read = 0  # of the tree that was read last
        self.taps: tuple[int, ...] = ()  # the layers whose hidden states a step keeps
        self._exit: tuple[int, Exit] | None = None

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """The longest sequence, in tokens, that the model can read."""

    @abstractmethod
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
        """Run one forward: write `tokens` into `slots` and compute the requested logits.

        slots: None means that all rows write T adjacent slots that end at `attend_len`. If `slots` is the same tensor object as
        `positions`, no query is padding. Padding queries have position FAR and slot N.
        mask: the slots that each query sees. None means a chain. The mask may describe more slots than `attend_len`.
        num_logits: the number of last queries, or the indices of the queries, whose logits are returned.
        rows: the cache rows of the batch.
        attend_len: the number of first slots that attention reads. None means all slots.
        """

    def chain(
        self,
        state: DecodeState,
        ends: tuple[list[int], list[int]],
        width: int,
        attend_len: int,
        num_logits: int,
        uniform: Float[Tensor, "K M"] | None = None,
    ) -> list[Tensor] | None:
        """Read tokens of every row in one program, and draw more tokens behind them.

        ends: for each row the first token to read (FAR: none) and the end of the tokens to read.
        width: the largest number of tokens that a row reads. attend_len: the number of slots that attention reads.
        uniform: the random numbers behind the K draws (`sdbench.sampling.drawn`). None: nothing is drawn.

        Returns the logits of the last `num_logits` tokens and the most likely tokens there. If tokens were drawn: the logits
        that they were drawn from, the tokens [B, K] and, if `num_logits` > 1, the logits of the kept tokens before the last.
        Returns None if the execution mode has no such program.
        """
        return None

    def tree(
        self,
        roots: Int[Tensor, "B M"],
        behind: Int[Tensor, "B M"],
        lengths: list[int],
        base: int,
        sampling: Sampling,
        uniform: Float[Tensor, "K BM"],
    ) -> tuple[Int[Tensor, "B M K"], Float[Tensor, "B K M V"]] | None:
        """Grow M branches of each row by K tokens in one program.

        roots: the first token of each branch. behind: the number of tokens between the row's `lengths` tokens and the root.
        base: the first slot of the branches in every row; each step writes its M tokens into adjacent slots.
        uniform: the random numbers behind the draws. Each step reads the tokens that the step before it drew.

        Returns the tokens drawn behind each token (also behind those of the last step), and the logits that they were drawn from.
        Returns None if the execution mode has no such program.
        """
        return None

    @abstractmethod
    def _move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        """Copy cache slots, as `move` says."""

    @abstractmethod
    def allocate(self, rows: int, slots: int) -> None:
        """Make a cache of `rows` rows and at least `slots` slots, and forget all tokens."""

    def freeze(self) -> None:
        """Make no programs from now on (`sdbench.lm.programs.execution`)."""
        self.execution.freeze(None)

    def bare(self) -> Self:
        """Return the same model without a cache, for another process. The weights are shared."""
        other = copy.copy(self)
        other.allocate(0, 0)
        return other

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type of the logits."""

    @abstractmethod
    def truncated(self, layers: int) -> LanguageModel:
        """Return a view on the first `layers` layers and the head. It shares weights and cache (early exit)."""

    def exit_once(self, layers: int, receive: Exit) -> None:
        """Give `receive` the logits behind the first `layers` layers in the middle of the next step (early exit).

        The step then goes on, and computes nothing twice. Only an eager step has a middle. R is the step's number of logits.
        """
        self._exit = layers, receive

    def tap(self, layers: Sequence[int]) -> None:
        """Keep the hidden states of these layers, beside keys and values, of every token that is read from now on.

        A head or a proposer that reads hidden states asks for them when it is opened: behind `allocate`, before the first step.
        `allocate` ends all taps. So a tap belongs to the arm that asked for it, and the steps of other arms do nothing for it.
        Taps of one arm add up. Trees, compiled programs and captured graphs carry the states with the layers of the cache.

        layers: numbered as transformers' `hidden_states`: 0 is the embedding, i the output of layer i - 1 (which is the input of
        layer i), and the number of layers is behind the last norm.

        Raises:
            InputError: the model has no such hidden states.
        """
        raise InputError(f"{self.name} has no hidden states that can be read.")

    def hidden(self, layers: Sequence[int], rows: np.ndarray, slots: np.ndarray) -> Float[Tensor, "S W"]:
        """Return the hidden states of tokens that were read since `tap`, side by side for the layers of `layers`.

        W is the number of layers times the width of the model. rows, slots: [S], the row and the slot of each token. On a chain
        the slot is the position. The states of the first kv_len[b] slots of a row are those of its decided tokens; those behind
        them may belong to rejected tokens.
        """
        raise InputError(f"{self.name} has no hidden states that can be read.")

    @property
    @abstractmethod
    def bytes(self) -> int:
        """The size of weights and cache, in bytes."""

    @property
    def kv_len(self) -> tuple[int, ...]:
        """[B] the number of first tokens of each row that the cache holds."""
        return tuple(self._kv_len)

    def reset(self, row: int) -> None:
        """Forget all tokens of a row: a new sequence takes it."""
        self._kv_len[row] = 0

    def forget(self, row: int, first: int) -> None:
        """Forget the tokens of a row from position `first` on."""
        self._kv_len[row] = min(self._kv_len[row], first)

    def keep(self, lengths: Lengths, paths: Paths | None = None) -> None:
        """Keep the first lengths[b] tokens of each row, and forget the tokens behind them.

        paths: by row, the kept nodes of the tree that the model has read last. They are the last ones of the kept tokens, and
        their keys and values move to the slots behind the earlier ones. A model that has not read the last of these nodes keeps
        the first ones.
        """
        if paths is None:
            for row, length in enumerate(lengths):
                self.forget(row, int(length))
            return
        rows, source, target = [], [], []
        for row, (length, path) in enumerate(zip(lengths, paths, strict=True)):
            first = int(length) - len(path)
            held = [node for node in path if node <= self._nodes_read]
            self._kv_len[row] = min(self._kv_len[row], first) + len(held)
            if held != list(range(1, len(held) + 1)):
                rows.append(row)
                source.append([first + node - 1 for node in held])
                target.append(first)
        if rows:
            self._move(rows, source, target)
        self._nodes_read = 0

    def score(self, state: DecodeState, count: int, trees: Sequence[Topology] | None = None) -> StepOutput:
        """Read `count` drafted tokens of each active row, as chains or as trees, which stand behind the decided ones.

        Returns the logits [B, count + 1, V] behind the last decided token and behind each drafted one.
        """
        if trees is not None:
            return self.read_tree(state, trees, (0, count), "verify")
        return self.read(state, [length + count for length in state.length.tolist()], "verify", num_logits=count + 1)

    def read_tree(self, state: DecodeState, trees: Sequence[Topology], nodes: tuple[int, int], kind: str) -> StepOutput:
        """Read nodes of a tree behind the decided tokens of each active row, whose tokens stand in `state`.

        Node i has slot length[b] + i - 1 and position length[b] + depth(i) - 1. It sees the decided tokens and its path.

        trees: of each row. A row with fewer nodes than others has padding behind them. nodes: the first and the last node to
        read. From node 0 on, the decided tokens that the model has not read come first. kind: the name of the step in the trace.

        Returns the logits [B, R, V] of the R nodes. Those of rows that are not active mean nothing.
        """
        mark = state.trace.begin(self.device)
        tokens, positions, slots, mask = self._tree_laid(state, trees, nodes)
        count, end = nodes[1] - nodes[0] + 1, mask.shape[-1]
        placed = (upload(part, self.device) for part in (positions, slots, mask))
        output = self.step(tokens, *placed, num_logits=count, attend_len=end)
        going = state.active.tolist()
        if nodes[0] == 0:
            self._kv_len = [
                length if on else held
                for length, on, held in zip(state.length.tolist(), going, self._kv_len, strict=True)
            ]
        self._nodes_read = nodes[1]
        state.trace.end(mark, self.name, kind, sum(going), tokens.shape[1], end, output.missed)
        state.trace.watch(self.name, output.logits, [row if on else -1 for row, on in enumerate(going)])
        return output

    def _tree_laid(
        self, state: DecodeState, trees: Sequence[Topology], nodes: tuple[int, int]
    ) -> tuple[Int[Tensor, "B T"], np.ndarray, np.ndarray, np.ndarray]:
        """Arrange the tokens of `read_tree`. Returns tokens, positions and slots [B, T], and the mask [B, T, E]."""
        length, active = state.length, state.active
        held = np.minimum(self._kv_len, length - 1) if nodes[0] == 0 else length
        unread = int((length - held)[active].max()) if nodes[0] == 0 else 0
        first = max(nodes[0], 1)
        chosen = np.arange(first, nodes[1] + 1)
        sizes = np.array([tree.size for tree in trees])[:, None]
        decided = length[:, None] - unread + np.arange(unread)
        slots = np.concatenate([decided, length[:, None] + chosen - 1], 1)
        depth = np.ones((len(length), len(chosen)), int)
        for row, tree in enumerate(trees):
            own = tree.depth[first : nodes[1] + 1]
            depth[row, : len(own)] = own
        positions = np.concatenate([decided, length[:, None] + depth - 1], 1)
        positions = positions.clip(max=self.max_positions - 1)  # no token is decided beyond the model's last position
        end = int(length[active].max()) + nodes[1]
        every = np.arange(end)
        mask = np.zeros((len(length), slots.shape[1], end), bool)
        mask[:, :unread] = every <= decided[:, :, None]
        mask[:, unread:] = every < length[:, None, None]
        for row in np.flatnonzero(active).tolist():
            stop = int(length[row])
            own = trees[row].ancestors[first - 1 : nodes[1], : nodes[1]]
            mask[row, unread : unread + len(own), stop : stop + own.shape[1]] = own
        padding = (slots < held[:, None]) | ~active[:, None]
        padding[:, unread:] |= chosen > sizes
        tokens = state.tokens.gather(1, upload(np.where(padding, 0, slots), state.tokens.device)).to(self.device)
        return tokens, np.where(padding, FAR, positions), np.where(padding, self.slots, slots), mask

    def move(self, rows: list[int], source: list[list[int]], target: list[int]) -> None:
        """Make a branch of a tree the end of its row, for each r of `rows`.

        Copies the keys and values of the slots source[r], in this order, to the slots from target[r] on. The cache of the row
        then holds target[r] + len(source[r]) tokens.
        """
        self._move(rows, source, target)
        for row, slots, first in zip(rows, source, target, strict=True):
            self._kv_len[row] = first + len(slots)

    def read(
        self, state: DecodeState, stop: Lengths, kind: str, num_logits: int = 1, row: int | None = None
    ) -> StepOutput:
        """Read the tokens of each active row up to stop[b], and return the logits of the last `num_logits` positions.

        Rows that need fewer tokens than others are padded on the left. The logits of rows that are not active mean nothing.
        kind: the name of the step in the trace. row: read only this row, and return only its logits.
        """
        if row is None and self.execution.name != "eager":
            outputs = self._chained(state, stop, kind, num_logits)
            if outputs is not None:
                return StepOutput(outputs[0], outputs[1])
        mark = state.trace.begin(self.device)
        if len(self._kv_len) == 1:
            # A single row is never padded, so no array operations are needed.
            attend_len = int(stop[0])
            first = min(self._kv_len[0], attend_len - num_logits)
            tokens, positions = (
                state.tokens_on(self.device)[:, first:attend_len],
                self._positions[None, first:attend_len],
            )
            whole = slice(None) if row is None else slice(0, 1)
            output = self.step(tokens, positions, None, num_logits=num_logits, rows=whole, attend_len=attend_len)
            self._kv_len[0] = attend_len
            state.trace.end(mark, self.name, kind, 1, attend_len - first, attend_len, output.missed)
            state.trace.watch(self.name, output.logits, [0])
            return output
        rows = self.execution.rows(state.active) if row is None else slice(row, row + 1)
        active, stop = state.active[rows], np.asarray(stop)[rows]
        tokens, positions, slots, attend_len = self._laid(state, stop, num_logits, rows)
        output = self.step(tokens, positions, slots, num_logits=num_logits, rows=rows, attend_len=attend_len)
        self._kv_len[rows] = np.where(active, stop, self._kv_len[rows]).tolist()
        numbers = np.where(active, np.arange(state.rows)[rows], -1).tolist()
        logits = output.logits
        if row is None and len(stop) < state.rows:
            every = output.logits.new_zeros(state.rows, *output.logits.shape[1:])
            every[rows] = output.logits
            output = StepOutput(every, missed=output.missed)
        state.trace.end(mark, self.name, kind, int(active.sum()), tokens.shape[1], attend_len, output.missed)
        state.trace.watch(self.name, logits, numbers)
        return output

    def draft(
        self, state: DecodeState, depth: int, kind: str, key: Key, num_logits: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K V"], Float[Tensor, "B R V"] | None] | None:
        """Read the decided tokens of each active row and draw `depth` more tokens behind them, in one program.

        key: the choices are named key / 0, key / 1, ...

        Returns the tokens, the logits that they were drawn from, and the logits behind the R = num_logits - 1 tokens before the
        last decided one (None if R is 0). Returns None if there is no such program. The state is not changed.
        """
        if self.execution.name == "eager":
            return None
        uniform = state.sampler.uniforms(key, depth)
        if uniform is None:
            return None
        drawn = self._chained(state, state.length, kind, num_logits, uniform)
        return None if drawn is None else (drawn[1], drawn[0], drawn[2] if num_logits > 1 else None)

    def _chained(
        self,
        state: DecodeState,
        stop: Lengths,
        kind: str,
        num_logits: int,
        uniform: Float[Tensor, "K M"] | None = None,
    ) -> list[Tensor] | None:
        """Do the work of `read` or `draft` in one program, if there is one."""
        mark, more = state.trace.begin(self.device), 0 if uniform is None else len(uniform) - 1
        going = state.active.tolist()
        stops = stop if isinstance(stop, list) else stop.tolist()
        # A row may be shorter than the number of logits that another row needs.
        starts = [
            max(min(held, end - num_logits), 0) if on else FAR
            for held, end, on in zip(self._kv_len, stops, going, strict=True)
        ]
        width = max(end - start for start, end in zip(starts, stops, strict=True))
        attend_len = max(end for end, on in zip(stops, going, strict=True) if on)
        outputs = self.chain(state, (starts, stops), width, attend_len + more, num_logits, uniform)
        if outputs is None:
            return None
        for row, (end, on) in enumerate(zip(stops, going, strict=True)):
            if on:
                self._kv_len[row] = end + more
        state.trace.end(mark, self.name, kind, sum(going), width, attend_len, steps=more + 1)
        state.trace.watch(self.name, outputs[0], [row if on else -1 for row, on in enumerate(going)])
        return outputs

    def _laid(
        self, state: DecodeState, stop: np.ndarray, num_logits: int, rows: slice
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, "B T"] | None, int]:
        """Arrange the tokens that each active row has not read up to stop[b].

        Returns tokens, positions and slots as `step` takes them, and the number of slots that attention reads.
        """
        active = state.active[rows]
        # A row may be shorter than the number of logits that another row needs.
        start = np.maximum(np.minimum(self._kv_len[rows], stop - num_logits), 0)
        if len(stop) == 1:
            first, attend_len, together = int(start[0]), int(stop[0]), True
        else:
            attend_len = int(stop[active].max())
            first = attend_len - int((stop - start)[active].max())
            together = bool((active & (start == first) & (stop == attend_len)).all())
        width = attend_len - first
        if together:
            tokens = state.tokens[rows, first:attend_len].to(self.device)
            return tokens, self._positions[first:attend_len].expand(len(stop), -1), None, attend_len
        grid = stop[:, None] - width + np.arange(width)
        if (active & (stop - start == width)).all():
            where = upload(grid, state.tokens.device)
            places = where.to(self.device)
            return state.tokens[rows].gather(1, where).to(self.device), places, places, attend_len
        padding = (grid < start[:, None]) | ~active[:, None]
        where = upload(np.where(padding, 0, grid), state.tokens.device)
        tokens = state.tokens[rows].gather(1, where).to(self.device)
        positions, slots = (upload(np.where(padding, far, grid), self.device) for far in (FAR, self.slots))
        return tokens, positions, slots, attend_len

    def _allocated(self, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self._kv_len = [0] * rows
        self.taps, self._exit = (), None
        self._positions = torch.arange(slots + 1, device=self.device)
