"""Reflective Verification: two readings in one forward, of which nothing stays, and a rule on the mixed logits."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from sdbench.acceptance import Draft, Exact, ProposalKind, Typical
from sdbench.analysis.metrics.acceptance import edges
from sdbench.decoding import Reflective, Request, Speculative
from sdbench.drafting import ModelDrafter, PromptLookup, StopWhenUnsure, TreeDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.exactness.oracle import output_law, total_variation
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.state import DecodeState
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.models.generation import TokenRules
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model
from tests.lm.interpreted import Interpreted, Replayed
from tests.lm.test_loop import decode, models

PROMPT = [3, 1, 4, 1, 5]
SAMPLINGS = {"greedy": Sampling(), "sampled": Sampling(1.0)}
RULES = {"exact": Exact(), "typical": Typical()}
DRAFTERS = {
    "model": lambda draft: ModelDrafter(draft),
    "unsure": lambda draft: ModelDrafter(draft),  # drafts of different lengths in a batch
    "lookup": lambda draft: PromptLookup(1),  # and empty ones
}
LENGTHS = {"unsure": StopWhenUnsure(0.3)}


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "qwen3-sliding", "gpt2"])
def test_both_readings_are_the_plain_forward_and_nothing_stays(architecture):
    """Four rows: a whole draft, a short one, an empty one, and a text shorter than the position prefix."""
    raw = random_model(architecture)
    model = Transformer("target", raw)
    model.allocate(4, 60)
    tokens = torch.randint(0, V, (4, 60), generator=torch.Generator().manual_seed(1))
    lengths, drafted = [13, 9, 7, 2], [3, 1, 0, 3]
    trace = Trace()
    trace.sequence, trace.sequence_round = [0, 1, 2, 3], [0] * 4
    state = DecodeState(tokens, np.array(lengths), np.ones(4, bool), Sampler(Sampling()), trace)
    draft = Draft(
        torch.randint(0, V, (4, 3), generator=torch.Generator().manual_seed(2)),
        torch.tensor(drafted),
        None,
        ProposalKind.DETERMINISTIC,
    )
    texts = [tokens[row, :length].tolist() for row, length in enumerate(lengths)]
    kept = [min(1, count) for count in drafted]
    ends = [length + n for length, n in zip(lengths, kept, strict=True)]
    scored, after = {}, {}
    for alpha, forgets in ((0, True), (0.3, True), (1, True), (1, False)):
        for row in range(4):
            model.reset(row)
        state.place_many(draft.tokens, state.length)
        scored[alpha] = Reflective(PROMPT, alpha, 4).score(model, state, draft).logits
        assert scored[alpha].shape == (4, 4, V)
        if forgets:
            model.keep(ends)
        for row, end in enumerate(ends):
            state.write(row, end, [7, 8])
        after[forgets] = model.read(state, [end + 2 for end in ends], "verify").logits[:, -1]
    for row, text in enumerate(texts):
        fresh = raw(torch.tensor([[*text, *draft.tokens[row, : kept[row]].tolist(), 7, 8]])).logits[0, -1]
        torch.testing.assert_close(after[True][row], fresh, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(after[False][row], fresh, atol=1e-2), "a cache that keeps the readings is not noticed"
    for row, (text, count) in enumerate(zip(texts, drafted, strict=True)):
        chain = draft.tokens[row, :count].tolist()
        second = [*text, *chain, *PROMPT, *text[-4:]]
        for i in range(count + 1):
            l_i = raw(torch.tensor([[*text, *chain[:i]]])).logits[0, -1]
            r_i = raw(torch.tensor([[*second, *chain[:i]]])).logits[0, -1] if count else l_i
            for alpha, logits in scored.items():
                torch.testing.assert_close(logits[row, i], (1 - alpha) * l_i + alpha * r_i, atol=4e-5, rtol=1e-4)


FAST = [("greedy", "model", "exact"), ("sampled", "unsure", "typical"), ("sampled", "lookup", "exact")]


@pytest.mark.parametrize(
    ("sampling", "drafter", "inner"),
    [
        pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
        for case in itertools.product(SAMPLINGS, DRAFTERS, RULES)
    ],
)
def test_at_alpha_0_the_tokens_are_those_of_the_rule_alone(sampling, drafter, inner):
    target, draft = models("llama", None, 2)
    rule = RULES[inner]
    for rows in (1, 3):
        wanted, _ = decode(
            Speculative(target, rule, DRAFTERS[drafter](draft), 4, LENGTHS.get(drafter)), SAMPLINGS[sampling], rows
        )
        arm = Speculative(target, rule, DRAFTERS[drafter](draft), 4, LENGTHS.get(drafter), Reflective(PROMPT, 0))
        assert decode(arm, SAMPLINGS[sampling], rows)[0] == wanted
        assert arm.lossless == (isinstance(rule, Exact))
    changed = Speculative(target, rule, DRAFTERS[drafter](draft), 4, LENGTHS.get(drafter), Reflective(PROMPT, 0.9))
    assert not changed.lossless
    assert decode(changed, SAMPLINGS[sampling], 3)[0] != wanted, "the second reading is not mixed in"


def test_the_rules_of_the_targets_generation_config_apply_to_the_mixed_logits():
    target, draft = models("llama", None, 2)
    plain, _ = decode(Speculative(target, Exact(), ModelDrafter(draft), 4), Sampling(), 3)
    target.rules = TokenRules({"repetition_penalty": 1.8}, ())
    wanted, _ = decode(Speculative(target, Exact(), ModelDrafter(draft), 4), Sampling(), 3)
    assert wanted != plain
    arm = Speculative(target, Exact(), ModelDrafter(draft), 4, scoring=Reflective(PROMPT, 0))
    assert decode(arm, Sampling(), 3)[0] == wanted


@pytest.mark.parametrize("drafter", [pytest.param("model", marks=pytest.mark.slow), "unsure", "lookup"])
def test_the_batch_does_not_matter(drafter):
    target, draft = models("llama", None, 2)
    arm = Speculative(target, Exact(), DRAFTERS[drafter](draft), 4, LENGTHS.get(drafter), Reflective(PROMPT, 0.5))
    alone, three = (decode(arm, SAMPLINGS["sampled"], rows)[0] for rows in (1, 3))
    assert alone == three


@pytest.mark.parametrize(
    ("mode", "architecture", "rows"),
    [
        (Interpreted, "qwen3-sliding", 3),
        (Replayed, "llama", 1),
        pytest.param(Interpreted, "qwen3-sliding", 1, marks=pytest.mark.slow),
        pytest.param(Replayed, "llama", 3, marks=pytest.mark.slow),
    ],
)
def test_the_fast_modes_give_the_tokens_of_the_eager_one(mode, architecture, rows):
    def arm(target, draft):
        return Speculative(target, Exact(), ModelDrafter(draft), 3, scoring=Reflective(PROMPT, 0.5))

    wanted, _ = decode(arm(*models(architecture, None)), SAMPLINGS["sampled"], rows)
    got, trace = decode(arm(*models(architecture, mode)), SAMPLINGS["sampled"], rows)
    assert got == wanted
    assert not any(step.get("missed") for step in trace.steps)


@pytest.mark.slow
def test_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))

    def arm(target, draft):
        return Speculative(target, Exact(), ModelDrafter(draft), 3, scoring=Reflective(PROMPT, 0.5))

    wanted, _ = decode(arm(*models("llama", None, 2)), SAMPLINGS["sampled"], 1)
    target, draft = models("llama", None, 2)
    target.execution, draft.execution = execution_of("compile"), execution_of("compile")
    got, trace = decode(arm(target, draft), SAMPLINGS["sampled"], 1)
    assert got == wanted
    assert not any(step.get("missed") for step in trace.steps)


def tabular():
    return TabularModel("target", 2, seed=1), TabularModel("draft", 2, seed=2)


@pytest.mark.parametrize("length", [1, 2])
def test_the_oracle(length):
    target, draft = tabular()
    for alpha in (0, 0.5):
        arm = Speculative(target, Exact(), ModelDrafter(draft), length, scoring=Reflective([7, 8], alpha, 2))
        found = distance_from_target(arm, target, 3)
        assert found < LOSSLESS if alpha == 0 else found > 1e-3


def by_hand(target, draft, alpha, tokens, prompt, prefix, copied=True):
    """The law of `tokens` tokens behind (0,), with drafts of one token under the exact rule."""
    law = defaultdict(float)

    def mixed(first, second):
        return torch.softmax((1 - alpha) * target.table(first).log() + alpha * target.table(second).log(), 0)

    def walk(text, weight):
        if len(text) > tokens:
            law[text[1 : tokens + 1]] += weight
            return
        q = draft.table(text)
        for x in range(2):
            again = (*text, x, *prompt, *(text[-prefix:] if prefix else ()))
            p, bonus = mixed(text, again), mixed((*text, x), (*again, x) if copied else again)
            kept = min(1.0, float(p[x] / q[x]))
            rest = (p - q).clamp(min=0)
            for y in range(2):
                walk((*text, x, y), weight * float(q[x]) * kept * float(bonus[y]))
                if kept < 1:
                    walk((*text, y), weight * float(q[x]) * (1 - kept) * float(rest[y] / rest.sum()))

    for first, share in enumerate(target.table((0,)).tolist()):
        walk((0, first), share)
    return law


def test_the_law_is_that_of_the_mixed_logits():
    target, draft = tabular()
    arm = Speculative(target, Exact(), ModelDrafter(draft), 1, scoring=Reflective([7, 8], 0.4, 2))

    def run(walk):
        (done,) = arm.generate([Request([0], "prompt")], Sampling(1.0), NeverStop(), 4, choices=walk)
        return tuple(done.tokens)

    law = output_law(run)
    assert total_variation(law, by_hand(target, draft, 0.4, 4, (7, 8), 2)) < 1e-12
    for wrong in (
        by_hand(target, draft, 0.3, 4, (7, 8), 2),
        by_hand(target, draft, 0.4, 4, (7,), 2),
        by_hand(target, draft, 0.4, 4, (7, 8), 0),
        by_hand(target, draft, 0.4, 4, (7, 8), 2, copied=False),
    ):
        assert total_variation(law, wrong) > 1e-3


def test_the_cost_is_recorded():
    target, draft = models("llama", None, 2)
    _, trace = decode(
        Speculative(target, Exact(), ModelDrafter(draft), 3, scoring=Reflective(PROMPT, 0.5, 2)), Sampling(), 1
    )
    read = 3 + len(PROMPT) + 2 + 3
    assert {row["read"] for row in trace.rounds} == {read}
    assert {row["proposed"] for row in trace.rounds} == {3}
    verified = [step["tokens"] for step in trace.steps if step["kind"] == "verify"]
    assert set(verified) == {read + 1}, "and the last decided token"
    assert edges(pd.DataFrame(trace.rounds))["draft>target"]["read_per_round"] == read
    _, plain = decode(Speculative(target, Exact(), ModelDrafter(draft), 3), Sampling(), 1)
    assert edges(pd.DataFrame(plain.rounds))["draft>target"]["read_per_round"] is None


def test_what_is_refused():
    target, draft = tabular()
    with pytest.raises(InputError, match="reads chains"):
        Speculative(target, Exact(), TreeDrafter(draft, [2, 1]), scoring=Reflective(PROMPT))
    with pytest.raises(InputError, match="empty"):
        Reflective("")
    with pytest.raises(InputError, match="alpha"):
        Reflective(PROMPT, 1.5)
    with pytest.raises(InputError, match="position_prefix"):
        Reflective(PROMPT, 0.5, 0)
    arm = Speculative(target, Exact(), ModelDrafter(draft), 1, scoring=Reflective("Correct this:"))
    with pytest.raises(InputError, match="knows no tokenizer"):
        list(arm.generate([Request([0], "prompt")], Sampling(), NeverStop(), 2))


def test_a_run_encodes_the_prompt():
    words = ["arms=[ar,reflective]", "limit=1", "tracker=none"]
    plan = prepare(compose(words))
    text = plan.config["arms"]["reflective"]["scoring"]["prompt"]
    ids = plan.arm_configs["reflective"]["scoring"]["prompt"]
    assert plan.family.tokenizer.decode(ids) == text
    longer = prepare(compose([*words, f"arms.reflective.scoring.prompt={ids + ids[:9]}"]))
    assert longer.arm_configs["reflective"]["scoring"]["prompt"] == ids + ids[:9]
    assert longer.slots == plan.slots + 9
