"""The replay of look-up over answers against the rounds of real decoding."""

import pytest

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import PromptLookup
from sdbench.exactness import TabularModel
from sdbench.harness.lookup_replay import drafted_by_round
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop

PROMPTS = [[1, 2, 0, 1, 2], [0, 0], [2, 1, 2, 1, 2, 1, 0, 2, 1]]


def decoded(decoder, new):
    """Return the answers of one sequence at a time, and the drafted tokens of their rounds."""
    trace, answers = Trace(), []
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(PROMPTS)]
    for item in decoder.generate(requests, Sampling(), NeverStop(), new, trace=trace):
        answers.append(item.tokens)
    return answers, [row["proposed"] for row in trace.rounds]


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(
    "knobs", [{}, {"match": "last"}, {"min_ngram": 2}, {"max_ngram": 10, "min_ngram": 2, "per_match": 1}]
)
def test_the_replay_drafts_what_decoding_drafts(knobs, length):
    target = TabularModel("target", 3, 0)
    answers, _ = decoded(Speculative(target), 20)
    found, drafted = decoded(Speculative(target, Exact(), PromptLookup(**knobs), length), 20)
    assert found == answers
    assert sum(drafted) > 0
    assert len(drafted) < 3 * 19, "no draft was kept, so the test shows little"
    replayed = drafted_by_round(PromptLookup(**knobs), list(zip(PROMPTS, answers, strict=True)), length)
    assert sorted(replayed) == sorted(drafted)
