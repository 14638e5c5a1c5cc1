"""The logged ranks against ranks that are counted by hand from the finished texts."""

from itertools import pairwise

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.decoding import Request, Speculative
from sdbench.drafting import ModelDrafter, StagedDrafter
from sdbench.drafting.rank_log import ranks
from sdbench.lm.trace import Trace
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.drafting.states import model

REQUESTS = [Request([1, 2], "a"), Request([3], "b"), Request([0, 6, 2], "c")]


def decoded(decoder, rows=1, new=12):
    trace = Trace()
    done = list(decoder.generate(REQUESTS, Sampling(), NeverStop(), new, rows=rows, trace=trace))
    trace.close()
    texts = {REQUESTS.index(item.request): (list(item.request.tokens), item.tokens) for item in done}
    return texts, trace.rounds


def by_hand(draft, context, token, rejected):
    """The rank of `token` behind `context`, without the token that the draft drafted there if it was rejected."""
    order = draft.table(tuple(context)).argsort(descending=True).tolist()
    if rejected:
        first = order.pop(0)  # greedy drafting took the most likely token
        assert first != token
    return order.index(token) + 1


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 3])
def test_ranks_by_hand(rows, length):
    draft = model("draft", 3)
    texts, rounds = decoded(Speculative(model("target", 1), Exact(), ModelDrafter(draft), length), rows)
    corrections = bonuses = 0
    for sequence, (prompt, tokens) in texts.items():
        own = [row for row in rounds if row["sequence"] == sequence]
        assert own[0]["first_rank"] == by_hand(draft, prompt, tokens[0], rejected=False)
        assert all("first_rank" not in row for row in own[1:])
        at = 1
        for row in own[:-1]:
            end = at + row["accepted"]
            rejected = row["accepted"] < row["proposed"]
            assert row["rank"] == by_hand(draft, [*prompt, *tokens[:end]], tokens[end], rejected)
            corrections, bonuses = corrections + rejected, bonuses + (not rejected)
            at = end + 1
        assert own[-1].get("rank") is None, "nothing was drafted behind the last round"
    assert corrections > 5
    if length == 1:  # longer drafts are never kept whole here
        assert bonuses > 0


def test_a_bonus_ranks_behind_the_whole_draft():
    """The draft is the target, so every draft is kept whole and every bonus is the draft's first choice."""
    _, rounds = decoded(Speculative(model("target", 1), Exact(), ModelDrafter(model("draft", 1)), 3))
    outer = [row for row in rounds if row.get("rank") is not None]
    assert len(outer) > 5
    assert all(row["accepted"] == row["proposed"] for row in outer)
    assert {row["rank"] for row in outer} == {1}


def test_a_stage_above_that_cuts_leaves_inner_rounds_without_a_rank():
    """Where the target cut or lengthened the pair's text, the qualifier's token is no outcome of the draft."""
    draft = model("draft", 3)
    inner = StagedDrafter(model("qualifier", 2), Exact(), ModelDrafter(draft), 2)
    texts, rounds = decoded(Speculative(model("target", 1), Exact(), inner, 4))
    drafted = [row for row in rounds if row["proposer"] == "draft"]
    outer = [row for row in rounds if row["verifier"] == "target"]
    assert all("rank" not in row for row in outer), "only the draft logs ranks"
    # Within an outer round every inner round but the last is followed by the next inner round, so it has a rank.
    for row, following in pairwise(drafted):
        same = (row["sequence"], row["round"]) == (following["sequence"], following["round"])
        if same:
            assert row["rank"] >= 1
    assert any("rank" not in row for row in drafted)
    for sequence, (prompt, tokens) in texts.items():
        first = next(row for row in drafted if row["sequence"] == sequence)
        assert first["first_rank"] == by_hand(draft, prompt, tokens[0], rejected=False)


def test_ranks_leave_the_rejected_token_out():
    order = torch.tensor([[0.1, 0.5, 0.4, 0.3]]).expand(4, 4)
    found = ranks(order, torch.tensor([1, 2, 2, 0]), torch.tensor([-1, -1, 1, 3]))
    assert found.tolist() == [1, 2, 1, 3]
