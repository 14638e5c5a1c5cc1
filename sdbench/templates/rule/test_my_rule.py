"""Prove `MyRule` by enumeration: no sampling, no tolerance beyond rounding."""

import pytest
import torch
from my_rule import MyRule

from sdbench.acceptance import Draft, Law, ProposalKind
from sdbench.acceptance.base import row
from sdbench.decoding import Speculative
from sdbench.drafting import ModelDrafter
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.sampling import Sampling, Scored

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


class WrongReplacement(MyRule):
    """Draw the replacement from p. It is a common mistake, and the output distribution is wrong."""

    def law(self, draft, p, memory=None):
        return Law(super().law(draft, p, memory).accepted, lambda n: row(p, n).probs)


def distance(rule) -> float:
    """Return the total variation distance between the output of speculative decoding with the rule and the target's own."""
    target, draft = TabularModel("target", 2, seed=1), TabularModel("draft", 2, seed=2)
    return distance_from_target(Speculative(target, rule, ModelDrafter(draft), draft_length=2), target, 3)


def one_token(rule, sampling) -> Law:
    """Return the law of a draft of one token, in one row for each of the 3 tokens."""
    tokens = torch.arange(3)[:, None]
    q = Scored(Q.log().expand(3, 1, 3), sampling)
    p = Scored(P.log().expand(3, 2, 3), sampling)
    return rule.law(Draft(tokens, torch.ones(3, dtype=torch.long), q, ProposalKind.SAMPLED), p)


# If no value makes your rule exact, remove this test, and `WrongReplacement` from the next one.
def test_lossless_at_lenience_1():
    assert distance(MyRule(1.0)) < LOSSLESS


@pytest.mark.parametrize("rule", [MyRule(0.5), WrongReplacement(1.0)], ids=["lenience 0.5", "wrong replacement"])
def test_the_oracle_finds_what_is_lossy(rule):
    assert distance(rule) > 1e-3


@pytest.mark.parametrize("lenience", [1.0, 0.5, 0.1])
def test_the_next_token_has_the_law_of_the_paper(lenience):
    """The law is min(q, p / l) + (1 - sum min(q, p / l)) norm((p - q)+)."""
    law = one_token(MyRule(lenience), Sampling(1.0))
    replaced = law.next_token(torch.zeros(3, dtype=torch.long))
    emitted = Q * law.accepted[:, 1] + ((Q * law.accepted[:, 0])[:, None] * replaced).sum(0)
    kept = torch.minimum(Q, P / lenience)  # of your rule: q(x) times the probability that it keeps x
    rest = (P - Q).clamp(min=0)
    replacement = rest / rest.sum()  # of your rule: P, if the replacement is drawn from p
    torch.testing.assert_close(emitted, kept + (1 - kept.sum()) * replacement, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("lenience", "kept"), [(1.0, [1, 0, 0]), (0.5, [1, 1, 0]), (0.1, [1, 1, 1])])
def test_greedy_keeps_tokens_near_the_best(lenience, kept):
    law = one_token(MyRule(lenience), Sampling(0.0))
    assert law.accepted[:, 1].tolist() == kept


@pytest.mark.parametrize("lenience", [0, 1.5, "much"])
def test_a_bad_value_is_refused(lenience):
    with pytest.raises(InputError, match=r"my_rule\.lenience"):
        MyRule(lenience)
