"""Length policies: what each says, what it remembers, and how it is applied to the rows of a batch."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact, ProposalKind
from sdbench.acceptance.draft import Draft
from sdbench.asynchronous import AMUSDDrafter, OnDemandDrafter, SSDDrafter, Uniform
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.drafting import (
    AdaptiveThreshold,
    DynamicTree,
    Fixed,
    Heuristic,
    LengthPolicy,
    MatchLength,
    ModelDrafter,
    PromptLookup,
    SpeculativeVerification,
    StagedDrafter,
    StopWhenUnsure,
    SuffixLookup,
    TreeDrafter,
    Window,
)
from sdbench.drafting.lengths import Limited, limited
from sdbench.drafting.lengths.times import StageTimes, stage_times
from sdbench.errors import InputError
from sdbench.exactness import TabularModel
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling, Scored
from sdbench.stopping import NeverStop
from tests.drafting.states import begun, key_of, model, state_of


def under(policy, proposer, length):
    return limited(proposer, policy, length, model("target"))


def test_the_fixed_policy_drafts_as_far_as_asked():
    state = state_of([[1, 2], [3, 4]])
    proposer = ModelDrafter(model())
    assert under(Fixed(), proposer, 4) is proposer, "it costs nothing"
    draft = begun(proposer, state, 4).propose(state, 4, key_of(state))
    assert draft.full
    assert draft.length.tolist() == [4, 4]


def test_it_stops_behind_the_first_token_below_the_threshold():
    scored = Scored(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log(), Sampling(0.1))
    # The probability is the un-warped one: at temperature 0.1 token 0 would have almost all mass.
    assert StopWhenUnsure(0.5).go_on(scored, torch.tensor([0, 1]), 0, [None] * 2).tolist() == [True, False]
    assert StopWhenUnsure(0.15).go_on(scored, torch.tensor([1, 2]), 0, [None] * 2).tolist() == [True, False]


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("stops", [True, False], ids=["token by token", "cut when finished"])
def test_every_kept_token_but_the_last_is_sure(threshold, stops, monkeypatch):
    monkeypatch.setattr(ModelDrafter, "stops", stops)
    lm, asked = model(), 6
    state = state_of([[row, row + 1] for row in range(4)], Sampling(1.0))
    proposer = under(StopWhenUnsure(threshold), ModelDrafter(lm), asked)
    draft = begun(proposer, state, asked).propose(state, asked, key_of(state))
    assert draft.q is not None
    for row, length in enumerate(draft.length.tolist()):
        own = draft.q.plain[row].gather(-1, draft.tokens[row, :, None])[:length, 0]
        assert (own[:-1] >= threshold).all()
        assert length == asked or own[-1] < threshold
    assert len(set(draft.length.tolist())) > 1, "the rows stop at different lengths"


def test_the_heuristic_is_that_of_transformers():
    policy, memory, asked = Heuristic(first=5), 5, []
    for accepted in (5, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0):
        length = policy.length(memory, 20)
        asked.append(length)
        memory = policy.learn(memory, length, min(accepted, length), 20)
    # +2 behind a whole draft, -1 behind any other, at least 1.
    assert asked == [5, 7, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1, 1]
    assert policy.start() == 5
    assert policy.length(9, 4) == 4
    assert policy.learn(9, 4, 3, 4) == 3, "the length does not grow beyond the most"


def transformers_heuristic(matches, length):
    """The schedule as `AssistedCandidateGenerator` of the installed transformers runs it."""
    from types import SimpleNamespace

    from transformers.generation.candidate_generator import AssistedCandidateGenerator

    made = SimpleNamespace(
        num_assistant_tokens=length,
        assistant_generation_config=SimpleNamespace(
            num_assistant_tokens_schedule="heuristic_transient", assistant_confidence_threshold=None
        ),
        assistant_model=SimpleNamespace(generation_config=SimpleNamespace(assistant_confidence_threshold=None)),
    )
    for matched in matches:
        drafted = int(made.num_assistant_tokens)
        yield drafted
        scores = torch.zeros(1, drafted + 1, 3)
        AssistedCandidateGenerator.update_candidate_strategy(made, None, scores, min(matched, drafted))  # pyright: ignore


def test_the_heuristic_equals_transformers_own_code():
    matches = [9, 9, 2, 0, 4, 9, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 9]
    policy, memory, asked = Heuristic(), 5, []
    for matched in matches:
        length = policy.length(memory, 100)
        asked.append(length)
        memory = policy.learn(memory, length, min(matched, length), 100)
    assert asked == list(transformers_heuristic(matches, 5))


def test_the_adaptive_threshold_follows_the_authors_formula():
    policy = AdaptiveThreshold(0.8, aim=0.9, step=0.01, smoothing=0.5, momentum=0.9)
    memory = policy.start()
    memory = policy.learn(memory, 4, 2, 8)  # kept 0.25 < 0.9: the threshold rises by 0.1 x 0.01
    assert memory == pytest.approx((0.801, 0.25))
    for _ in range(3):
        memory = policy.learn(memory, 8, 8, 8)  # kept 0.625, 0.8125, 0.90625; a whole draft of K tokens lowers nothing
    assert memory == pytest.approx((0.803, 0.90625))
    assert policy.learn(memory, 5, 5, 8).threshold == pytest.approx(0.802), "a whole shorter draft lowers it"
    scored = Scored(torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log(), Sampling())
    memories = [policy.start(), AdaptiveThreshold(0.5).start()]
    assert policy.go_on(scored, torch.tensor([0, 0]), 0, memories).tolist() == [False, True], "each row has its own"


def test_the_window_is_what_fits_beside_a_verification():
    times = StageTimes({1: 0.9, 5: 1.05}, drafting=0.8, drafted=4.0)
    policy = Window()
    assert policy.length(None, 16) == 4
    assert policy.calibrate(times)
    assert policy.length(None, 16) == 5  # 1.05 / (0.8 / 4)
    assert not policy.calibrate(times), "a window is set once"
    given = Window(3)
    assert not given.calibrate(times)
    assert given.length(None, 16) == 3


def test_the_times_of_a_stage():
    trace = Trace()
    for number in range(8):
        trace.round = number
        for role, kind, tokens, seconds in (("draft", "draft", 1, 0.1),) * 3 + (("target", "verify", 4, 1.0),):
            trace.end((0.0, None), role, kind, 1, tokens, 40)
            trace.steps[-1]["seconds"] = seconds * (5 if number > 5 else 1)
        trace.rounds.append({"verifier": "target", "proposed": 3})
    trace.round = -1
    trace.end((0.0, None), "target", "verify", 1, 9, 40)
    times = stage_times(trace, "target", {"draft"})
    assert times is not None
    assert (times.verify, times.drafting, times.drafted) == ({4: 1.0}, pytest.approx(0.3), 3.0)
    assert stage_times(trace, "qualifier", {"draft"}) is None


@pytest.mark.parametrize("proposer", [PromptLookup(max_ngram=10), SuffixLookup(1)], ids=["lookup", "suffix"])
def test_the_match_gives_the_length(proposer):
    rows = [[1, 2, 3, 4, 5, 0, 0, 1, 2], [6, 3, 3, 3, 6], [2, 5, 4, 3, 1, 1, 0, 2, 5, 4]]
    state = state_of(rows)
    drafts = [
        begun(under(MatchLength(factor, offset), proposer, 6), state, 6).propose(state, 6, key_of(state))
        for factor, offset in ((1, 0), (2, 0), (1, 1), (0.4, 0))
    ]
    # The matches have 2, 1 and 3 tokens. Behind the match of row 1 stand four tokens only.
    assert [draft.length.tolist() for draft in drafts] == [[2, 1, 3], [4, 2, 6], [3, 2, 4], [0, 0, 1]]
    assert [draft.tokens.shape[1] for draft in drafts] == [3, 6, 4, 1]
    assert drafts[0].tokens[2, :3].tolist() == [3, 1, 1]


def sv(**knobs):
    return SpeculativeVerification(TabularModel("companion", 7, 3, 0.8), **knobs)


def test_goodput_ends_the_draft():
    policy = sv(verify_seconds=[1.0, 1.5, 2.0], prior=1.0)
    memory = policy.start()
    # 1 token: 1.9 / 1.5. A second one: at S = 0.9 (1.9 + 0.81) / 2 is more, at S = 0.2 (1.9 + 0.18) / 2 is less.
    assert policy.worth([(0.9, 0.9), (0.9, 1.0)], memory) == 2
    assert policy.worth([(0.9, 0.9), (0.2, 1.0)], memory) == 1
    # A of the token in question is not looked at; A of an earlier one is.
    assert policy.worth([(0.9, 0.9), (0.9, 0.0)], memory) == 2
    assert policy.worth([(0.9, 0.1), (0.9, 1.0)], memory) == 1
    assert sv(verify_seconds=[1.0, 1.0]).worth([(0.3, 0.3)] * 6, memory) == 6, "a verification that costs nothing"
    # Without times every length has its turn, so that a warm-up measures them.
    fresh, unmeasured = sv(), []
    for _ in range(5):
        unmeasured.append(fresh.worth([(0.1, 0.1)] * 4, memory))
        memory = fresh.learn(memory, 4, 0, 4)
    assert unmeasured == [1, 2, 3, 4, 1]


def test_acceptance_is_counted_by_overlap_and_ratio():
    policy = sv(bins=2, prior=2.0)
    memory = policy.start()
    memory.signals = [(0.9, 0.9), (0.9, 0.2), (0.1, 0.1), (0.1, 0.1)]
    memory = policy.learn(memory, 4, 1, 4)  # the first kept, the second rejected, the others never tested
    assert policy.chance(0.9, 0.9, memory) == pytest.approx((1 + 2 * 0.9) / 3)
    assert policy.chance(0.9, 0.2, memory) == pytest.approx((0 + 2 * 0.2) / 3)
    assert policy.chance(0.9, None, memory) == pytest.approx((1 + 2 * 0.9) / 4)
    assert policy.chance(0.1, 0.1, memory) == pytest.approx(0.1)


def test_measured_times_are_taken_once():
    policy = sv()
    assert not policy.calibrate(StageTimes({5: 1.0}, drafting=0.5, drafted=4.0)), "one length shows no difference"
    assert policy.calibrate(StageTimes({2: 1.1, 3: 1.2, 5: 1.4}, drafting=0.5, drafted=4.0))
    assert policy.verify_seconds == pytest.approx([1.0, 1.1])
    assert policy._seconds(5) == pytest.approx(0.5 + 1.4)
    assert policy.draft_seconds == 0.5
    assert not policy.calibrate(StageTimes({1: 9.0}, drafting=0.5, drafted=4.0))


def decoded(decoder, rows=1, prompts=4, new=7, sampling=None):
    requests = [Request([number % 5, number % 3, 1, 2][: 2 + number % 3], str(number)) for number in range(prompts)]
    trace = Trace()
    finished = decoder.generate(requests, sampling or Sampling(1.0), NeverStop(), new, seed=5, rows=rows, trace=trace)
    tokens = {done.request.name: done.tokens for done in finished}
    trace.close()
    keys = ("sequence", "edge", "round", "inner_round", "proposed", "accepted")
    return tokens, sorted(tuple(row[key] for key in keys) for row in trace.rounds)


def three():
    return [TabularModel(name, 7, seed, 1.2) for name, seed in (("target", 1), ("qualifier", 1), ("draft", 1))]


POLICIES = {
    "heuristic": lambda: Heuristic(2),
    "confidence": lambda: StopWhenUnsure(0.3),
    "adaptive threshold": lambda: AdaptiveThreshold(0.4, step=0.1),
    "window": lambda: Window(2),
    "speculative verification": lambda: sv(verify_seconds=[1.0, 1.3], draft_seconds=1.0),
}


def stages(name, policy):
    target, qualifier, draft = (TabularModel(role, 7, seed, 1.2) for role, seed in zip("tqd", (1, 2, 3), strict=True))
    one = ModelDrafter(draft)
    if name == "sd":
        return Speculative(target, Exact(), one, 4, policy())
    if name == "outer":
        return Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), one, 2), 4, policy())
    if name == "outer, truncated":
        return Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), one, 2, truncate=True), 4, policy())
    if name == "inner":
        return Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), one, 3, lengths=policy()), 4)
    if name == "both":
        inner = StagedDrafter(qualifier, Exact(), one, 3, lengths=Heuristic(2))
        return Speculative(target, Exact(), inner, 4, policy())
    if name == "tree below":
        tree = StagedDrafter(qualifier, Exact(), TreeDrafter(draft, [2, 1]), 2)
        return Speculative(target, Exact(), tree, 4, policy())
    assert name == "ssd"
    return Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), process=False), 4, policy())


@pytest.mark.parametrize(
    ("where", "policy"),
    [
        pytest.param(where, policy, marks=[] if where in ("sd", "both", "ssd") else pytest.mark.slow)
        for where in ("sd", "outer", "outer, truncated", "inner", "both", "tree below", "ssd")
        for policy in POLICIES
        if (where, policy) != ("ssd", "speculative verification")
    ],
)
def test_the_batch_does_not_matter(where, policy):
    """Tokens, and every verification of every stage: what a row remembers is its sequence's own."""
    decoder = stages(where, POLICIES[policy])
    alone = decoded(decoder)
    assert decoded(decoder, rows=3) == alone
    assert decoded(decoder) == alone, "a session leaves nothing for the next one"
    if policy != "window":
        outermost = [row[4] for row in alone[1] if row[1].endswith(">t") or where == "inner"]
        assert len(set(outermost)) > 1, "the length varies"


class Leaking(Heuristic):
    """Wrong: what it remembers is not reset with the sequence."""

    def __init__(self):
        super().__init__(2)
        self.last = 2

    def start(self):
        return self.last

    def learn(self, memory, proposed, accepted, most):
        self.last = super().learn(memory, proposed, accepted, most)
        return self.last


def test_a_memory_that_outlives_its_sequence_is_seen():
    decoder = stages("sd", Leaking)
    assert decoded(decoder)[1] != decoded(decoder, rows=3)[1]


@pytest.mark.parametrize("policy", ["heuristic", "confidence", "adaptive threshold", "window"])
def test_the_server_of_ssd_gives_the_lengths_of_synchronous_decoding(policy):
    (tokens, rounds), (other, others) = (decoded(stages(where, POLICIES[policy])) for where in ("sd", "ssd"))
    assert tokens == other
    assert rounds == others


def test_the_server_knows_where_a_short_draft_ends():
    """Behind a whole short draft the dropped token is an outcome like any other, and mostly the likeliest one."""
    target, draft = TabularModel("target", 7, 1, 1.2), TabularModel("draft", 7, 1, 1.2)
    decoder = Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 4, Window(1))
    trace = Trace()
    requests = [Request([number % 7, number // 7], str(number)) for number in range(10)]
    for _ in decoder.generate(requests, Sampling(), NeverStop(), 12, trace=trace):
        pass
    trace.close()
    assert all(row["proposed"] == row["accepted"] == 1 for row in trace.rounds)
    assert all(row["hit"] for row in trace.rounds)


def test_drafting_stops_early():
    """A drafter that draws token by token saves the steps behind the end."""
    target, _, draft = three()
    steps = []
    for policy in (None, Window(1)):
        trace = Trace()
        decoder = Speculative(target, Exact(), ModelDrafter(draft), 4, policy)
        for _ in decoder.generate([Request([0], "a")], Sampling(), NeverStop(), 9, trace=trace):
            pass
        drafts = [step for step in trace.steps if step["kind"] == "draft"]
        steps.append(len(drafts) / len(trace.rounds))
    assert steps == [4, 1]


def test_a_policy_above_a_stage_saves_inner_rounds():
    target, qualifier, draft = three()
    inner = StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 1)
    most = []
    for policy in (None, Window(2)):
        _, rounds = decoded(Speculative(target, Exact(), inner, 8, policy))
        most.append(max(row[3] for row in rounds))
    assert most == [3, 0], "all models agree, so an inner round gives two tokens"


class OldPolicy:
    def go_on(self, scored, token):
        return None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda t, q, d: Speculative(t, None, TreeDrafter(d, [2, 1]), 0, Heuristic()), "drafts token trees"),
        (lambda t, q, d: Speculative(t, None, DynamicTree(d), 0, StopWhenUnsure()), "drafts token trees"),
        (lambda t, q, d: Speculative(t, None, PromptLookup(), 4, StopWhenUnsure()), "lookup has none"),
        (lambda t, q, d: Speculative(t, None, PromptLookup(), 4, SpeculativeVerification(q)), "lookup has none"),
        (lambda t, q, d: Speculative(t, None, ModelDrafter(d), 4, MatchLength()), "copies behind a match"),
        (lambda t, q, d: Speculative(t, None, SSDDrafter(d), 4, MatchLength()), "copies behind a match"),
        (lambda t, q, d: Speculative(t, None, SSDDrafter(d), 4, SpeculativeVerification(q)), "must know the length"),
        (lambda t, q, d: Speculative(t, None, AMUSDDrafter(d), 4, Heuristic()), "AMUSDDrafter takes no length policy"),
        (lambda t, q, d: Speculative(t, None, OnDemandDrafter(d), 4, Heuristic()), "takes no length policy"),
        (lambda t, q, d: Speculative(t, lengths=Heuristic()), "has no proposer"),
        (lambda t, q, d: Speculative(t, None, ModelDrafter(d), 4, OldPolicy()), "must be a sdbench"),  # pyright: ignore
        (lambda t, q, d: Speculative(t, None, ModelDrafter(d), 4, SpeculativeVerification(d)), "drafts in this arm"),
        (lambda t, q, d: Speculative(t, None, ModelDrafter(d), 4, SpeculativeVerification(t)), "verifies in this arm"),
        (lambda t, q, d: StopWhenUnsure(1.1), "lengths.threshold"),
        (lambda t, q, d: Heuristic(0), "lengths.first"),
        (lambda t, q, d: Window(0), "lengths.tokens"),
        (lambda t, q, d: SpeculativeVerification(q, verify_seconds=[1.0]), "lengths.verify_seconds"),
    ],
)
def test_refusals(made, said):
    with pytest.raises(InputError, match=said):
        made(*three())


def test_pearl_has_its_own_window():
    target, _, draft = three()
    with pytest.raises(TypeError, match="lengths"):
        Pearl(target, OnDemandDrafter(draft, process=False), lengths=Heuristic())  # pyright: ignore


def test_a_finished_draft_without_tokens_is_left_alone():
    empty = torch.zeros(1, 0, dtype=torch.long)
    state = state_of([[1, 2, 3]])
    proposer = begun(under(Heuristic(), PromptLookup(), 4), state, 4)
    assert proposer.propose(state, 4, key_of(state)).tokens.shape == empty.shape
    proposer.commit(np.array([3]))
    assert isinstance(proposer, Limited)
    assert proposer._rows.memory == [5], "an empty draft teaches nothing"
    assert LengthPolicy().cut(Draft(empty, empty.sum(1), None, ProposalKind.DETERMINISTIC), [None]) is None
