"""Length policies with a trained network: what they keep, what they refuse, and that they change no law."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdbench.acceptance import Exact
from sdbench.asynchronous import SSDDrafter, Undrafted, Uniform
from sdbench.decoding import DynaSD, Request, Speculative
from sdbench.drafting import DecisionModel, EarlyExit, ModelDrafter, Pacer, PromptLookup, StagedDrafter
from sdbench.drafting.lengths.acceptance_network import AcceptanceNetwork, NetworkShape
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling, Scored
from sdbench.stopping import NeverStop
from tests.conftest import random_model
from tests.decoding.test_identity import generated, prompts
from tests.drafting.test_lengths import decoded
from tests.drafting.test_lengths_exact import Noting
from tests.drafting.trained import written

POLICIES = {"decision_model": DecisionModel, "pacer": Pacer}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: written(tmp_path_factory.mktemp(name), name) for name in POLICIES}


class TokenDropped(DecisionModel):
    """Wrong: drops the first token of which the network predicts too little, in place of keeping it."""

    def go_on(self, scored, token, depth, memory):
        return torch.ones_like(token, dtype=torch.bool)

    def cut(self, draft, memory):
        assert draft.q is not None
        going, kept = torch.ones_like(draft.length, dtype=torch.bool), torch.zeros_like(draft.length)
        for depth in range(draft.tokens.shape[1]):
            going = going & super().go_on(draft.q[:, depth], draft.tokens[:, depth], depth, memory)
            kept = kept + going
        return kept


class BlockDropped(Pacer):
    """Wrong: drops the block that fails."""

    def go_on(self, scored, token, depth, memory):
        return torch.ones_like(token, dtype=torch.bool)

    def cut(self, draft, memory):
        assert draft.q is not None
        size, kept = self.network.shape.block, draft.length.clone()
        for depth in range(draft.tokens.shape[1]):
            on = super().go_on(draft.q[:, depth], draft.tokens[:, depth], depth, memory)
            kept = torch.where(on, kept, kept.clamp(max=depth + 1 - size))
        return kept


def toys():
    return [TabularModel(name, 2, seed) for name, seed in (("target", 1), ("qualifier", 2), ("draft", 3))]


def oracle(policy, proposer=None, length=2, tokens=2):
    """The distance of a decoder from its target, and the lengths of its drafts."""
    target, _, draft = toys()
    rule = Noting()
    decoder = Speculative(target, rule, proposer or ModelDrafter(draft), length, policy)
    assert decoder.lossless
    return distance_from_target(decoder, target, tokens), rule.seen


@pytest.mark.parametrize(("name", "threshold", "length"), [("decision_model", 0.4, 2), ("pacer", 0.3, 3)])
def test_lossless(folders, name, threshold, length):
    distance, lengths = oracle(POLICIES[name](folders[name], threshold), length=length, tokens=3)
    assert distance < LOSSLESS
    assert len(lengths) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_lossless_above_a_stage_and_with_a_server(folders, name):
    policy, (_, qualifier, draft) = POLICIES[name](folders[name], 0.35), toys()
    for proposer in (
        StagedDrafter(qualifier, Exact(), PromptLookup(), 1),
        SSDDrafter(draft, Uniform(1), Undrafted(), process=False),
    ):
        assert oracle(policy, proposer, 2, 3)[0] < LOSSLESS  # a draft above a stage may overshoot


@pytest.mark.parametrize(("name", "wrong"), [("decision_model", TokenDropped), ("pacer", BlockDropped)])
def test_a_policy_that_drops_what_it_judged_is_rejected(folders, name, wrong):
    distance, lengths = oracle(wrong(folders[name], 0.3))
    assert distance > 1e-3
    assert len(lengths) > 1


def test_the_decision_model_ends_the_fork_of_dynasd(folders):
    target, _, draft = toys()
    decoder = DynaSD(target, draft, 1, 3, "exact", DecisionModel(folders["decision_model"]))
    assert distance_from_target(decoder, target, 3) < LOSSLESS
    with pytest.raises(InputError, match="policy is Pacer, which looks at more"):
        DynaSD(target, draft, 2, 3, "exact", Pacer(folders["pacer"]))


def test_a_token_below_the_threshold_is_the_last(folders):
    scored = Scored(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), Sampling(1.0))
    token = torch.arange(6) % 5
    policy = DecisionModel(folders["decision_model"])
    features = policy.network.features(scored, token, np.arange(6))
    kept = policy.network.kept(features[:, None])[:, 0]
    policy.threshold = float(kept.median())
    assert policy.go_on(scored, token, np.arange(6), [None] * 6).tolist() == (kept > policy.threshold).tolist()


def test_blocks_are_judged_at_their_end():
    """Each row has its own depth. Only a row whose block ends may stop."""
    policy: Any = Pacer.__new__(Pacer)
    memory: list[dict[int, torch.Tensor]] = [{}, {}]
    policy.network, policy.threshold, policy.score = OfBlocks(), 0.5, "whole"
    features = {0: 0.9, 1: 0.8, 2: 0.6, 3: 0.7}
    asked = []
    for step in range(4):
        depth = np.array([step, max(step - 1, 0)])
        own = torch.tensor([[features[place]] for place in depth.tolist()])
        asked.append(policy.judge(own, depth, memory).tolist())
    # 0.9 x 0.8 passes, 0.6 x 0.7 fails. The second row is a token behind.
    assert asked == [[True, True], [True, True], [True, True], [False, True]]
    assert policy.judge(torch.tensor([[0.1], [0.7]]), np.array([4, 3]), memory).tolist() == [True, False]
    kept = torch.tensor([[0.9, 0.4]])
    for score, value in (("whole", 0.36), ("mean", 0.65), ("least", 0.4)):
        policy.score = score
        assert policy.scored(kept).tolist() == pytest.approx([value])


class OfBlocks(torch.nn.Module):
    """A network of blocks of two that predicts the feature itself."""

    shape = NetworkShape("pacer", ("token",), 1, 2, (), 0, "")

    def kept(self, block):
        return block[..., 0]


def test_a_prediction_reads_no_later_token():
    network = AcceptanceNetwork(NetworkShape("pacer", ("token", "top"), 2, 3, (6,), 0, ""))
    block = torch.rand(5, 3, 3)
    other = block.clone()
    other[:, 2] = 7.0
    before, behind = network.kept(block), network.kept(other)
    assert torch.equal(before[:, :2], behind[:, :2])
    assert not torch.equal(before[:, 2], behind[:, 2])


def test_features_are_those_of_the_step():
    network = AcceptanceNetwork(NetworkShape("decision_model", ("entropy", "top", "token", "depth"), 4, 1, (), 0, ""))
    scored = Scored(torch.tensor([[0.5, 0.25, 0.25]]).log(), Sampling(0.5))
    found = network.features(scored, torch.tensor([1]), 3)[0].tolist()
    assert found == pytest.approx([1.5 * np.log(2), 0.5, 0.25, 0.25, 0.0, 0.25, np.log(4)])


@pytest.mark.parametrize("name", POLICIES)
def test_batch_and_server_give_the_same_lengths(folders, name):
    target, draft = TabularModel("t", 7, 1, 1.2), TabularModel("d", 7, 3, 1.2)

    def found(proposer, rows=1):
        policy = POLICIES[name](folders[name], 0.4 if name == "decision_model" else 0.02)
        return decoded(Speculative(target, Exact(), proposer, 5, policy), rows)

    tokens, rounds = found(ModelDrafter(draft))
    assert found(ModelDrafter(draft), 3) == (tokens, rounds)
    assert len({row[4] for row in rounds}) > 1, "the length varies"
    assert found(SSDDrafter(draft, Uniform(2), process=False)) == (tokens, rounds)


@pytest.mark.parametrize("name", POLICIES)
def test_greedy_output_is_the_targets_and_hidden_states_are_those_of_the_law(tmp_path, name, monkeypatch):
    raw = random_model("llama", 2, seed=4)
    target, draft = Transformer("target", raw), Transformer("draft", random_model("llama", 1, seed=4))
    policy: Any = POLICIES[name](written(tmp_path, name, hidden=64))
    head, seen, whole = draft.model.get_output_embeddings(), [], policy.network.features

    def features(scored, token, depth, hidden=None):
        assert hidden is not None
        seen.append(float((head(hidden) - scored.logits).abs().max()))
        return whole(scored, token, depth, hidden)

    def found(rows):
        trace, requests = Trace(), [Request(prompt, str(number)) for number, prompt in enumerate(prompts(3))]
        decoder = Speculative(target, Exact(), ModelDrafter(draft), 4, policy)
        with torch.inference_mode():
            done = [*decoder.generate(requests, Sampling(), NeverStop(), 12, rows=rows, trace=trace)]
        trace.close()
        return {one.request.name: one.tokens for one in done}, sorted(row["proposed"] for row in trace.rounds)

    together = found(3)
    monkeypatch.setattr(policy.network, "features", features)
    alone = found(1)
    assert alone[0] == {str(number): generated(raw, prompt) for number, prompt in enumerate(prompts(3))}
    assert max(seen) < 1e-4, "the head makes the law of the state"
    assert together == alone
    assert len({*alone[1]}) > 1, "the length varies"


def test_hidden_states_need_a_draft_model(tmp_path):
    policy = DecisionModel(written(tmp_path, hidden=64))
    target, qualifier, draft = toys()
    staged = StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 1)
    for proposer in (staged, EarlyExit(target, 1), SSDDrafter(draft, process=False)):
        with pytest.raises(InputError, match="reads hidden states, which only a draft model"):
            Speculative(target, Exact(), proposer, 2, policy)
    with pytest.raises(InputError, match="policy is DecisionModel, which looks at more"):
        DynaSD(target, draft, 2, 3, "exact", policy)


def test_folders_that_cannot_be_used_are_refused(folders, tmp_path):
    def damaged(change):
        folder = tmp_path / "damaged"
        shutil.copytree(folders["decision_model"], folder, dirs_exist_ok=True)
        change(folder)
        return str(folder)

    def shape(**values):
        def change(folder):
            file = folder / "policy.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

        return change

    def without(folder):
        weights = load_file(folder / "model.safetensors")
        weights.pop("mean")
        save_file(weights, folder / "model.safetensors")

    refused = [
        (lambda: DecisionModel(str(tmp_path / "nowhere")), "holds no model.safetensors; `sdbench train"),
        (lambda: DecisionModel(3), "lengths.weights is 3"),  # pyright: ignore
        (lambda: DecisionModel(folders["pacer"]), "a network for lengths=pacer, and this is lengths=decision_model"),
        (lambda: DecisionModel(damaged(shape(top=5))), "has the sizes .* take both files of one training"),
        (lambda: DecisionModel(damaged(without)), "mean has the sizes None"),
        (lambda: DecisionModel(damaged(shape(features=["mood"]))), "features is 'mood'"),
        (lambda: DecisionModel(damaged(lambda to: (to / "policy.json").write_text("{"))), "cannot be read"),
        (lambda: DecisionModel(damaged(lambda to: (to / "model.safetensors").write_text("{"))), "cannot be read"),
        (lambda: DecisionModel(folders["decision_model"], 1.5), "lengths.threshold"),
        (lambda: Pacer(folders["pacer"], score="sum"), "lengths.score"),
        (lambda: Speculative(toys()[0], None, PromptLookup(), 2, Pacer(folders["pacer"])), "lookup has none"),
    ]
    for made, said in refused:
        with pytest.raises(InputError, match=said):
            made()
