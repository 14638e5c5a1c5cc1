"""DynaSD (Improving MCSD, 2409.10644; github JackZeng0208/DynaSD): a fork of chains behind the target's roots.

A round of other decoders ends with a token of the target. Here the decoder draws `width` tokens from the target's law behind the
kept tokens, without replacement: the roots of the next tree. The draft continues each root by a chain of its own (a fork). Three
parts can be switched one by one:

    target-initialised roots   keep=exact: the eldest root is always kept, so the output is that of plain speculative decoding
    the longest path wins      keep=longest: a chain behind a younger root may win (`sdbench.acceptance.longest`). Lossy.
    early stop                 `policy` ends the fork at a depth where it ends every chain; it never drops a drawn token

The paper's policy is a small trained network, here `decision_model` (with features other than the hidden state). The released
script leaves it off. Any length policy that looks at each drafted token alone, such as `confidence`, can take its place. The
published fork has width 6 and depth 7, the one of the released script width 2 and depth 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sdbench import validate
from sdbench.acceptance.base import at, normalised, verify
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.acceptance.exact import Exact
from sdbench.acceptance.longest import LongestPath
from sdbench.decoding.base import Finished, Request
from sdbench.decoding.speculative import Batch, Speculative
from sdbench.drafting.draft_tokens import drafting_key
from sdbench.drafting.lengths import LengthPolicy
from sdbench.drafting.tree import ModelTree
from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm.model import LanguageModel
from sdbench.lm.state import DecodeState
from sdbench.sampling import Scored
from sdbench.topology import MOST_NODES, Topology


class ForkDrafter(ModelTree):
    """Draft a chain behind each of `width` roots. depth: of the fork, with the root. policy: may end it earlier.

    behind: [B, V] the target's law of the next token, and eldest: [B] a draw from it. The decoder sets both before each draft.
    """

    kind = ProposalKind.SAMPLED
    behind: Scored
    eldest: Int[Tensor, " B"]

    def __init__(self, model: LanguageModel, width: int, depth: int, policy: LengthPolicy | None) -> None:
        super().__init__(model)
        self.width = validate.whole("width", width, 1, MOST_NODES)
        self.depth = validate.whole("depth", depth, 1)
        kind = type(policy)
        if policy is not None and (
            any(getattr(kind, name) is not getattr(LengthPolicy, name) for name in ("length", "cut", "learn"))
            or policy.start() is not None
            or policy.applied_by is not None
        ):
            raise InputError(
                f"policy is {kind.__name__}, which looks at more than the token that was just drafted: take one such as confidence."
            )
        self.policy = policy

    @property
    def own_length(self) -> int | None:
        return self.depth

    def max_lookahead(self, length: int) -> int:
        return self.width * self.depth

    def propose(self, state: DecodeState, length: int, key: Key) -> Draft:
        here, names = state.copy(), drafting_key(key)
        level, scores = self._roots(state, names / "roots")
        tokens, going, depths = [level], torch.ones(state.rows, dtype=torch.bool), np.ones(state.rows, int)
        for depth in range(1, self.depth):
            here.place_many(level, state.length + (depth - 1) * self.width)
            first = 0 if depth == 1 else (depth - 1) * self.width + 1
            trees = [self._fork(depth)] * state.rows
            logits = self.model.read_tree(here, trees, (first, depth * self.width), "draft").logits[:, -self.width :]
            scored = state.sampler.score(logits)
            drawn = [state.sampler.draw(scored[:, chain], names / depth / chain) for chain in range(self.width)]
            level = torch.stack(drawn, 1)
            tokens.append(level)
            scores.append(scored)
            depths += going.numpy()
            if self.policy is not None:
                wishes = [
                    self.policy.go_on(scored[:, chain], token, depth, [None] * state.rows)
                    for chain, token in enumerate(drawn)
                ]
                if all(wish is not None for wish in wishes):
                    going &= torch.stack([wish for wish in wishes if wish is not None]).any(0).cpu()
                if not going[torch.from_numpy(state.active)].any():
                    break
        trees = [self._fork(int(depth)) for depth in depths]
        sizes = torch.tensor([tree.size for tree in trees], device=level.device)
        return Draft(torch.cat(tokens, 1), sizes, _joined(scores), self.kind, topology=trees)

    def _fork(self, depth: int) -> Topology:
        nodes = range(1, (depth - 1) * self.width + 1)
        return Topology.of([0] * self.width + list(nodes))

    def _roots(self, state: DecodeState, names: Key) -> tuple[Int[Tensor, "B W"], list[Scored]]:
        """Draw the roots without replacement, the eldest first; in greedy decoding, take the most likely tokens."""
        behind, sampler = self.behind, state.sampler
        left, roots, laws = behind.probs, [self.eldest], [behind.probs]
        logits = behind.logits
        for rank in range(1, self.width):
            logits = logits.scatter(-1, roots[-1][:, None], -torch.inf)
            left = normalised(left.scatter(-1, roots[-1][:, None], 0.0))
            greedy = sampler.sampling.greedy
            roots.append(logits.argmax(-1) if greedy else sampler.choices.choose(left, names / rank))
            laws.append(left)
        probs = torch.stack(laws, 1)
        shown = behind.logits[:, None].expand_as(probs)
        return torch.stack(roots, 1), [Scored(shown, behind.sampling).knowing(probs=probs)]


class DynaSD(Speculative):
    """Decode with DynaSD.

    model: the draft. width, depth: of the fork, roots included. keep: longest (lossy) or exact. policy: None drafts to the depth.
    """

    def __init__(
        self,
        verifier: LanguageModel,
        model: LanguageModel,
        width: int = 6,
        depth: int = 7,
        keep: str = "longest",
        policy: LengthPolicy | None = None,
    ) -> None:
        longest = validate.choice("keep", keep, ("longest", "exact")) == "longest"
        super().__init__(
            verifier,
            LongestPath(test_roots=False) if longest else Exact(),
            ForkDrafter(model, width, depth, policy),
        )
        self.batch = _ForkBatch


class _ForkBatch(Batch):
    """Run one batch. behind, eldest: by row, the law of the next token and a draw from it."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        target, rows = self.method.target, len(self.rows)
        self.logits = torch.zeros(rows, target.vocab, dtype=target.dtype, device=target.device)
        self.probs = normalised(torch.zeros_like(self.logits, dtype=torch.float64))
        self.eldest = torch.zeros(rows, dtype=torch.long, device=target.device)

    def _admit(self, index: int, number: int, request: Request) -> Finished | None:
        done = super()._admit(index, number, request)
        row, state = self.rows[index], self.state
        if done is None and row is not None:
            output = self.method.target.read(state, state.length, "verify", row=index)
            scored = self.law.scored(state, output, [int(state.length[index])], row=index)[:, -1]
            whole = self._key() / "root"
            key = Key(whole.streams[index : index + 1], whole.rounds[index : index + 1], whole.path)
            self.logits[index], self.probs[index] = scored.logits[0], scored.probs[0].double()
            self.eldest[index] = state.sampler.draw(scored, key)[0]
            row.finished.target_calls += 1
        return done

    def _round(self) -> Iterator[Finished]:
        state, method = self.state, self.method
        proposer = method.proposer
        assert isinstance(proposer, ForkDrafter)
        key = self._begin_round()
        proposer.behind = Scored(self.logits, state.sampler.sampling).knowing(probs=self.probs)
        proposer.eldest = self.eldest
        draft = proposer.propose(state, method.draft_length, key).to(method.target.device)
        state.place_many(draft.tokens, state.length)
        lengths = state.length.tolist()
        output = method.target.score(state, draft.tokens.shape[1], draft.topology)
        p = self.law.scored(state, output, lengths, trees=draft.topology)
        p = _joined([proposer.behind[:, None], p[:, 1:]])
        decided, law = verify(method.rule, draft, p, None, state.sampler, key)
        assert decided.path is not None
        assert law is not None
        paths = [path if row else [] for path, row in zip(decided.path, self.rows, strict=True)]
        ends = torch.tensor([path[-1] if path else 0 for path in decided.path], device=p.logits.device)
        self.logits, self.probs = at(p.logits, ends), law.next_token(ends).double()
        self.eldest = torch.tensor(decided.next_token, device=p.logits.device)
        for index, path in enumerate(paths):
            if path:
                state.write(index, lengths[index], decided.tokens[index][:-1])
                state.length[index] = lengths[index] + len(path)
        method.target.keep(state.length.tolist(), paths)
        proposer.commit(state.length.tolist(), paths)
        for index, row in enumerate(self.rows):
            if row is not None:
                tree = decided.trees[index] if decided.trees else None
                proposed, kept = decided.proposed[index] - 1, decided.accepted[index] - 1  # the root is the target's
                yield from self._verified(index, proposed, kept, decided.tokens[index][:-1], None, tree)


def _joined(parts: list[Scored]) -> Scored:
    """Join scores along the nodes, and keep the distributions of each part."""
    probs = [part.probs for part in parts]
    logits = torch.cat([part.logits for part in parts], 1)
    widest = max(probs, key=lambda one: one.element_size()).dtype
    return Scored(logits, parts[0].sampling).knowing(probs=torch.cat([one.to(widest) for one in probs], 1))
