"""Sections of a page answer from the rows: which arms are compared, and what is faster."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from sdbench.analysis.results import read
from sdbench.papers import sections
from tests.papers.made import fuzzy, kept_run, sd


def _grid(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by the name of the row, and of its heads by ''."""
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {"": heads[1:], **{row[0].strip("`"): row[1:] for row in rows}}


def _front(folder, pyramid: float, right: float = 0.8, nats: dict[str, float] | None = None):
    """The section of a run. right: the share of solved problems. nats: what each arm's answers lose per token."""
    arms = {
        "ar": (0.5, {}),
        "sd": (1.0, sd(4)),
        "fsd[rule.threshold=0.4]": (0.9, {"draft_length": 8, "rule": {"threshold": 0.4}}),
        "psd_fuzzy": (pyramid, fuzzy(0.4, 0.5)),
    }
    path = kept_run(folder, "front", arms, noise=0.001, right=dict.fromkeys(arms, right), config={"margin": 0.1})
    summary = json.loads((path / "summary.json").read_text())
    for name in ("fsd[rule.threshold=0.4]", "psd_fuzzy"):
        summary["arms"][name]["lossless"] = False
    if nats:
        rows = pd.read_parquet(path / "sequences.parquet")
        lost = rows["arm"].map(nats) + np.random.default_rng(0).normal(0, 0.01, len(rows))
        pd.DataFrame({**rows, "nats": lost * rows["tokens"].map(len)}).to_parquet(path / "sequences.parquet")
        for name in nats:
            summary["arms"][name]["nats_difference"] = nats[name]
    (path / "summary.json").write_text(json.dumps(summary))
    return "\n\n".join(sections.front(read(path)))


@pytest.mark.parametrize(("pyramid", "verdict"), [(1.5, "faster"), (0.7, "slower")])
def test_the_front_says_what_is_faster(tmp_path, pyramid, verdict):
    text = _front(tmp_path, pyramid)
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in text.splitlines() if line.startswith("- The f"))
    any_quality = lines["The fastest PyramidSD arm of any quality and the fastest lossless arm"]
    assert any_quality.startswith(f"`psd_fuzzy` over `sd` is {pyramid:.2f}x [")
    assert text.count(f"**{verdict}**") == 3
    assert (
        f"**{verdict}**"
        in lines["The fastest PyramidSD arm of non-inferior quality, compared with `fsd[rule.threshold=0.4]`"]
    )
    assert "likely" not in text


def test_the_front_reads_the_likelihood_where_the_score_tells_nothing(tmp_path):
    nats = {"ar": 1.0, "fsd[rule.threshold=0.4]": 1.02, "psd_fuzzy": 1.2}
    text = _front(tmp_path / "unsolved", 1.5, right=0.0, nats=nats)
    assert "the score tells no arm from another" in text
    assert "non-inferior" not in text
    assert "Lossy arms with answers as likely under the target: `fsd[rule.threshold=0.4]`." in text
    assert "compared with `fsd[rule.threshold=0.4]`: there is no such arm." in text
    text = _front(tmp_path / "alike", 1.5, right=0.0, nats={**nats, "psd_fuzzy": 1.03})
    assert "`fsd[rule.threshold=0.4]`, `psd_fuzzy`." in text


def _speculation(hit: float) -> dict:
    seconds = {"verify": 0.004, "build": 0.003, "backup": 0.002, "wait_on_hit": 0.001}
    return {
        "outcome_hit_rate": hit,
        "tokens_per_round_on_hit": 3.5,
        "tokens_per_round_on_miss": 3.0,
        "seconds": seconds,
        "corollary_9": {"over": "sd[4]", "low": 1.2, "high": 1.4, "measured": 1.15},
    }


def test_concurrent_arms_are_compared_with_synchronous_ones_and_with_predictions(tmp_path):
    def cache(backup):
        parts = {"fan_out": {"_target_": "sdbench.Geometric", "budget": 12}, "backup": {"_target_": backup}}
        return {"draft_length": 4, "proposer": parts}

    arms = {
        "ar": (0.5, {}),
        "sd[4]": (1.0, sd(4)),
        "sd[6]": (1.1, sd(6)),
        "ssd": (1.32, cache("sdbench.Neural")),
        "ssd_fast": (1.2, cache("sdbench.Random")),
        "sd_two_cores": (1.2, sd(6)),
    }
    path = kept_run(tmp_path, "speed", arms, noise=0.0, config={"sampling": {"temperature": 0.0}})
    summary = json.loads((path / "summary.json").read_text())
    for arm in summary["arms"].values():
        arm |= {"overlapped": None, "acceptance_rate": 0.75, "ranks": {"hit_rate": {"12": {"geometric": 0.81}}}}
    for name in ("ssd", "ssd_fast"):
        summary["arms"][name]["speculation"] = _speculation(0.8)
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "simulated.json").write_text(json.dumps({"ssd": -0.012}))
    compared, caches, predictions = (_grid(part) for part in sections.concurrent(read(path)) if part.startswith("|"))
    assert compared[""] == ["over `sd`, same length", "over `sd[6]`, the best", "over `ar`", "over `sd_two_cores`"]
    assert [cell.split("x")[0] for cell in compared["ssd"]] == ["1.32", "1.20", "2.64", "1.10"]
    assert caches["ssd"][1:3] == ["0.800", "0.810"]
    assert caches["ssd_fast"][2] == "–", "rounds behind another back-up are others than the recorded ones"
    assert predictions["ssd"] == ["+3.0%", "-1.2%", "1.20x to 1.40x", "1.15x"]
    assert predictions["ssd_fast"][1] == "–"


def test_a_run_without_such_arms_has_no_section(tmp_path):
    path = kept_run(tmp_path, "plain", {"ar": (1.0, {})})
    summary = json.loads((path / "summary.json").read_text())
    summary["arms"]["ar"]["overlapped"] = None
    (path / "summary.json").write_text(json.dumps(summary))
    run = read(path)
    assert sections.concurrent(run) == []
    assert sections.peers(run) == []


def test_the_categories_have_speeds_of_their_own(tmp_path):
    path = kept_run(tmp_path, "plain", {"ar": (1.0, {}), "sd": (2.0, sd(4))}, noise=0.0)
    assert sections.categories(read(path)) == []
    rows = pd.read_parquet(path / "sequences.parquet")
    odd = rows["prompt_id"].isin(sorted(rows["prompt_id"].unique())[:20])
    rows["category"] = np.where(odd, "writing", "coding")
    rows.loc[odd & (rows["arm"] == "sd"), ["prefill_seconds", "decode_seconds", "block_decode_seconds"]] *= 4
    rows.to_parquet(path / "sequences.parquet")
    table = _grid(sections.categories(read(path))[1])
    assert table[""] == ["writing (20)", "coding (40)"]
    assert [cell.partition(",")[0] for cell in table["sd"]] == [f"{0.51 / (4 * 0.26):.2f}×", f"{0.51 / 0.26:.2f}×"]
    assert [cell.partition(",")[0] for cell in table["ar"]] == ["1.00×", "1.00×"]
