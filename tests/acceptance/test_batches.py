"""A row's law depends on its own tokens only: not on other rows, not on padding, and not on the host."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sdbench.acceptance import (
    Block,
    Cascade,
    Consultant,
    Draft,
    FLy,
    Forced,
    Fuzzy,
    Mentored,
    ProposalKind,
    Recorded,
    ZhouJoint,
)
from sdbench.sampling import Sampling, Scored

from .definitions import DEFINITIONS

RULES = {
    **{name: definition[0] for name, definition in DEFINITIONS.items()},
    "consultant": Consultant(1.5),
    "consultant, reset": Consultant(1.5, initial="zero", reset="rejection"),
    "mentored": Mentored(0.1),
    "fly": FLy(2, 0.1),
    "fly, 1": FLy(1, 0.0, draws=1),
    "block": Block(),
    "zhou_joint": ZhouJoint(),
    "forced": Forced(0.7),
    "recorded": Recorded([2, 0, 5]),
}
SETTINGS = [Sampling(temperature=0.0), Sampling(temperature=0.8, top_p=0.9)]


def ragged(sampling, kind=ProposalKind.SAMPLED, rubbish=0.0):
    """Five rows of 0 to 3 drafted tokens; what stands in the padding is `rubbish` (and token 0)."""
    generator = torch.Generator().manual_seed(3)
    B, K, V = 5, 3, 6
    length = torch.tensor([3, 0, 2, 1, 3])
    p = 1.5 * torch.randn(B, K + 1, V, generator=generator, dtype=torch.float64)
    q = p[:, :K] + 0.5 * torch.randn(B, K, V, generator=generator, dtype=torch.float64)
    tokens = torch.randint(V, (B, K), generator=generator)
    padding = torch.arange(K) >= length[:, None]
    q[padding] = rubbish
    for b in range(B):
        p[b, length[b] + 1 :] = rubbish
    tokens[padding] = 0
    scored = None if kind is ProposalKind.DETERMINISTIC else Scored(q, sampling)
    return Draft(tokens, length, scored, kind), Scored(p, sampling)


def alone(draft, p, b):
    """Row b without its padding."""
    n = int(draft.length[b])
    q = None if draft.q is None else Scored(draft.q.logits[b : b + 1, :n], p.sampling)
    one = replace(draft, tokens=draft.tokens[b : b + 1, :n], length=draft.length[b : b + 1], q=q)
    return one, Scored(p.logits[b : b + 1, : n + 1], p.sampling)


@pytest.mark.parametrize("kind", [ProposalKind.SAMPLED, ProposalKind.DETERMINISTIC])
@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", RULES)
def test_rows_do_not_depend_on_each_other_nor_on_padding(name, sampling, kind):
    rule = RULES[name]
    draft, p = ragged(sampling, kind, float("nan"))
    memory = rule.start(5)
    if memory is not None:
        memory = torch.rand(5, memory.shape[1], generator=torch.Generator().manual_seed(1)).double()
    law = rule.law(draft, p, memory)
    for b in range(5):
        n = int(draft.length[b])
        single = rule.law(*alone(draft, p, b), None if memory is None else memory[b : b + 1])
        torch.testing.assert_close(law.accepted[b, : n + 1], single.accepted[0], atol=1e-14, rtol=0)
        assert (law.accepted[b, n + 1 :] == 0).all()
        for kept in range(n + 1):
            at = torch.minimum(torch.full((5,), kept), draft.length)
            following = single.next_token(torch.tensor([kept]))[0]
            torch.testing.assert_close(law.next_token(at)[b], following, atol=1e-14, rtol=0)
            if law.memory is not None and single.memory is not None:
                assert law.memory(at)[b].tolist() == pytest.approx(single.memory(torch.tensor([kept]))[0].tolist())


@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", RULES)
def test_a_draft_of_nothing(name, sampling):
    """K = 0: nothing is kept for certain, and the verifier goes on alone."""
    p = Scored(torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0)), sampling)
    q = Scored(torch.zeros(2, 0, 5), sampling)
    draft = Draft(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long), q, ProposalKind.SAMPLED)
    law = RULES[name].law(draft, p, RULES[name].start(2))
    assert law.accepted.tolist() == [[1.0], [1.0]]
    torch.testing.assert_close(law.next_token(torch.zeros(2, dtype=torch.long)), p.probs[:, 0])


@pytest.mark.parametrize("sampling", SETTINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", RULES)
def test_a_law_is_made_without_waiting_for_the_device(name, sampling):
    """Fake tensors have no values: whatever asks for one (`.item()`, `if tensor:`) raises."""
    with FakeTensorMode():
        p = Scored(torch.randn(2, 3, 7), sampling)
        q = Scored(torch.randn(2, 2, 7), sampling)
        draft = Draft(torch.zeros(2, 2, dtype=torch.long), torch.ones(2, dtype=torch.long), q, ProposalKind.SAMPLED)
        law = RULES[name].law(draft, p, RULES[name].start(2))
        assert law.next_token(torch.ones(2, dtype=torch.long)).shape == (2, 7)
        if law.memory is not None:
            assert law.memory(torch.ones(2, dtype=torch.long)).shape == RULES[name].start(2).shape


@pytest.mark.parametrize("name", RULES)
def test_half_precision_logits_give_single_precision_laws(name):
    generator = torch.Generator().manual_seed(0)
    p = Scored(torch.randn(2, 3, 7, generator=generator).bfloat16(), SETTINGS[1])
    q = Scored(torch.randn(2, 2, 7, generator=generator).bfloat16(), SETTINGS[1])
    draft = Draft(torch.zeros(2, 2, dtype=torch.long), torch.tensor([2, 1]), q, ProposalKind.SAMPLED)
    law = RULES[name].law(draft, p, RULES[name].start(2))
    assert law.accepted.dtype == law.next_token(torch.tensor([0, 1])).dtype == torch.float32
    torch.testing.assert_close(law.accepted.sum(-1), torch.ones(2))


def test_a_one_hot_q_meets_the_rules_that_read_it():
    """Deterministic tokens: by its divergence alone a fuzzy rule keeps all or nothing; a cascade trusts the certain."""
    draft, p = ragged(SETTINGS[1], ProposalKind.DETERMINISTIC)
    infinite = Fuzzy(1e9).law(draft, p).accepted
    assert (infinite[:, 0] == 1).all()
    assert (Fuzzy(0.7, divergence="js").law(draft, p).accepted.gather(1, draft.length[:, None]) == 1).all()
    assert (Cascade("chow", 0.0).law(draft, p).accepted.gather(1, draft.length[:, None]) > 1 - 1e-12).all()
