"""The share of bandwidth by hand, of real models, and in a table."""

import pandas as pd
import pytest

from sdbench.analysis.metrics.bandwidth import bandwidth_share
from sdbench.analysis.report.bandwidth_table import bandwidth_table
from sdbench.lm.transformer import Transformer
from sdbench.runs.bandwidth import read_bandwidth
from tests.conftest import random_model

READS = {"target": {"weight_bytes": 1000, "token_bytes": 2.0, "bytes_per_second": 1e4}}


def test_by_hand():
    rows = [("target", -1, 1, 50, 9.0), ("target", 0, 1, 100, 0.2), ("target", 1, 2, 100, 0.3), ("draft", 0, 1, 1, 0.1)]
    steps = pd.DataFrame(rows, columns=["role", "round", "rows", "context", "seconds"])
    (share,) = bandwidth_share(steps, READS).values()
    assert share == pytest.approx(
        (2 * 1000 + 2 * (100 + 200)) / (0.5 * 1e4)
    )  # without the prefill, and the unknown draft
    assert bandwidth_share(steps, {}) is None
    table = bandwidth_table({"arms": {"ar": {"bandwidth_share": {"target": share}}, "peer": {"bandwidth_share": None}}})
    assert table.rows == [("ar", "target", share)]


def test_what_a_model_reads():
    raw = random_model("llama")
    model = Transformer("target", raw)
    every = sum(weight.numel() for weight in raw.parameters())
    assert model.weight_bytes == 4 * (
        every - raw.get_input_embeddings().weight.numel()
    )  # its embedding is read by rows
    assert model.token_bytes == 4 * 4 * 2 * 2 * 16  # layers x (keys and values) x heads x width, of 4 bytes each
    assert model.truncated(1).token_bytes == model.token_bytes // 4
    tied = Transformer("target", random_model("gemma3"))
    assert tied.weight_bytes == 4 * sum(weight.numel() for weight in tied.model.parameters())
    assert Transformer("target", random_model("gpt_oss")).weight_bytes is None


def test_the_bandwidth_of_this_machine(monkeypatch):
    monkeypatch.setattr("sdbench.runs.bandwidth.BYTES", 2**24)
    read_bandwidth.cache_clear()
    assert 1e8 < read_bandwidth("cpu", 1) < 1e13
    read_bandwidth.cache_clear()
