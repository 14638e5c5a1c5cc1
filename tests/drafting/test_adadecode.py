"""AdaDecode: the tokens of the target, drafts of the first sure exit, and layers that no token runs through twice."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import AdaDecode, EarlyExit
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.harness.config import compose
from sdbench.harness.plan import load, prepare
from sdbench.harness.reference_forward import ReferenceForwards
from sdbench.heads.exit_config import ExitConfig
from sdbench.heads.exit_heads import ExitHeads, write_exits
from sdbench.lm.early_exit import layers_of
from sdbench.lm.exit_stages import ExitCascade, exit_cascade
from sdbench.lm.programs.execution import Execution
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model
from tests.decoding.test_identity import NEW, generated, prompts
from tests.family import overrides, save_family
from tests.lm.interpreted import Interpreted, Replayed

DEPTH = 4


@cache
def settled(architecture: str):
    """A model whose later layers change little, so that its exits are right at times."""
    raw = random_model(architecture, layers=DEPTH)
    body, name = layers_of(raw, DEPTH)
    for layer in list(body._modules[name])[1:]:
        for part, weight in layer.named_parameters():
            if weight.ndim > 1 and part.rpartition(".weight")[0].endswith(("o_proj", "down_proj", "c_proj")):
                weight.data.mul_(0.3)
    return raw


def cascade(raw, layers=(1, 2, 3), mode=Execution) -> ExitCascade:
    width = raw.config.get_text_config().hidden_size
    return exit_cascade(
        "exit_heads", ExitHeads(ExitConfig(tuple(layers), width)), Transformer("target", raw, execution=mode())
    )


def decoded(heads: ExitCascade, rows: int, threshold: float = 0.3, sampling=None, length: int = 4):
    trace = Trace()
    decoder = Speculative(heads._whole, Exact(), AdaDecode(heads, threshold), length)
    assert decoder.lossless
    requests = [Request(text, str(i)) for i, text in enumerate(prompts(rows + 2))]
    done = decoder.generate(requests, sampling or Sampling(), NeverStop(), NEW, rows=rows, trace=trace)
    return {one.request.name: one.tokens for one in done}, trace


@pytest.mark.parametrize(
    ("architecture", "rows"), [("llama", 1), ("llama", 3), ("qwen3-sliding", 3), ("gemma3", 1), ("gpt2", 1)]
)
def test_greedy_tokens_are_those_of_generate(architecture, rows):
    raw = settled(architecture)
    tokens, trace = decoded(cascade(raw), rows)
    assert tokens == {str(i): generated(raw, text) for i, text in enumerate(prompts(rows + 2))}
    if architecture == "llama":
        assert {one["accepted"] for one in trace.rounds} >= {0, 1, 2}
        assert any(one["accepted"] < one["proposed"] for one in trace.rounds), "some drafted tokens are refused"
        assert {step["role"] for step in trace.steps if step["kind"] == "verify"} == {"target", "exit_heads[rest]"}


def test_sampled_tokens_do_not_depend_on_the_batch():
    heads, sampling = cascade(settled("llama")), Sampling(0.7)
    alone, (together, _) = decoded(heads, 1, sampling=sampling)[0], decoded(heads, 3, sampling=sampling)
    assert {name: together[name] for name in alone} == alone


def test_no_token_runs_through_a_layer_twice():
    """Count the tokens that each layer reads, in rounds whose draft ends because no exit is sure."""
    raw = settled("llama")
    heads = cascade(raw)
    read = [0] * DEPTH
    body, name = layers_of(raw, DEPTH)
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, given, number=number: read.__setitem__(number, read[number] + given[0].shape[1])
        )
        for number, layer in enumerate(body._modules[name])
    ]
    trace = Trace()
    decoder = Speculative(heads._whole, Exact(), AdaDecode(heads, 0.3), 50)
    text = prompts(1)[0]
    list(decoder.generate([Request(text, "0")], Sampling(), NeverStop(), NEW, trace=trace))
    for hook in hooks:
        hook.remove()
    drafted = sum(one["proposed"] for one in trace.rounds)
    assert drafted > 3
    assert read == [len(text) + drafted + len(trace.rounds)] * DEPTH


def test_heads_that_begin_draft_as_the_plain_early_exit():
    raw = settled("llama")
    target = Transformer("target", raw)
    heads = exit_cascade("exit_heads", ExitHeads(ExitConfig((2,), 64)), target)
    found = []
    for proposer in (EarlyExit(target, 2), AdaDecode(heads, 0.0)):
        trace = Trace()
        requests = [Request(text, str(i)) for i, text in enumerate(prompts(3))]
        done = Speculative(target, Exact(), proposer, 3).generate(
            requests, Sampling(0.8), NeverStop(), NEW, rows=3, trace=trace
        )
        tokens = {one.request.name: one.tokens for one in done}
        found.append((tokens, [(one["proposed"], one["accepted"]) for one in trace.rounds]))
    assert found[0] == found[1]


@pytest.mark.parametrize("mode", [Interpreted, Replayed])
def test_programs_give_the_same_tokens_and_drafts(mode):
    raw = settled("llama")
    eager, first = decoded(cascade(raw), 3)
    heads = cascade(raw, mode=mode)
    tokens, trace = decoded(heads, 3)
    assert tokens == eager
    assert [one["accepted"] for one in trace.rounds] == [one["accepted"] for one in first.rounds]
    assert all(stage.execution.made for stage in (*heads.stages, heads.rest))


class SureOfTheDrawn(AdaDecode):
    """Wrong: draws a token first, and drops it if its own probability is not above the threshold."""

    def propose(self, state, length, key):
        draft = AdaDecode.propose(self, state, length, key)
        if draft.q is None:
            return draft
        own = draft.q.plain.gather(-1, draft.tokens[..., None])[..., 0]
        draft.length = (own > 0.6).long().cumprod(-1).sum(-1)
        return draft


def tables(count: int) -> TabularModel:
    stages = [TabularModel(f"exit_heads[{n}]", 2, seed) for n, seed in enumerate((5, 3, 2)[:count])]
    first: object = stages[0]
    first.stages = stages  # pyright: ignore
    return stages[0]


@pytest.mark.parametrize(("exits", "threshold"), [(1, 0.0), (1, 0.7), (2, 0.7)])
def test_the_law_of_an_exit_decides_so_the_output_is_the_targets(exits, threshold):
    target = TabularModel("target", 2, 1)
    decoder = Speculative(target, Exact(), AdaDecode(tables(exits), threshold), 2)
    assert distance_from_target(decoder, target, 3) < LOSSLESS


def test_a_drawn_token_that_is_dropped_for_its_probability_is_rejected():
    target = TabularModel("target", 2, 1)
    decoder = Speculative(target, Exact(), SureOfTheDrawn(tables(1), 0.0), 2)
    assert distance_from_target(decoder, target, 3) > 1e-3


def test_a_run_plans_and_loads_exit_heads(tmp_path):
    paths = save_family(tmp_path)
    heads = ExitHeads(ExitConfig((1, 2), 48))
    heads.get_parameter("transforms.1.weight").data[0, 1] = 0.5
    write_exits(tmp_path / "heads", heads)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "how many"}\n')
    words = [*overrides(paths, file, tmp_path / "out"), "arms=[ar,adadecode]"]
    with pytest.raises(InputError, match="needs a model that this family lacks, in the role 'exit_heads'"):
        prepare(compose(words))
    words += [f"+models.exit_heads.path={tmp_path / 'heads'}", "+models.exit_heads.head_of=target"]
    plan = prepare(compose(words))
    assert plan.identities["exit_heads"].startswith("sha256:")
    loaded = load(plan)["exit_heads"]
    assert isinstance(loaded, ExitCascade)
    assert [stage.layers for stage in (*loaded.stages, loaded.rest)] == [1, 2, 3]
    assert torch.equal(*(one.get_parameter("transforms.1.weight") for one in (loaded.heads, heads)))
    assert loaded.bytes == 2 * 48 * 48 * 4
    for said, change in {
        r"layers \[1, 3\]; .* from 1 to 2": {"exit_layers": [1, 3]},
        "width 64, but their target has width 48": {"hidden_size": 64},
        "must have exit_layers": {"exit_layers": None},
    }.items():
        (tmp_path / "heads" / "config.json").write_text(json.dumps({**heads.config.document, **change}))
        with pytest.raises(InputError, match=said):
            prepare(compose(words))


def test_layers_that_give_other_logits_stage_by_stage_are_refused():
    raw = random_model("llama")
    heads = ExitCascade("exit_heads", ExitHeads(ExitConfig((2,), 64)), Transformer("target", raw))
    heads.check_stages()
    body = heads.rest.model.model
    body.layers = body.layers[:3]  # without the last layer
    with pytest.raises(InputError, match="give other logits stage by stage"):
        heads.check_stages()


def test_the_forward_of_a_later_stage_can_be_timed_over_another_cache():
    """A reference forward calls the model of a stage with a cache of transformers."""
    stage = cascade(settled("llama")).rest
    timed = ReferenceForwards({"rest": stage})
    timed.see([{"kind": "verify", "role": "rest", "rows": 1, "tokens": 3, "context": 70}])
    (first, *_) = timed.time()
    assert first["seconds"] > 0
    lengths = {(cache.get_seq_length(), cache.get_seq_length(3)) for cache in timed.caches.values()}
    assert lengths == {(64, 64), (128, 128)}
