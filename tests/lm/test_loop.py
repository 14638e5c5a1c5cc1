"""Drafting in one program gives the tokens, hits and ranks of drafting step by step."""

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import Saguaro, SSDDrafter, Uniform
from sdbench.decoding import Request, Speculative
from sdbench.drafting import EarlyExit, ModelDrafter, StagedDrafter, StopWhenUnsure
from sdbench.keyed_random import Choices, HashChoices
from sdbench.lm.programs.execution import Execution
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model
from tests.lm.interpreted import Interpreted, Replayed

NEW = 10
SAMPLINGS = {"greedy": Sampling(), "sampled": Sampling(0.8, top_k=30, top_p=0.95)}


def models(architecture, mode: type[Execution] | None, layers=4):
    """Make a target, and a draft that often agrees with it."""
    near = random_model(architecture, layers)
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    own = [None, None] if mode is None else [mode(), mode()]
    return (
        Transformer("target", random_model(architecture, layers), execution=own[0]),
        Transformer("draft", near, execution=own[1]),
    )


def decode(decoder, sampling, rows, choices: Choices | None = None):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist() for i in range(4)]
    requests, trace = [Request(text, str(i)) for i, text in enumerate(texts)], Trace()
    finished = decoder.generate(requests, sampling, NeverStop(), NEW, 3, rows, trace, choices)
    tokens = {item.request.name: item.tokens for item in finished}
    trace.close()
    return tokens, trace


ARMS = {
    "sd": lambda target, draft: Speculative(target, Exact(), ModelDrafter(draft), 3),
    "early_exit": lambda target, draft: Speculative(target, Exact(), EarlyExit(target, 2), 3),
    "pyramid": lambda target, draft: Speculative(
        target, Exact(), StagedDrafter(draft, Exact(), EarlyExit(draft, 2), 2), 4
    ),
    "ssd": lambda target, draft: Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 3),
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    ("mode", "architecture"),
    [
        (Interpreted, "llama"),
        (Replayed, "qwen3-sliding"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (Replayed, "llama"),
                (Interpreted, "qwen3-sliding"),
                (Interpreted, "gpt2"),
                (Replayed, "gpt2"),
            )
        ),
    ],
)
def test_drafting_in_one_program_equals_drafting_step_by_step(mode, architecture, sampling, rows, arm):
    wanted, plain = decode(ARMS[arm](*models(architecture, None)), SAMPLINGS[sampling], rows)
    got, trace = decode(ARMS[arm](*models(architecture, mode)), SAMPLINGS[sampling], rows)
    assert got == wanted
    for column in ("accepted", "rank", "hit"):
        assert [row.get(column) for row in trace.rounds] == [row.get(column) for row in plain.rounds], column
    looped = [step for step in trace.steps if "loop" in step]
    assert looped
    assert not any("loop" in step for step in plain.steps)
    assert not any(step.get("missed") for step in trace.steps)
    shape = ["kind", "rows", "tokens", "context"]
    for made, step in zip(trace.steps, plain.steps, strict=True):  # each of its steps is a row of the trace
        assert [made[key] for key in shape[:3]] == [step[key] for key in shape[:3]]
        # A program puts the branches of all rows behind the longest row, finished rows included.
        assert made["context"] == step["context"] or (made["kind"] == "tree" and made["context"] > step["context"])


def test_drafts_that_the_host_steers_are_made_step_by_step():
    """A policy looks at each token, Saguaro sampling changes each law, and the oracle makes each choice itself."""

    class Own(HashChoices):
        pass

    class Foreign:
        choose = HashChoices().choose

    target, draft = models("llama", Interpreted)
    sampled = SAMPLINGS["sampled"]
    unsure = Speculative(target, Exact(), ModelDrafter(draft), 3, StopWhenUnsure(0.2))
    bent = Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), saguaro=Saguaro(0.5), process=False), 3)
    for decoder, choices in ((unsure, None), (bent, None), (ARMS["sd"](target, draft), Foreign())):
        assert not any("loop" in step for step in decode(decoder, sampled, 1, choices)[1].steps)
    assert any("loop" in step for step in decode(ARMS["sd"](target, draft), sampled, 1, Own())[1].steps)


def test_a_loop_without_a_program_runs_step_by_step_and_is_marked():
    target, draft = models("llama", Interpreted)
    sampling = SAMPLINGS["greedy"]
    decode(ARMS["sd"](target, draft), sampling, 1)
    for model in (target, draft):
        model.execution.frozen = True
    other = Speculative(target, Exact(), ModelDrafter(draft), 2)
    wanted = decode(Speculative(*models("llama", None)[:1]), sampling, 1)[0]
    got, trace = decode(other, sampling, 1)
    assert got == wanted
    drafted = [step for step in trace.steps if step["kind"] == "draft"]
    assert all(step.get("missed") and "loop" not in step for step in drafted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "arm", "rows"),
    [*((sampling, arm, 1) for sampling in SAMPLINGS for arm in ("sd", "ssd")), ("sampled", "sd", 3)],
)
def test_compiled_loops_draft_the_same(sampling, arm, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    wanted, _ = decode(ARMS[arm](*models("llama", None, 2)), SAMPLINGS[sampling], rows)
    target, draft = models("llama", None, 2)
    target.execution, draft.execution = execution_of("compile"), execution_of("compile")
    got, trace = decode(ARMS[arm](target, draft), SAMPLINGS[sampling], rows)
    assert got == wanted
    assert any("loop" in step for step in trace.steps)


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "qwen3-sliding"])
def test_every_program_can_be_called_alone(architecture):
    """Reference forwards do this: they time a program behind any context."""
    target, draft = models(architecture, Interpreted)
    for arm in ("sd", "ssd"):
        _, trace = decode(ARMS[arm](target, draft), SAMPLINGS["sampled"], 1)
        for step in trace.steps:
            model = {"target": target, "draft": draft}[step["role"]]
            if step["kind"] != "prefill":
                given = model.inputs_for(1, step["tokens"], 12, step.get("loop") or 1)
                assert given is not None, step
                outputs = model.execution.run(model, given)
                assert all(output.isfinite().all() for output in outputs)


def test_a_servers_programs_fit_longer_prompts_too():
    """Its cache is as large as the verifier's from the first batch on. So a longer prompt changes no shape."""
    target, draft = models("llama", Interpreted)
    for model in (target, draft):
        model.allocate(1, 256)
    decoder = ARMS["ssd"](target, draft)

    def steps(length: int):
        text = torch.randint(0, V, (length,), generator=torch.Generator().manual_seed(1)).tolist()
        trace = Trace()
        list(decoder.generate([Request(text, "0")], Sampling(), NeverStop(), 20, trace=trace))
        trace.close()
        return trace.steps

    steps(10)
    for model in (target, draft):
        model.freeze()
    assert not [step for step in steps(228) if step.get("missed") and step["kind"] != "prefill"]


def test_programs_belong_to_a_number_of_threads():
    """A compiler writes this number into the code."""
    target, draft = models("llama", Interpreted, layers=2)

    def short():
        list(ARMS["sd"](target, draft).generate([Request([1, 2, 3], "0")], Sampling(), NeverStop(), 4))

    short()
    made = target.execution.made
    torch.set_num_threads(2)
    try:
        short()
    finally:
        torch.set_num_threads(1)
    assert target.execution.made == 2 * made
