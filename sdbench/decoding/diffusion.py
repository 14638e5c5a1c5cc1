"""Greedy decoding of a masked diffusion model: step by step (LLaDA, 2502.09992), and by self-speculation (2510.04147).

The answer is a canvas of `max_new_tokens` masked positions behind the prompt, in blocks of `block` positions. A step reads the
whole canvas and unmasks one position of the first block that has a masked one. It takes the position whose most likely token
has the largest probability; the lowest position wins a tie. The mask token itself never stands in an answer. This is the greedy
decoding of the model. So `StepwiseDiffusion` is the baseline, as `ar` is for other models.

`SelfSpeculativeDiffusion` reads several canvases in one forward. The last scores rank the masked positions. The first of them is
decided, and the next ones are the draft. Node 0 is the canvas with the decided position; other nodes add drafted ones. The walk
begins at node 0. It follows what each canvas itself would unmask next, as long as the draft has that canvas. So it unmasks what
stepwise decoding unmasks, in the same order. 2510.04147 calls this hierarchical verification. Its abstract leaves the shape of the
tree open. Here a node adds the first d - 1 drafted positions, and one of the next `width`. Two paths can lead to one canvas.

In the record, `target_calls` counts the forwards behind the first one. That one is the prefill, and decides one position.
`accepted` counts the drafted positions that the walk kept. `emitted` counts the positions that the round decided and that belong
to the answer. A position behind the stop belongs to none, so even stepwise decoding may have less than one token for each call.
`nodes` is the number of canvases of the sequence in the forward, without node 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench import validate
from sdbench.decoding.base import Finished, Request, Row, slots_needed
from sdbench.errors import InputError
from sdbench.keyed_random import Choices, stream
from sdbench.lm.diffusion import DiffusionModel
from sdbench.lm.model import LanguageModel
from sdbench.lm.trace import Edge, Trace
from sdbench.sampling import Sampling
from sdbench.stopping import Stop
from sdbench.topology import Topology, VerifiedTree


class Choice(NamedTuple):
    """Name a position of the canvas, from 0, and the token that unmasks it."""

    position: int
    token: int


@dataclass(frozen=True)
class CanvasDraft:
    """Hold the canvases that a round reads.

    choices: the drafted ones, the most confident first. nodes: for each canvas, the numbers of the choices that it adds to node 0,
    which adds none. parent: of each node from 1 on.
    """

    choices: list[Choice]
    nodes: list[frozenset[int]]
    parent: list[int]

    def follow(self, node: int, ranking: list[Choice]) -> tuple[Choice, int | None]:
        """Return what a canvas unmasks next, and the node that has it; None if the draft has another position, token or order.

        ranking: the choices of the canvas, the best first.
        """
        choice = ranking[0]
        if choice not in self.choices:
            return choice, None
        reached = self.nodes[node] | {self.choices.index(choice)}
        return choice, self.nodes.index(reached) if reached in self.nodes else None


@dataclass
class _Round:
    """Hold one verification until the answer's end is known. positions: those that it decided."""

    proposed: int
    accepted: int
    positions: list[int]
    tree: VerifiedTree | None


@dataclass
class _Canvas(Row):
    """Hold a sequence being decoded.

    tokens: of the canvas, with masks. ranking: the choices of the last canvas that was followed; the first one is decided.
    """

    tokens: list[int] = field(default_factory=list)
    ranking: list[Choice] = field(default_factory=list)
    rounds: list[_Round] = field(default_factory=list)


class StepwiseDiffusion:
    """Decode step by step: one forward, one position.

    verifier: the model. block: positions of a block. It defines the decoding, so all arms of a comparison need the same.
    """

    lossless = True
    draft_length = 0
    width = 1

    def __init__(self, verifier: DiffusionModel, block: int = 8) -> None:
        self.target = verifier
        self.block = validate.whole("block", block, 1)
        self.edge = Edge("", verifier.name)

    @property
    def models(self) -> list[LanguageModel]:
        return [self.target]

    def close(self) -> None:
        return None

    def max_lookahead(self) -> int:
        return 0

    def calibrate(self, trace: Trace) -> bool:
        return False

    def begin_pass(self, finished: Iterable[tuple[Sequence[int], Sequence[int]]] = ()) -> None:
        return None

    def draft(self, ranking: list[Choice], masked: int) -> CanvasDraft:
        """Draft behind the decided choice. ranking: of the other masked positions. masked: their number on the whole canvas."""
        nodes, parent, behind = [frozenset[int]()], [], [0]
        for depth in range(1, min(self.draft_length, masked - 1) + 1):  # a canvas without a mask needs no reading
            for place in range(depth - 1, min(depth - 1 + self.width, len(ranking))):
                parent.append(behind[depth - 1])
                nodes.append(frozenset({*range(depth - 1), place}))
                if place == depth - 1:
                    behind.append(len(nodes) - 1)
        return CanvasDraft(ranking[: self.draft_length + self.width - 1], nodes, parent)

    def generate(
        self,
        requests: Iterable[Request],
        sampling: Sampling,
        stop: Stop,
        max_new_tokens: int,
        seed: int = 0,
        rows: int = 1,
        trace: Trace | None = None,
        choices: Choices | None = None,
    ) -> Iterator[Finished]:
        """Decode `rows` sequences at a time and refill finished rows. Yield the sequences as they finish. Errors: InputError."""
        check_greedy(sampling)
        if not isinstance(self.target, DiffusionModel):
            raise InputError(
                f"{self.target.name} is autoregressive, but this arm decodes a masked diffusion model: take ar or sd."
            )
        requests = list(requests)
        needed = slots_needed(self, max((len(request.tokens) for request in requests), default=0), max_new_tokens)
        if needed > self.target.max_positions:
            raise InputError(
                f"{self.target.name} reads at most {self.target.max_positions} tokens, but the longest prompt and {max_new_tokens} "
                f"new tokens need {needed}: shorten the prompt or max_new_tokens."
            )
        with torch.inference_mode():
            yield from _Batch(self, rows, stop, max_new_tokens, seed, trace or Trace()).run(requests)


class SelfSpeculativeDiffusion(StepwiseDiffusion):
    """Decode by self-speculation (SSD, 2510.04147), exactly as stepwise.

    draft_length: drafted positions on a path. width: 1 drafts a chain. With 2, each canvas of the chain has a sibling, which skips
    one position. So two neighbours of the ranking may change places.
    """

    def __init__(self, verifier: DiffusionModel, block: int = 8, draft_length: int = 4, width: int = 1) -> None:
        super().__init__(verifier, block)
        self.draft_length = validate.whole("draft_length", draft_length, 1)
        self.width = validate.whole("width", width, 1)
        self.edge = Edge("self", verifier.name)


def check_greedy(sampling: Sampling) -> None:
    """Refuse to sample. Errors: InputError."""
    if not sampling.greedy:
        raise InputError(
            f"sampling.temperature is {sampling.temperature}, but a masked diffusion model is decoded greedily here: set it to 0."
        )


def confidence(logits: Float[Tensor, "*B V"], mask_token: int) -> tuple[Int[Tensor, "*B"], Float[Tensor, "*B"]]:
    """Return the most likely token, and the odds against it, (1 - p) / p, in float64.

    The odds order positions as p does, but a probability close to 1 does not round to 1.
    """
    wide = logits.double()
    wide[..., mask_token] = -torch.inf
    top, best = wide.max(-1, keepdim=True)
    return best[..., 0], (wide - top).scatter(-1, best, -torch.inf).exp().sum(-1)


class _Batch:
    """Run one call of `generate`."""

    def __init__(
        self, method: StepwiseDiffusion, rows: int, stop: Stop, max_new_tokens: int, seed: int, trace: Trace
    ) -> None:
        self.method, self.target, self.trace = method, method.target, trace
        self.stop, self.size, self.seed = stop, max_new_tokens, seed
        self.rows: list[_Canvas | None] = [None] * rows
        self.prefill_seconds = 0.0
        trace.sequence, trace.sequence_round, trace.round = [-1] * rows, [0] * rows, -1

    def run(self, requests: list[Request]) -> Iterator[Finished]:
        """Decode all requests, in their order."""
        queue, number = list(enumerate(requests))[::-1], 0
        while queue or any(self.rows):
            for index in range(len(self.rows)):
                while self.rows[index] is None and queue:
                    yield from self._admit(index, *queue.pop())
            if any(self.rows):
                self.trace.round = number
                number += 1
                yield from self._round()

    def _admit(self, index: int, number: int, request: Request) -> Iterator[Finished]:
        """Read a canvas of masks, and decide its first position."""
        begun = perf_counter()
        finished = Finished(request, [])
        row = _Canvas(finished, self.stop.start(), stream(self.seed, request.name, request.repeat))
        row.tokens = [self.target.mask_token] * self.size
        self.rows[index], self.trace.sequence[index], self.trace.round = row, number, -1
        (row.ranking,) = self._rankings([(index, row.tokens)], "prefill")
        ended = self._decide(row, row.ranking[0])
        row.decoding_since = perf_counter()
        finished.first_token_seconds = finished.prefill_seconds = row.decoding_since - begun
        self.prefill_seconds += finished.prefill_seconds
        row.prefill_before = self.prefill_seconds
        if ended:
            yield self._release(index, row)

    def _round(self) -> Iterator[Finished]:
        """Draft, read the canvases of all rows in one forward, and follow them."""
        going = [(index, row) for index, row in enumerate(self.rows) if row is not None]
        drafts = [self.method.draft(row.ranking[1:], row.tokens.count(self.target.mask_token)) for _, row in going]
        asked = []
        for (index, row), draft in zip(going, drafts, strict=True):
            for node in draft.nodes:
                tokens = list(row.tokens)
                for position, token in (draft.choices[place] for place in node):
                    tokens[position] = token
                asked.append((index, tokens))
        found = iter(self._rankings(asked, "verify"))
        for (index, row), draft in zip(going, drafts, strict=True):
            if self._follow(row, draft, [next(found) for _ in draft.nodes]):
                row.finished.decode_seconds = (
                    perf_counter() - row.decoding_since - (self.prefill_seconds - row.prefill_before)
                )
                yield self._release(index, row)

    def _follow(self, row: _Canvas, draft: CanvasDraft, rankings: list[list[Choice]]) -> bool:
        """Unmask positions as far as the draft goes, and one more. Return whether the answer ends. rankings: of each node."""
        end, reached, positions, ended = 0, 0, list[int](), False
        while reached is not None and not ended:
            end, row.ranking = reached, rankings[reached]
            choice, reached = draft.follow(end, row.ranking)
            ended = self._decide(row, choice)
            positions.append(choice.position)
        end = end if reached is None else reached
        topology = Topology.of(draft.parent)
        tokens = [draft.choices[max(added)].token for added in draft.nodes[1:]]
        tree = VerifiedTree(topology, tokens, end) if self.method.draft_length else None
        row.finished.target_calls += 1
        row.rounds.append(_Round(max(topology.depth), len(draft.nodes[end]), positions, tree))
        return ended

    def _decide(self, row: _Canvas, choice: Choice) -> bool:
        """Unmask a position. Give the stop rule the tokens before the first mask. Return whether the answer ends."""
        row.tokens[choice.position] = choice.token
        finished = row.finished
        for token in row.tokens[len(finished.tokens) :]:
            if token == self.target.mask_token:
                return False
            finished.tokens.append(token)
            if row.stop.push([token]) is not None:
                finished.reason = row.stop.reason or ""
                return True
        finished.reason = "length"
        return True

    def _rankings(self, asked: list[tuple[int, list[int]]], kind: str) -> list[list[Choice]]:
        """Read canvases in one forward, and rank the choices of each. asked: the row of each canvas, and its tokens.

        The rankings hold whole blocks: enough positions for this walk, and for the next draft. kind: the name of the step.
        """
        target, device = self.target, self.target.device
        mark = self.trace.begin(device)
        prompts = [row.finished.request.tokens if row else [] for row in self.rows]
        lengths = [len(prompts[index]) + self.size for index, _ in asked]
        width = max(lengths)
        lines = [
            [target.mask_token] * (width - length) + prompts[index] + tokens
            for length, (index, tokens) in zip(lengths, asked, strict=True)
        ]
        spans = [self._span(tokens) for _, tokens in asked]
        first, end = min(span[0] for span in spans), max(span[1] for span in spans)
        columns = torch.arange(first, end) + (width - self.size)
        given = [part.to(device) for part in (torch.tensor(lines), torch.tensor(lengths), columns)]
        logits = target.predict(given[0], given[1], given[2])
        best, odds = confidence(logits, target.mask_token)
        scored = zip(asked, best.tolist(), odds.tolist(), strict=True)
        found = [self._ranked(tokens, first, likely, against) for (_, tokens), likely, against in scored]
        self.trace.end(mark, target.name, kind, len(asked), width, width)
        self.trace.watch(target.name, logits, [index for index, _ in asked])
        return found

    def _span(self, tokens: list[int]) -> tuple[int, int]:
        """Return the first and the end position of the blocks of a canvas that a ranking needs."""
        block, wanted = self.method.block, 2 * self.method.draft_length + self.method.width
        masked = [place for place, token in enumerate(tokens) if token == self.target.mask_token]
        last = masked[min(wanted, len(masked)) - 1]
        return masked[0] // block * block, min((last // block + 1) * block, self.size)

    def _ranked(self, tokens: list[int], first: int, best: list[int], odds: list[float]) -> list[Choice]:
        """Rank the masked positions that were scored, from position `first` on: by block, confidence and position."""
        scored = enumerate(zip(best, odds, strict=True), first)
        mask, block = self.target.mask_token, self.method.block
        masked = [(place // block, odd, place, token) for place, (token, odd) in scored if tokens[place] == mask]
        return [Choice(place, token) for _, _, place, token in sorted(masked)]

    def _release(self, index: int, row: _Canvas) -> Finished:
        """Free a row, and record its rounds: now the answer's end is known."""
        self.rows[index] = None
        for number, one in enumerate(row.rounds):
            self.trace.sequence_round[index] = number
            emitted = sum(position < len(row.finished.tokens) for position in one.positions)
            self.trace.verified(index, self.method.edge, 0, one.proposed, one.accepted, emitted, tree=one.tree)
        return row.finished
