"""Each metric on tables small enough to be checked by hand."""

from __future__ import annotations

import math

import pytest

from sdbench.analysis.metrics import acceptance, model_time, quality, repetition, speed
from sdbench.analysis.tables import of_arm, target_rounds, usable
from sdbench.lm.trace import Edge
from sdbench.runs.tables import frames


def sequence(arm="sd", block=0, tokens=5, seconds=2.0, calls=2, **changes):
    return {
        "arm": arm,
        "prompt_id": f"p{block}",
        "repeat": 0,
        "block": block,
        "category": "",
        "prompt_tokens": 3,
        "tokens": list(range(tokens)),
        "text": "abc",
        "finish_reason": "eos",
        "score": 1.0,
        "first_token_seconds": 0.5,
        "prefill_seconds": 1.0,
        "decode_seconds": seconds,
        "block_decode_seconds": seconds,
        "target_calls": calls,
        **changes,
    }


DRAFT_TARGET = Edge("draft", "target")


def verification(proposed, accepted, edge=DRAFT_TARGET, emitted=None, **changes):
    return {
        "arm": "sd",
        "prompt_id": "p0",
        "repeat": 0,
        "block": 0,
        "edge": str(edge),
        "proposer": edge.proposer,
        "verifier": edge.verifier,
        "round": 0,
        "inner_round": 0,
        "proposed": proposed,
        "accepted": accepted,
        "emitted": accepted + 1 if emitted is None else emitted,
        "outcome": "bonus" if accepted == proposed else "correction",
        **changes,
    }


def step(role, kind, tokens, seconds, context=10, number=0, **changes):
    shape = {"role": role, "kind": kind, "rows": 1, "tokens": tokens, "context": context, "seconds": seconds}
    return {"arm": "sd", "block": 0, "repeat": 0, "round": number, **shape, **changes}


def bare(role, tokens, context, seconds):
    shape = {"role": role, "rows": 1, "tokens": tokens, "context": context, "seconds": seconds}
    return {**shape, "after": "sd", "block": 0, "repeat": 0}


def sequences(*rows):
    return frames({"sequences": rows})["sequences"]


def rounds(*rows):
    return frames({"rounds": rows})["rounds"]


def test_the_first_token_belongs_to_prefill():
    table = sequences(sequence(tokens=5, seconds=2.0), sequence(block=1, tokens=11, seconds=3.0))
    assert speed.tokens_per_second(table) == pytest.approx((4 + 10) / 5)
    assert speed.end_to_end_tokens_per_second(table) == pytest.approx(16 / (5 + 2))


def test_the_rows_of_a_block_share_its_seconds():
    table = sequences(*[sequence(tokens=5, prompt_id=f"q{i}", seconds=2.0) for i in range(3)])
    assert speed.tokens_per_second(table) == pytest.approx(3 * 4 / 2.0)
    assert speed.end_to_end_tokens_per_second(table) == pytest.approx(15 / (2.0 + 3 * 1.0))


def test_decoding_alone_gives_one_token_per_target_call():
    assert speed.tokens_per_target_call(sequences(sequence(tokens=9, calls=8))) == 1.0


def test_tokens_are_counted_as_ids_never_from_the_text():
    # Spec-Bench tokenised the text of the baseline again to count its tokens. The text must not matter.
    once, other = sequence(tokens=9, calls=4), sequence(tokens=9, calls=4, text="a b c d e f g h i j k l m n")
    assert speed.tokens_per_second(sequences(once)) == speed.tokens_per_second(sequences(other))
    assert speed.tokens_per_target_call(sequences(once)) == speed.tokens_per_target_call(sequences(other)) == 2.0


def test_an_early_stop_is_not_counted_as_the_requested_length():
    # nano-vllm counted the requested tokens.
    assert quality.output_tokens(sequences(sequence(tokens=3), sequence(tokens=6, block=1))) == 4.5


def test_a_sequence_of_one_token_adds_nothing_to_decoding():
    table = sequences(sequence(tokens=1, calls=0, seconds=0.0))
    assert math.isnan(speed.tokens_per_second(table))
    assert math.isnan(speed.tokens_per_target_call(table))
    # Also if decoding took some time before it ended: without a token there is no speed, not a speed of 0.
    assert math.isnan(speed.tokens_per_second(sequences(sequence(tokens=1, calls=0, seconds=0.001))))


def test_failed_sequences_are_left_out_with_their_block_and_arm_only():
    # Spec-Bench's evaluation gave a failed question the numbers of the question before it.
    good, bad = sequence(), sequence(block=1, finish_reason="error", tokens=0, seconds=99.0)
    other = sequence(arm="ar", block=1)
    tables = frames(
        {
            "sequences": [good, bad, other],
            "rounds": [verification(4, 1), verification(4, 4, block=1)],
            "steps": [step("target", "verify", 5, 1.0), step("target", "verify", 5, 1.0, block=1)],
        }
    )
    clean = usable(tables)
    assert len(clean["sequences"]) == 2
    assert speed.tokens_per_second(of_arm(clean, "sd")["sequences"]) == 2.0
    assert clean["rounds"]["accepted"].tolist() == [1]
    assert len(clean["steps"]) == 1
    assert len(of_arm(clean, "ar")["sequences"]) == 1


def test_acceptance_counts_drafted_tokens_without_the_bonus():
    table = rounds(verification(4, 4), verification(4, 1), verification(2, 0), verification(0, 0))
    assert acceptance.accepted_per_round(table) == pytest.approx(5 / 4)
    assert acceptance.acceptance_rate(table) == pytest.approx(5 / 10)
    assert acceptance.acceptance_by_position(table) == [0.5, 0.25, 0.25, 0.25]
    # Conditional: of those that drafted token k and got there. Position 1: 2 of 3; position 2: 1 of 2; then 1 of 1.
    assert acceptance.conditional_acceptance_by_position(table) == pytest.approx([2 / 3, 1 / 2, 1.0, 1.0])


def test_accepted_is_counted_before_the_cut_and_emitted_after():
    table = rounds(verification(4, 4, emitted=2))
    found = acceptance.edges(table)["draft>target"]
    assert found["acceptance_rate"] == 1.0
    assert found["emitted_per_round"] == 2.0


def test_inner_edges_do_not_count_as_rounds_of_the_target():
    table = rounds(
        verification(3, 3, Edge("draft", "qualifier")),
        verification(3, 1, Edge("draft", "qualifier"), inner_round=1),
        verification(6, 3, Edge("qualifier", "target")),
    )
    assert acceptance.accepted_per_round(table) == 3.0
    assert len(target_rounds(table)) == 1
    found = acceptance.edges(table)
    assert found["draft>qualifier"]["histogram"] == [0, 1, 0, 1]
    assert found["draft>qualifier"]["acceptance_rate"] == pytest.approx(4 / 6)
    assert found["qualifier>target"]["proposed_histogram"] == [0] * 6 + [1]


def test_nothing_drafted_gives_no_rate():
    table = rounds(verification(0, 0, Edge("", "target")))
    assert math.isnan(acceptance.acceptance_rate(table))
    assert acceptance.acceptance_by_position(table) == []
    assert acceptance.edges(table) == {}


def test_agreement_compares_tokens_of_the_same_prompt_and_repeat():
    ours = sequences(sequence(tokens=4), sequence(block=1, tokens=4), sequence(block=2))
    theirs = sequences(sequence("ar", tokens=4), sequence("ar", block=1, tokens=8), sequence("ar", block=2, repeat=1))
    found = quality.agreement(ours, theirs)
    assert found["identical"] == 0.5
    assert found["common_prefix"] == pytest.approx((1 + 0.5) / 2)


def test_scores_are_averaged_over_repeats_first():
    table = sequences(
        sequence(score=1.0), sequence(score=0.0, repeat=1), sequence(block=1, score=1.0), sequence(block=2, score=None)
    )
    assert quality.prompt_scores(table).to_dict() == {"p0": 0.5, "p1": 1.0}


def test_answers_cut_by_the_limit_are_counted():
    table = sequences(sequence(calls=10), sequence(block=1, calls=30, finish_reason="length"))
    assert speed.target_calls_per_answer(table) == 20
    assert quality.length_rate(table) == 0.5


PROSE = (
    "The garden lay quiet under a thin rain, and nobody had come to open the gate since the morning bell rang. A cart "
    "stood by the wall with one wheel missing; someone had left apples on it, red and small, for the children who pass."
)


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (list(range(60)), PROSE, False),
        ([*range(20), *[7, 8, 9] * 20], PROSE, True),
        ([5] * 30, "x", True),
        ([5] * 10, "xxxxxxxxxx", False),  # a short answer of few digits
        (list(range(100)), "I am sorry. " * 40, True),
        (list(range(100)), "\n".join(f"name: Person {i * 37 % 101}, age: {i * 13 % 60}" for i in range(12)), False),
    ],
)
def test_repetition_is_flagged(tokens, text, expected):
    assert repetition.is_degenerate(tokens, text) is expected


def test_the_longest_loop_is_found():
    assert repetition.loop_tokens([1, 2, 1, 2, 1, 2, 1, 2, 3]) == 8
    assert repetition.loop_tokens([1, 2, 1, 2, 1, 2, 3]) == 0  # three repeats are not a loop
    assert repetition.loop_tokens([]) == 0


def test_model_time_interpolates_in_the_context_and_divides_the_wall_time():
    tables = frames(
        {
            "sequences": [sequence(seconds=10.0)],
            "steps": [
                step("target", "prefill", 20, 100.0, number=-1),
                step("target", "verify", 5, 4.0, context=150),
                step("draft", "draft", 1, 2.0, context=999),
            ],
            "bare": [
                bare("target", 5, 100, 2.0),
                bare("target", 5, 200, 4.0),
                bare("target", 5, 200, 400.0),
                bare("target", 5, 200, 3.0),
                bare("draft", 1, 50, 1.0),
            ],
        }
    )
    found = model_time.model_time(tables)
    # Target: the median at 200 is 4, so 3 at 150; draft: constant at 1 beyond the measured contexts.
    assert found.fraction == pytest.approx(4 / 10)
    assert found.step_overhead == pytest.approx(2 / 10)
    assert found.host == pytest.approx(4 / 10)
    assert found.coverage == 1.0


def test_a_slow_machine_slows_steps_and_reference_forwards_alike():
    """Of three blocks the last two take twice as long, in steps and reference forwards alike."""
    slow = (1.0, 2.0, 2.0)
    tables = frames(
        {
            "sequences": [sequence(block=block, seconds=5.0 * pace) for block, pace in enumerate(slow)],
            "steps": [step("target", "verify", 5, 4.5 * pace, block=block) for block, pace in enumerate(slow)],
            "bare": [
                {**bare("target", 5, 10, 4.0 * pace * others), "after": arm, "block": block}
                for arm, others in (("sd", 1.0), ("ar", 3.0))
                for block, pace in enumerate(slow)
            ],
        }
    )
    assert model_time.model_time(tables).fraction == pytest.approx(4 / 5)


def test_a_shape_without_a_reference_forward_makes_model_time_a_lower_bound():
    tables = frames(
        {
            "sequences": [sequence(seconds=10.0)],
            "steps": [step("target", "verify", 5, 6.0), step("target", "verify", 4, 2.0)],
            "bare": [bare("target", 5, 10, 5.0)],
        }
    )
    with pytest.warns(UserWarning, match="cover 75%"):
        found = model_time.model_time(tables)
    assert found.fraction == pytest.approx(0.5)
    assert found.coverage == pytest.approx(0.75)
    nothing = model_time.model_time({**tables, "bare": tables["bare"].iloc[:0]})
    assert math.isnan(nothing.fraction)


def test_the_time_of_a_round_is_divided():
    tables = frames(
        {
            "sequences": [sequence(seconds=10.0)],
            "steps": [
                step("draft", "draft", 1, 1.0),
                step("draft", "draft", 1, 1.0),
                step("target", "verify", 3, 3.0),
                step("target", "verify", 1, 2.0, number=1),
            ],
        }
    )
    assert model_time.seconds_per_round(tables) == pytest.approx(
        {"draft draft": 1.0, "target verify": 2.5, "host": 1.5}
    )


def test_the_oracle_length_saves_what_was_rejected():
    tables = frames(
        {
            "sequences": [sequence(tokens=7, seconds=20.0)],
            "rounds": [verification(4, 4), verification(4, 0, round=1)],
            "steps": [
                *[step("draft", "draft", 1, 1.0, number=n) for n in (0, 0, 0, 0, 1, 1, 1, 1)],
                *[step("target", "verify", 5, 5.0, number=n) for n in (0, 1)],
                step("target", "verify", 1, 3.0, arm="ar"),
            ],
        }
    )
    # The oracle drafts nothing in round 1. It saves four draft steps, and verifies 1 token instead of 5.
    found = speed.oracle_length_tokens_per_second(of_arm(tables, "sd"), model_time.verify_seconds(tables["steps"]))
    assert found == pytest.approx(6 / (20 - 4 - 2))


def test_rounds_that_ended_too_early_for_the_oracle_are_counted():
    rounds = [
        verification(4, 4),  # a whole draft of K tokens: nothing longer is within K
        verification(2, 2, round=1),  # a policy ended it, and all was kept
        verification(2, 1, round=2),
        verification(0, 0, round=3),  # nothing was drafted, which an oracle might
    ]
    found = of_arm(frames({"sequences": [sequence(tokens=7, seconds=20.0)], "rounds": rounds, "steps": []}), "sd")
    assert speed.open_rounds(found["rounds"], 4) == pytest.approx(2 / 4)
    assert speed.open_rounds(found["rounds"], 2) == pytest.approx(1 / 4)
    assert math.isnan(speed.open_rounds(found["rounds"], None))
