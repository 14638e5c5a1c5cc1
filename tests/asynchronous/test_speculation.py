"""The speculation server on real architectures: the tokens of synchronous decoding, hits where the ranks say so."""

import numpy as np
import pytest
import torch

from sdbench.acceptance import Exact, Fuzzy
from sdbench.asynchronous import Geometric, Listed, Lookup, Neural, Random, SSDDrafter, Undrafted, Uniform
from sdbench.asynchronous.protocol import Outcome
from sdbench.asynchronous.speculation import SpeculationServer
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter, StagedDrafter
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.sampling import Sampler, Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model

NEW = 16
SAMPLINGS = {"greedy": Sampling(), "sampled": Sampling(0.8, top_k=30, top_p=0.95)}


def requests(count=5):
    generator = torch.Generator().manual_seed(0)
    return [Request(torch.randint(0, V, (4 + 3 * i,), generator=generator).tolist(), str(i)) for i in range(count)]


def pair(architecture):
    """A target, and a draft that agrees with it often."""
    near = random_model(architecture)
    torch.manual_seed(7)
    for weight in near.parameters():
        weight.data += 0.05 * weight.std().nan_to_num() * torch.randn_like(weight)
    return Transformer("target", random_model(architecture)), Transformer("draft", near)


def decode(decoder, sampling, rows=1, new=NEW):
    trace = Trace()
    finished = {
        item.request.name: item.tokens
        for item in decoder.generate(requests(), sampling, NeverStop(), new, seed=3, rows=rows, trace=trace)
    }
    trace.close()
    return finished, trace


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen3-sliding", *(pytest.param(a, marks=pytest.mark.slow) for a in ("gemma3", "gpt2"))]
)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_tokens_are_those_of_synchronous_decoding(architecture, sampling):
    """With the neural back-up and C = 1 the draws have the same names and laws, hit or miss, in any batch."""
    target, draft = pair(architecture)
    expected, plain = decode(Speculative(target, Exact(), ModelDrafter(draft), 3), SAMPLINGS[sampling])
    for rows in (1, 3):
        got, trace = decode(
            Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 3), SAMPLINGS[sampling], rows
        )
        assert got == expected
        hits = [row["hit"] for row in trace.rounds]
        assert any(hits)
        if rows == 1:
            # A synchronous run logs the ranks that the server finds.
            for rank in ("rank", "first_rank"):
                assert [row.get(rank) for row in trace.rounds] == [row.get(rank) for row in plain.rounds]
            first = [row for row in trace.rounds if row["round"] == 0]
            assert [row["hit"] for row in first] == [row["first_rank"] <= 3 for row in first]
        else:
            assert not all(hits), "with several rows the server does not speculate for first tokens"


@pytest.mark.parametrize("backup", [Neural(whole_batch=True), Lookup(), Random(), Undrafted()])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_backup_gives_the_greedy_tokens(backup, rows):
    target, draft = pair("llama")
    expected, _ = decode(Speculative(target), Sampling())
    got, trace = decode(
        Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), backup, process=False), 3), Sampling(), rows
    )
    assert got == expected
    assert any(row["hit"] for row in trace.rounds)
    if backup.whole_batch:  # one miss makes every row miss
        together = {}
        for row in trace.rounds:
            together.setdefault(row["asked"], set()).add(row["hit"])
        assert set(map(len, together.values())) == {1}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_full_fan_out_always_hits(sampling):
    target, draft = pair("llama")
    _, trace = decode(
        Speculative(target, Exact(), SSDDrafter(draft, Uniform(V), process=False), 2), SAMPLINGS[sampling]
    )
    assert all(row["hit"] for row in trace.rounds if row["round"] > 0)


def test_without_hits_the_rounds_are_those_of_synchronous_decoding():
    target, draft = pair("llama")
    _, plain = decode(Speculative(target, Exact(), ModelDrafter(draft), 3), Sampling())
    _, trace = decode(Speculative(target, Exact(), SSDDrafter(draft, NoBranches(), process=False), 3), Sampling())
    assert not any(row["hit"] for row in trace.rounds)
    assert [row["accepted"] for row in trace.rounds] == [row["accepted"] for row in plain.rounds]


class NoBranches:
    """A fan-out of zero at every accepted length: the cache stays empty."""

    def counts(self, length, vocab, hit):
        return (0,) * (length + 1)

    def learn(self, length, hit, accepted, rank):
        return None


def test_hits_are_what_the_ranks_say():
    """Greedy: an outcome is held exactly if its rank is within the fan-out at its place."""
    target, draft = pair("llama")
    fan_out = Geometric(14, acceptance=0.7, exponent=1.0)
    _, trace = decode(Speculative(target, Exact(), SSDDrafter(draft, fan_out, process=False), 4), Sampling(), new=24)
    counts = fan_out.counts(4, V, True)
    checked = 0
    for row, following in zip(trace.rounds, trace.rounds[1:], strict=False):
        if following["sequence"] == row["sequence"]:
            assert following["hit"] == (row["rank"] <= counts[row["accepted"]])
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_pyramid_over_it_gives_the_greedy_tokens(rows):
    target, draft = pair("llama")
    qualifier = Transformer("qualifier", random_model("llama", layers=2))
    expected, _ = decode(Speculative(target), Sampling())
    inner = StagedDrafter(qualifier, Exact(), SSDDrafter(draft, Uniform(3), process=False), 2)
    got, trace = decode(Speculative(target, Exact(), inner, 4), Sampling(), rows)
    assert got == expected
    hits = [row["hit"] for row in trace.rounds if row["edge"] == "draft>qualifier"]
    assert np.mean(hits) > 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_lossy_rule_s_outcomes_rank_as_in_synchronous_decoding(sampling):
    """A lossy rule may reject a token and draw the same one again. Its rank is then its place in the draft's order."""
    target, draft = pair("llama")
    logs = []
    for proposer in (ModelDrafter(draft), SSDDrafter(draft, Uniform(3), process=False)):
        _, trace = decode(
            Speculative(target, Fuzzy(form="threshold", threshold=1e-7), proposer, 3), SAMPLINGS[sampling]
        )
        logs.append([(row.get("rank"), row.get("first_rank")) for row in trace.rounds])
    assert logs[0] == logs[1]
    assert any(rank == 1 for rank, _ in logs[0])


def test_in_one_process_the_server_speculates_after_the_prompt_only():
    target, draft = pair("llama")
    _, trace = decode(Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 3), Sampling())
    ends = {step["begun"] for step in trace.steps if step["kind"] == "prefill" and step["role"] == "draft"}
    trees = [step["begun"] for step in trace.steps if step["kind"] == "tree" and step["round"] == -1]
    assert len(trees) == 3 * len(ends)
    assert min(trees) > min(ends)


def test_a_fan_out_that_does_not_fit_is_refused_before_anything_runs():
    from sdbench.errors import InputError

    target, draft = pair("llama")
    with pytest.raises(InputError, match="needs 5"):
        Speculative(target, Exact(), SSDDrafter(draft, Listed([1, 2]), process=False), 4).max_lookahead()


class Overtaken:
    """A caller whose next outcome arrives before the first depth is done."""

    def __init__(self, outcome):
        self.arrived = outcome

    def ready(self):
        return True

    def outcome(self):
        return self.arrived


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("hits", [True, False])
def test_a_tree_is_left_for_the_outcome_that_is_there_and_nothing_is_lost(sampling, hits):
    """An outcome without a branch ends the work; one with a branch leaves only this branch. The answer is the same."""

    def served(overtaken):
        server = SpeculationServer(pair("llama")[1], Uniform(2))
        server.open(1, 64, 3, Sampler(SAMPLINGS[sampling]))
        server.admit(0, [5, 3, 8], 7)
        streams = np.array([7], np.uint64)
        first = server.serve(Outcome([True], [4], [3], [[9]], streams))
        server.work()
        held = [token for _, token in server.cache.branches[0]]
        token = held[-1] if hits else min(set(range(V)) - set(held))
        second = Outcome([True], [8], [7], [[token]], streams)
        server.work(Overtaken(second) if overtaken else None)
        kept = server.cache.drafted is not None
        alone = {step["kind"] for step in server.state.trace.steps} >= {"branch"}
        assert alone == (overtaken and hits)
        answer = server.serve(second)
        server.work()
        assert server.cache.drafted is not None
        return (
            kept,
            answer.hit,
            first.tokens.tolist(),
            answer.tokens.tolist(),
            [server.cache.drafted.of([branch])[0].tolist() for branch in range(server.cache.drafted.width)],
        )

    whole, left = served(False), served(True)
    assert whole[1] == left[1] == [hits]
    assert whole[0]
    assert left[0] is hits
    assert whole[2:] == left[2:]


def test_glue_reads_one_token_where_the_branch_was_read_already():
    target, draft = pair("qwen3-sliding")
    _, trace = decode(Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 3), Sampling(), 3)
    assert {step["tokens"] for step in trace.steps if step["kind"] == "glue"} == {1}
    _, trace = decode(
        Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), Lookup(), process=False), 3), Sampling(), new=24
    )
    assert {step["tokens"] for step in trace.steps if step["kind"] == "glue"} > {1}, (
        "the look-up read no token, so all are read now"
    )


def test_the_last_positions_of_a_model_that_learned_them():
    """Branches reach beyond the last decoded token, but not beyond the table of positions."""
    target, draft = pair("gpt2")
    prompt = [Request([3] * (draft.max_positions - 8), "long")]
    ssd = Speculative(target, Exact(), SSDDrafter(draft, Uniform(2), process=False), 4)
    tokens = {}
    for name, decoder in (("ar", Speculative(target)), ("ssd", ssd)):
        (finished,) = decoder.generate(prompt, Sampling(), NeverStop(), 3, rows=1)
        tokens[name] = finished.tokens
    assert tokens["ssd"] == tokens["ar"]


def test_in_one_process_the_pool_stays_from_session_to_session():
    target, draft = Transformer("target", random_model("llama", 2)), Transformer("draft", random_model("llama", 2))
    decoder = Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), process=False), 4)
    held = []
    for _ in range(3):
        list(decoder.generate([Request([1, 2, 3], "a")], Sampling(), NeverStop(), 8))
        held.append(draft.bytes)
    assert held[0] == held[1] == held[2]
