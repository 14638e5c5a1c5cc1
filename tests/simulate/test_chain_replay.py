"""The replay of chains over answers against the passes of real decoding."""

from collections import Counter

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import PromptLookup, hierarchy
from sdbench.exactness import TabularModel
from sdbench.harness import level_probe
from sdbench.harness.config import compose
from sdbench.harness.level_probe import LOOKUP, config_of_all_roles, measure_levels
from sdbench.harness.plan import load, prepare
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.simulate.chain_replay import Answers, ChainReplay
from sdbench.stopping import NeverStop

VOCAB, NEW = 24, 14
PROMPTS = [[(3 * token + 1) % VOCAB, token, (5 * token + 2) % VOCAB, token] for token in range(VOCAB)]
CHAINS = [
    (("target", "draft"), (4,)),
    (("target", "qualifier", "draft"), (6, 3)),
    (("target", "qualifier", "draft"), (5, 5)),
    (("target", "qualifier", "middle", "draft"), (7, 4, 2)),
]


class Alike(TabularModel):
    """A model that has the target's table behind most contexts. seen: the last tokens that it looks at (None: all)."""

    seen = 1
    share = 0.0

    def table(self, context):
        context = context if self.seen is None else context[-self.seen :]
        if context not in self.tables:
            seed = 0 if hash((*context, self.seed)) % 100 < 100 * self.share else self.seed
            self.tables[context] = TabularModel(self.name, self.vocab, seed).table(context)
        return self.tables[context]


def family(seen):
    """Return a target and models that agree with it more or less often."""
    models = {}
    for seed, (name, share) in enumerate({"target": 0.0, "qualifier": 0.9, "middle": 0.9, "draft": 0.8}.items()):
        models[name] = Alike(name, VOCAB, seed)
        models[name].seen, models[name].share = seen, share
    return models


def decoded(models, levels, lengths, new=NEW, prompts=PROMPTS, stop=None):
    """Decode one prompt after the other. Return the answers and the passes."""
    below = [models[level] for level in levels[1:] if level != "lookup"]
    leaf = PromptLookup(**LOOKUP) if levels[-1] == "lookup" else None
    trace, proposer = Trace(), hierarchy(below, list(lengths[1:]), leaf) if lengths else None
    decoder = Speculative(models["target"], Exact(), proposer, lengths[0] if lengths else 0)
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(prompts)]
    answers = [item.tokens for item in decoder.generate(requests, Sampling(), stop or NeverStop(), new, trace=trace)]
    trace.close()
    steps = [step for step in trace.steps if step["kind"] != "prefill"]
    return answers, Counter((step["role"], step["kind"], step["tokens"]) for step in steps)


def recorded(models, answers):
    """Return what the models pick along the answers."""
    texts = list(zip(PROMPTS, answers, strict=True))
    places = [(*prompt, *answer[:end]) for prompt, answer in texts for end in range(len(answer))]
    return Answers(
        tokens=[token for answer in answers for token in answer],
        before=[place[-1] for place in places],
        starts=[number * NEW for number in range(len(answers))],
        choices={name: [int(model.table(place).argmax()) for place in places] for name, model in models.items()},
        copied=level_probe._copied(texts)[0],
    )


def models_only(passes):
    return Counter({one: count for one, count in passes.items() if one[1] != "search"})


@pytest.fixture(scope="module", params=[1, None], ids=["one token", "the whole text"])
def case(request):
    models = family(request.param)
    answers, alone = decoded(models, ("target",), ())
    replay = ChainReplay(recorded(models, answers))
    assert replay.passes(("target",), ()) == alone
    return request.param, models, answers, replay


@pytest.mark.parametrize(("levels", "lengths"), CHAINS)
def test_the_passes_are_those_of_decoding(case, levels, lengths):
    """A model that sees one token picks the same behind each place with this last token, so nothing is unknown then."""
    seen, models, answers, replay = case
    found, real = decoded(models, levels, lengths)
    assert found == answers
    passes = replay.passes(levels, lengths)
    if seen == 1 or len(levels) == 2:
        assert passes == real
    else:
        for level in levels:
            ours, theirs = (sum(n for (name, *_), n in one.items() if name == level) for one in (passes, real))
            assert ours == pytest.approx(theirs, rel=0.1), level
    widths = {width for level, _, width in real if level == "draft"}
    assert max(widths) == len(levels), "a draft also reads what the levels above it added"


@pytest.mark.parametrize("length", [1, 4])
def test_a_look_up_below_the_target_is_exact(case, length):
    _, models, answers, replay = case
    found, real = decoded(models, ("target", "lookup"), (length,))
    assert found == answers
    passes = replay.passes(("target", "lookup"), (length,))
    assert models_only(passes) == real
    assert sum(n for one, n in passes.items() if one[1] == "search") == sum(real.values())


def test_a_level_that_delivered_what_was_asked_would_take_other_passes(case):
    """The negative control: without the overshoot of buffers, the target reads 6 + 1 tokens in each pass."""
    replay = case[-1]
    widths = {width for level, _, width in replay.passes(("target", "qualifier", "draft"), (6, 3)) if level == "target"}
    assert max(widths) > 7


@pytest.mark.slow
@torch.inference_mode()
def test_the_tiny_family(monkeypatch):
    """Exact with two levels, also for an early exit; within 10 % with more of them."""
    monkeypatch.setattr(level_probe, "REPEATS", 1)
    plan = prepare(config_of_all_roles(compose(["arms=[ar]", "limit=4", "max_new_tokens=48"])))
    models = load(plan)
    models["target[4]"] = models["target"].truncated(4)
    prompts = [tokens for _, tokens in plan.prompts]
    decode = {"prompts": prompts, "new": 48}
    answers, _ = decoded(models, ("target",), (), **decode)
    probe = measure_levels(plan, list(zip(prompts, answers, strict=True)))
    replay = ChainReplay(probe.answers)
    for levels, lengths in [
        (("target", "draft"), (6,)),
        (("target", "target[4]"), (3,)),
        (("target", "qualifier", "draft"), (8, 3)),
        (("target", "target[4]", "draft", "lookup"), (8, 4, 1)),
    ]:
        found, real = decoded(models, levels, lengths, **decode)
        assert found == answers
        passes = models_only(replay.passes(levels, lengths))
        if len(levels) == 2:
            assert passes == real
        for level in models:
            ours, theirs = (sum(n for (name, *_), n in one.items() if name == level) for one in (passes, real))
            assert ours == pytest.approx(theirs, rel=0.1, abs=2), (levels, level)
