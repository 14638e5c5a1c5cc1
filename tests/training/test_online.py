"""Online speculative decoding: what the draft learns from, that it stays lossless, and what it leaves alone."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sdbench.acceptance.exact import Exact
from sdbench.decoding import Speculative
from sdbench.decoding.base import Request
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.exactness.oracle import output_law, total_variation
from sdbench.exactness.tabular import TabularModel, sequence_law
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.training.online_drafter import OnlineDrafter

PROMPTS = [[3, 1, 4], [1, 5, 9, 2], [6, 5, 3], [5, 8, 9, 7], [9, 3, 2]]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    target = LlamaForCausalLM(config).eval()
    target.get_output_embeddings().weight.data.mul_(20)
    draft = copy.deepcopy(target)
    for weight in draft.model.layers.parameters():
        weight.data += 0.7 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0
    draft.set_input_embeddings(target.get_input_embeddings())  # borrowed, as a draft of the target's layers does
    draft.set_output_embeddings(target.get_output_embeddings())
    return target, draft


def online(models, **knobs):
    target, draft = (Transformer(role, model) for role, model in zip(("target", "draft"), models, strict=True))
    return Speculative(target, Exact(), OnlineDrafter(draft, **knobs), 3)


def decoded(decoder, temperature=0.0, rows=1, tokens=8, prompts=PROMPTS):
    trace = Trace()
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(prompts)]
    answers = {}
    for request in requests if rows == 1 else [requests]:
        some = request if isinstance(request, list) else [request]
        for one in decoder.generate(some, Sampling(temperature), NeverStop(), tokens, rows=rows, trace=trace):
            answers[one.request.name] = one.tokens
        trace.close()
    return [answers[request.name] for request in requests], trace


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_tokens_are_those_of_transformers(models, rows):
    answers, trace = decoded(online(models, learning_rate=0.01), rows=rows)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        whole = models[0].generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=8, do_sample=False
        )
        assert answer == whole[0, len(prompt) :].tolist()
    assert any("update_seconds" in row for row in trace.rounds), "the draft has changed meanwhile"


def test_only_its_own_copy_changes(models):
    target, draft = map(weights, models)
    decoder = online(models, learning_rate=0.01)
    served = decoder.proposer.models[0].model
    first = weights(served)
    decoded(decoder)
    changed = {name for name, weight in served.state_dict().items() if not torch.equal(first[name], weight)}
    assert changed
    assert not changed & {"model.embed_tokens.weight", "lm_head.weight"}
    assert same(target, models[0])
    assert same(draft, models[1])
    assert all(weight.grad is None for model in models for weight in model.parameters())
    decoder.begin_pass()
    assert same(first, served), "a new pass begins with the weights as they were"


def test_passes_are_equal(models):
    decoder = online(models, learning_rate=0.01, positions="all")
    once, first = decoded(decoder, temperature=1.0)
    decoder.begin_pass()
    again, second = decoded(decoder, temperature=1.0)
    assert once == again
    losses = [[row["update_loss"] for row in trace.rounds if "update_loss" in row] for trace in (first, second)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == len(PROMPTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_draft_gets_better_on_what_it_serves(models, dtype):
    pair = [copy.deepcopy(model).to(dtype) for model in models]
    _, trace = decoded(online(pair, learning_rate=3e-4, positions="all"), prompts=PROMPTS[:1] * 5)
    losses = [row["update_loss"] for row in trace.rounds if "update_loss" in row]
    assert losses[-1] < 0.9 * losses[0], losses


def test_the_buffer_has_the_laws_of_the_target(models):
    class Kept:
        def __init__(self, served):
            self.served, self.seen = served, []

        def learn(self, observed):
            self.seen.append(list(observed))
            return 0.0

        def reset(self):
            return None

    for positions in ("rejected", "all"):
        target, draft = (Transformer(role, model) for role, model in zip(("target", "draft"), models, strict=True))
        kept = Kept(draft)
        drafter = OnlineDrafter(draft, every=2, positions=positions, top=5, learner=kept)
        answers, trace = decoded(Speculative(target, Exact(), drafter, 3))
        assert [len(one) for one in kept.seen] == [2, 2], "the fifth prompt waits for a sixth"
        observed = [one for part in kept.seen for one in part]
        for number, one in enumerate(observed):
            assert one.tokens == [*PROMPTS[number], *answers[number]]
            law = torch.softmax(models[0](torch.tensor([one.tokens])).logits[0, one.positions - 1], -1)
            assert (law.gather(1, one.law.ids) - one.law.probs).abs().max() < 1e-5
            assert (one.law.probs[:, 0] - law.amax(-1)).abs().max() < 1e-5
        corrections = sum(row["outcome"] == "correction" for row in trace.rounds)
        counted = sum(len(one.positions) for one in observed)
        assert (0 < counted <= corrections) if positions == "rejected" else counted > corrections
        notes = [row["update_positions"] for row in trace.rounds if "update_positions" in row]
        assert sum(notes) == counted


def test_fast_modes_and_parts_of_a_model_are_refused(models):
    draft = TabularModel("draft", 2, 0)
    draft.execution = execution_of("compile")
    with pytest.raises(InputError, match=r"a program of the mode 'compile'.*set hardware.execution=eager"):
        OnlineDrafter(draft)
    with pytest.raises(InputError, match=r"target\[1\] is a part of another model"):
        OnlineDrafter(Transformer("target", models[0]).truncated(1))
    with pytest.raises(InputError, match="positions is 'some'; it must be one of rejected, all"):
        OnlineDrafter(TabularModel("draft", 2, 0), positions="some")


def test_a_run_does_not_go_on_in_the_middle(models):
    with pytest.raises(InputError, match="cannot go on in the middle: start it again with another out"):
        online(models).begin_pass([([1, 2], [3])])


class TableLearner:
    """Move a tabular draft half of the way to the target's law in each context that was observed."""

    def __init__(self, served):
        self.served = served

    def learn(self, observed):
        for one in observed:
            for position, ids, probs in zip(one.positions.tolist(), one.law.ids, one.law.probs, strict=True):
                context = tuple(one.tokens[:position])
                law = torch.zeros(self.served.vocab, dtype=torch.float64).scatter(0, ids, probs.double())
                # The next sequence has the same prompt, so the change shows.
                self.served.tables[context] = (self.served.table(context) + law / law.sum()) / 2
        return 0.0

    def reset(self):
        self.served.tables.clear()


class Stale(OnlineDrafter):
    """Wrong: draws a token with the new weights, and states the law of the first ones."""

    def propose(self, state, length, key, go_on=None):
        draft = super().propose(state, length, key, go_on)
        first = TabularModel("draft", self.model.vocab, self.model.seed)
        context = tuple(state.tokens[0, : int(state.length[0])].tolist())
        return replace(draft, q=replace(draft.q, logits=first.table(context).log()[None, None]))


@pytest.mark.parametrize("positions", ["rejected", "all"])
def test_two_sequences_have_the_law_of_the_target(positions):
    """The second sequence is served by what the first one taught, and both together have exactly the target's law."""
    assert distance(OnlineDrafter, positions) < 1e-12


def test_a_law_of_other_weights_is_rejected():
    assert distance(Stale, "all") > 1e-3


def distance(kind, positions):
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 2)
    drafter = kind(draft, positions=positions, learner=TableLearner(draft))
    decoder = Speculative(target, Exact(), drafter, 1)

    def run(walk):
        decoder.begin_pass()
        requests = [Request([0], "one"), Request([0], "two")]
        found = list(decoder.generate(requests, Sampling(1.0), NeverStop(), 2, choices=walk))
        return tuple(tuple(one.tokens) for one in found)

    law = output_law(run)
    alone = sequence_law(target, (0,), 2)
    return total_variation(law, {(one, two): p * q for one, p in alone.items() for two, q in alone.items()})


def test_the_same_tokens_as_a_fixed_draft(models):
    """Greedy answers do not depend on the draft, and a rate of almost nothing gives its drafts too."""
    target, draft = (Transformer(role, model) for role, model in zip(("target", "draft"), models, strict=True))
    fixed, plain = decoded(Speculative(target, Exact(), ModelDrafter(draft), 3), temperature=1.0)
    still, learned = decoded(online(models, learning_rate=1e-12), temperature=1.0)
    assert fixed == still
    columns = ("proposed", "accepted", "round")
    assert [[row[name] for name in columns] for row in plain.rounds] == [
        [row[name] for name in columns] for row in learned.rounds
    ]
