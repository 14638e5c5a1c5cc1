"""Messages arrive unchanged, and impossible ones are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from sdbench.asynchronous.protocol import MalformedError, Outcome, OutcomeMessage, Speculation, SpeculationMessage

CPU = torch.device("cpu")


def test_outcomes():
    outcome = Outcome(
        [True, False, True], [5, 1, 9], [4, 0, 6], [[7], [0], [3, 4, 5]], np.array([2**64 - 1, 3, 0], np.uint64)
    )  # fmt: skip
    serial, back = OutcomeMessage(3).unpack(OutcomeMessage(3).pack(9, outcome))
    assert serial == 9
    assert (back.active, back.length, back.first) == (outcome.active, outcome.length, outcome.first)
    assert back.tokens == outcome.tokens
    assert back.streams.tolist() == [2**64 - 1, 3, 0]


def test_the_streams_of_another_prompt_are_others():
    ours, theirs = OutcomeMessage(1), OutcomeMessage(1)
    for stream in (7, 7, 8):
        outcome = Outcome([True], [5], [4], [[7]], np.array([stream], np.uint64))
        assert theirs.unpack(ours.pack(1, outcome))[1].streams.tolist() == [stream]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_speculations(dtype):
    logits = torch.randn(2, 3, 11).to(dtype)
    logits[0, 0] = -torch.inf
    logits[0, 0, 4] = 0.0
    tokens = torch.tensor([[4, 1, 2], [3, 0, 10]])
    message = SpeculationMessage(2, 3, 11, dtype, CPU)
    buffer = message.pack(5, Speculation([True, False], [3, 1], tokens, logits)).clone()
    for answer in (buffer, buffer.numpy().tobytes()):
        back = message.unpack(5, answer)
        assert back.hit == [True, False]
        assert back.length == [3, 1]
        assert back.tokens.equal(tokens)
        assert back.logits.equal(logits)


def spoiled(serial=5, hit: Any = 1, length=2, token=3, score=0.0):
    message = SpeculationMessage(1, 2, 7, torch.float32, CPU)
    logits = torch.zeros(1, 2, 7)
    logits[0, 0, min(token, 6)] = score
    buffer = message.pack(serial, Speculation([hit], [length], torch.tensor([[token, 0]]), logits))
    return message, buffer


@pytest.mark.parametrize(
    "fault",
    [{"serial": 4}, {"hit": 2}, {"length": 3}, {"length": -1}, {"token": 7}, {"token": -1}, {"score": torch.nan}],
)
def test_nonsense_is_refused(fault):
    message, buffer = spoiled(**fault)
    with pytest.raises(MalformedError):
        message.unpack(5, buffer)


def test_sense_is_not():
    message, buffer = spoiled()
    assert message.unpack(5, buffer).tokens.tolist() == [[3, 0]]
    buffer[0] += 1
    with pytest.raises(MalformedError):
        message.unpack(5, buffer)
    with pytest.raises(MalformedError):
        OutcomeMessage(2).unpack(b"short")
