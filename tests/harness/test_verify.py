"""What a verdict of `sdbench verify` states: how many tokens it saw, and what it could have found."""

import json
import math

import pytest
from scipy.stats import binom

from sdbench.harness.verify import Finding, smallest_shift, table
from tests.family import save_family
from tests.harness.conftest import Bench


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize(("mass", "tokens"), [(0.5, 400), (0.3, 2000), (0.5, 60)])
def test_a_shift_of_the_stated_size_is_found_in_four_of_five_cases(mass, tokens):
    limit = 3.29
    spread = math.sqrt(tokens * mass * (1 - mass))
    shift = smallest_shift(spread**2, tokens, limit)
    assert shift is not None

    def power(by: float) -> float:
        return float(binom.sf(tokens * mass + limit * spread, tokens, mass + by))

    assert power(shift) == pytest.approx(0.8, abs=0.08)
    assert power(shift / 2) < 0.3


def test_the_stated_shift_of_tests_with_little_to_see():
    assert smallest_shift(0.0, 0, 3.29) is None
    assert smallest_shift(0.75, 3, 3.29) is None, "three tokens"
    shift = smallest_shift(0.0, 20, 3.29)  # with top_k=1, one wrong token is enough
    assert shift is not None
    assert 1 - (1 - shift) ** 20 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (Finding("sd", 0.0, 400, z_scores={"a": 1.0}, z_limit=3.3, detectable={"a": 0.05, "b": 0.4}), "lossless"),
        (Finding("sd", 0.0, 9, z_scores={"a": 1.0}, z_limit=3.3, detectable={"a": 0.3}), "not tested enough"),
        (Finding("sd", 0.0, 2, z_scores={"a": 1.0}, z_limit=3.3, detectable={"a": None}), "not tested enough"),
        (Finding("sd", 0.0, 9, z_scores={"a": 9.0}, z_limit=3.3, detectable={"a": 0.3}), "NOT lossless"),
        (Finding("sd", 0.0, 90, identical=3, ties=1, tie_positions=2), "lossless"),
        (Finding("sd", 0.0, 90, identical=3, mismatches=1), "NOT lossless"),
    ],
)
def test_the_verdict_and_its_line(finding, verdict):
    line = table([finding])
    assert finding.verdict == finding.document()["verdict"] == verdict
    assert finding.document()["lossless"] == (verdict != "NOT lossless")
    assert verdict in line
    assert f"{finding.tokens} tokens" in line
    shifts = [shift for shift in (finding.detectable or {}).values() if shift]
    assert all(f"{shift:.2g}" in line for shift in shifts)
    assert ("too few tokens" in line) == (finding.detectable == {"a": None})
    assert ("2 tied tokens" in line) == (finding.tie_positions == 2)


def test_a_few_sampled_tokens_prove_nothing(bench, tmp_path, capsys):
    words = ["arms=[sd]", "sampling.temperature=1"]
    assert bench.call("verify", tmp_path / "out", *words, "limit=1", "max_new_tokens=3") == 0
    few = last_line(capsys)["arms"]["sd"]
    assert few["tokens"] <= 3
    assert few["verdict"] == "not tested enough"
    assert bench.call("verify", tmp_path / "out", *words, "repeats=8", "max_new_tokens=24", "batch_size=4") == 0
    more = last_line(capsys)["arms"]["sd"]
    assert more["tokens"] > 300
    assert more["verdict"] == "lossless"
    for name, shift in more["detectable"].items():
        assert shift < (few["detectable"][name] or 1), name


@pytest.mark.parametrize("more", [[], ["sampling.temperature=1", "repeats=10"]], ids=["greedy", "sampled"])
def test_the_rules_of_a_generation_config_hold_in_the_checks(tmp_path, capsys, more):
    """`generate` and the target's distribution follow a repetition penalty, as the arms do."""
    paths = save_family(tmp_path)
    file = paths["target"] / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "repetition_penalty": 1.3}))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"number {i} and again number {i}: "}) for i in range(4)))
    bench = Bench(paths, prompts)
    assert bench.call("verify", tmp_path / "out", "arms=[ar,sd]", *more) == 0
    arms = last_line(capsys)["arms"]
    assert arms["ar"]["tokens"] > 40
    if not more:
        assert arms["sd"]["identical"] == 4
