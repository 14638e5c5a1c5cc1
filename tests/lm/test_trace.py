"""The trace: edges, shared times of programs, and notes that join the rows of their drafts."""

import pytest
import torch

from sdbench.lm.trace import Edge, ProposerRecord, RoundNote, Trace

DRAFT, PAIR = Edge("draft", "qualifier"), Edge("qualifier", "target")


def test_an_edge_is_written_proposer_first():
    assert str(DRAFT) == "draft>qualifier"
    assert str(Edge("", "target")) == "target"
    assert Edge("draft", "qualifier") == DRAFT


def traced():
    trace = Trace(sequence=[4, 7], sequence_round=[0, 0])
    trace.verified(0, DRAFT, 0, 3, 2, 3, draft=0)
    trace.verified(1, DRAFT, 0, 3, 3, 4, draft=0)
    trace.verified(0, DRAFT, 1, 3, 0, 1, draft=1)
    trace.verified(0, PAIR, 0, 4, 4, 5)
    return trace


def test_a_verification_has_the_columns_of_the_schema():
    from sdbench.runs.schema import ROUNDS

    row = traced().rounds[1]
    assert row.keys() == ROUNDS.keys() - {"arm", "prompt_id", "repeat", "block"} | {"sequence"}
    assert (row["sequence"], row["edge"], row["proposer"], row["verifier"]) == (
        7,
        "draft>qualifier",
        "draft",
        "qualifier",
    )
    assert [row["outcome"] for row in traced().rounds] == ["correction", "bonus", "correction", "bonus"]


def test_notes_join_the_verification_of_their_draft_and_row():
    trace = traced()
    notes = [RoundNote(0, 1, {"rank": 5}), RoundNote(1, 0, {"rank": 2, "hit": True}), RoundNote(1, 1, {"rank": 9})]
    trace.join(ProposerRecord("draft", notes))
    assert [row.get("rank") for row in trace.rounds] == [None, 5, 2, None]
    assert trace.rounds[2]["hit"] is True


def test_notes_of_another_proposer_join_nothing():
    trace = traced()
    trace.join(ProposerRecord("qualifier", [RoundNote(0, 0, {"rank": 5})]))
    assert all("rank" not in row for row in trace.rounds)


def test_a_record_is_asked_for_when_the_trace_is_closed():
    trace, asked = traced(), []

    def record():
        asked.append(True)
        return ProposerRecord("draft", [RoundNote(0, 0, {"rank": 1})], [{"kind": "tree"}])

    trace.at_close.append(lambda: trace.join(record()))
    assert not asked
    trace.close()
    trace.close()
    assert asked == [True]
    assert trace.rounds[0]["rank"] == 1
    assert trace.steps == [{"kind": "tree"}]


def test_the_steps_of_a_program_share_its_time():
    trace, device = Trace(), torch.device("cpu")
    trace.end(trace.begin(device), "draft", "draft", 2, 3, 40, steps=4)
    seconds = [step["seconds"] for step in trace.steps]
    assert seconds == pytest.approx([seconds[0]] * 4)
    assert [step["tokens"] for step in trace.steps] == [3, 1, 1, 1]
    assert [step["context"] for step in trace.steps] == [40, 41, 42, 43]
    begun = [step["begun"] for step in trace.steps]
    assert begun[3] - begun[0] == pytest.approx(3 * seconds[0])
