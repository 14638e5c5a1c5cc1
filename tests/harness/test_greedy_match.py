"""Rows whose greedy tokens are not the baseline's are void. A tie of rounding is not a mismatch, in any precision."""

import math
from collections import Counter

import pandas as pd
import pytest
import torch

from sdbench.acceptance.exact import Exact
from sdbench.acceptance.relaxed_topk import RelaxedTopK
from sdbench.analysis.report.comparison_table import comparison
from sdbench.analysis.results import read
from sdbench.decoding import Request, Speculative
from sdbench.drafting import EarlyExit, PromptLookup
from sdbench.harness.greedy_match import match
from sdbench.harness.ties import STEPS, tied, tolerance
from sdbench.lm.transformer import Transformer
from sdbench.papers.sections import peers
from sdbench.runs.record import load
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import random_model

WORDS = ["arms=[ar,sd,hf_generate,hf_assisted]", "arms.sd.draft_length=3", "arms.hf_assisted.draft_length=3"]


@pytest.fixture(scope="module")
def with_peers(bench, tmp_path_factory):
    out = tmp_path_factory.mktemp("peers") / "run"
    assert bench.call("run", out, *WORDS, figures=["end_to_end"]) == 0
    return load(out)


def test_peers_stand_beside_ours_end_to_end(with_peers):
    arms = with_peers.summary["arms"]
    for name in ("hf_generate", "hf_assisted"):
        arm = arms[name]
        assert arm["end_to_end_only"]
        assert arm["tokens_per_second"] is None
        assert arm["speedup"] is None
        assert arm["end_to_end_tokens_per_second"] > 0
        assert len(arm["end_to_end_speedup_ci95"]) == 2
        assert arm["model_time_fraction"] is None
        assert arm["identity"] == {"identical": 4, "ties": 0, "mismatches": 0, "tie_positions": 0}
        assert not arm["void"]
    assert arms["ar"]["end_to_end_speedup"] == 1.0
    assert arms["sd"]["model_time_fraction"] > 0
    assert arms["hf_generate"]["tokens_per_target_call"] == 1.0
    # Same K, same models, greedy: what is accepted is the same but for what an end cuts off.
    assert arms["hf_assisted"]["acceptance_rate"] == pytest.approx(arms["sd"]["acceptance_rate"], abs=0.1)
    assert "end to end [95 %]" in comparison(with_peers.summary).heads
    assert "end_to_end" in {path.stem for path in (with_peers.path / "report" / "figures").glob("*.svg")}


def test_a_table_without_peers_is_as_it_was(finished):
    assert "end to end [95 %]" not in comparison(load(finished).summary).heads


def test_other_tokens_make_the_row_void(bench, tmp_path, monkeypatch):
    from sdbench.peers.base import Growing

    push = Growing.push

    def wrong(self, tokens):
        return push(self, [(token + 1) % 250 + 2 for token in tokens])

    monkeypatch.setattr(Growing, "push", wrong)
    assert bench.call("run", tmp_path / "out", "arms=[ar,hf_generate]") == 0
    summary = load(tmp_path / "out").summary
    assert summary["arms"]["hf_generate"]["void"]
    assert not summary["arms"]["ar"]["void"]
    line = next(line for line in comparison(summary).markdown().splitlines() if line.startswith("| hf_generate "))
    assert "void" in line
    assert "×" not in line


def test_sampled_tokens_are_not_compared(bench, tmp_path):
    assert bench.call("run", tmp_path / "out", "arms=[ar,hf_generate]", "sampling.temperature=1") == 0
    arm = load(tmp_path / "out").summary["arms"]["hf_generate"]
    assert arm["identity"] is None
    assert not arm["void"]


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NEW = 20
PROMPTS = [[3, 5, 7, 3, 5, 7, 3], [11, 2, 90, 41], [8, 8, 60, 33, 21, 8, 8]]


def target_of(architecture: str, dtype: torch.dtype, seed: int = 0) -> Transformer:
    return Transformer("target", random_model(architecture, seed=seed).to(dtype))


@torch.inference_mode()
def next_logits(target: Transformer, tokens: list[int]) -> torch.Tensor:
    return target.model(input_ids=torch.tensor([tokens]), logits_to_keep=1).logits[0, -1].float()


def greedy(target: Transformer, prompt: list[int], forced: dict[int, int] | None = None) -> list[int]:
    """The target's own choices, one forward each. forced: tokens that replace the choice, by position."""
    output: list[int] = []
    for position in range(NEW):
        own = int(next_logits(target, [*prompt, *output]).argmax())
        output.append((forced or {}).get(position, own))
    return output


def far(target: Transformer, prompt: list[int], output: list[int], since: int) -> tuple[int, int]:
    """The first position from `since` on where the second-best token is far from a tie, and that token."""
    for position in range(since, NEW):
        logits = next_logits(target, [*prompt, *output[:position]])
        second = int(logits.topk(2).indices[1])
        if logits.max() - logits[second] > 3 * tolerance(logits, logits[second], target.dtype):
            return position, second
    raise AssertionError("every position nearly ties")


def counted(target: Transformer, wanted: list[int], got: list[int], prompt: list[int] = PROMPTS[0]) -> dict[str, int]:
    return match(target, prompt, wanted, got, NeverStop(), NEW)


def with_equal_tokens(dtype: torch.dtype) -> tuple[Transformer, list[int], list[int]]:
    """A model, its greedy output, and the output that takes another token of the same logit at position 2."""
    target = target_of("llama", dtype)
    head, first = target.model.get_output_embeddings().weight.data, greedy(target, PROMPTS[0])[2]
    twin = next(token for token in range(97) if token not in greedy(target, PROMPTS[0]))
    head[twin] = head[first]
    output = greedy(target, PROMPTS[0])
    return target, output, greedy(target, PROMPTS[0], {2: first + twin - output[2]})


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_part_at_a_tie(dtype):
    target, wanted, got = with_equal_tokens(dtype)
    assert wanted != got
    found = counted(target, wanted, got)
    assert found["ties"] == 1
    assert found["tie_positions"] >= 1
    assert counted(target, wanted, wanted) == {"identical": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_behind_a_tie_is_found(dtype):
    target, wanted, got = with_equal_tokens(dtype)
    position, second = far(target, PROMPTS[0], got, 3)
    assert counted(target, wanted, greedy(target, PROMPTS[0], {2: got[2], position: second})) == {"mismatches": 1}
    assert counted(target, wanted, got[:-1]) == {"mismatches": 1}, "an answer that ends too early"
    assert counted(target, wanted, [*got, got[-1]]) == {"mismatches": 1}, "an answer that ends too late"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_best_token_is_a_mismatch(dtype):
    target = target_of("qwen3", dtype)
    wanted = greedy(target, PROMPTS[0])
    position, second = far(target, PROMPTS[0], wanted, 0)
    got = greedy(target, PROMPTS[0], {position: second})
    assert counted(target, wanted, got) == {"mismatches": 1}
    assert counted(target, got, wanted) == {"mismatches": 1}, "the wanted output is wrong"
    assert counted(target, wanted, [*wanted[:5], 1 << 20, *wanted[6:]]) == {"mismatches": 1}, "no token of the model"


def generated(target: Transformer, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    seen = torch.ones_like(ids)
    out = target.model.generate(ids, attention_mask=seen, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_lossless_arms_have_no_mismatch_and_lossy_ones_have(dtype):
    """Against `generate`, whose forwards have other shapes. The lossy arm accepts the target's second-best token."""
    totals: dict[str, Counter[str]] = {}
    for architecture in ("llama", "qwen3-sliding", "mistral", "phi3"):
        target = target_of(architecture, dtype)
        arms = {
            "ar": Speculative(target),
            "lookup": Speculative(target, Exact(), PromptLookup(), 5),
            "early_exit": Speculative(target, Exact(), EarlyExit(target, 3), 4),
            "lossy": Speculative(target, RelaxedTopK(2, 1.0), EarlyExit(target, 3), 4),
        }
        requests = [Request(prompt, str(index)) for index, prompt in enumerate(PROMPTS)]
        expected = [generated(target, prompt) for prompt in PROMPTS]
        for name, decoder in arms.items():
            for item in decoder.generate(requests, Sampling(), NeverStop(), NEW, rows=3):
                wanted = expected[int(item.request.name)]
                totals.setdefault(name, Counter()).update(counted(target, wanted, item.tokens, item.request.tokens))
    assert totals["lossy"]["mismatches"] > 0
    for name in ("ar", "lookup", "early_exit"):
        assert totals[name]["mismatches"] == 0, name
        assert totals[name]["identical"] > 0, name
    if dtype == torch.bfloat16:
        assert sum(totals[name]["ties"] for name in ("ar", "lookup", "early_exit")) > 0, "nothing was tested"


@pytest.mark.parametrize(
    ("dtype", "best", "bound"),
    [
        (torch.bfloat16, 20.0, 8 * 2**4 * 2**-7),
        (torch.float16, 20.0, 8 * 2**4 * 2**-10),
        (torch.float16, -20.0, 8 * 2**5 * 2**-10),  # the other logit lies beyond 32
        (torch.float32, 20.0, 64 * 2**4 * 2**-23),
    ],
)
def test_the_tolerance_is_a_number_of_steps(dtype, best, bound):
    logits = torch.tensor([best, best - 13, best - 13, -torch.inf])
    assert STEPS[dtype] * 2**4 * torch.finfo(dtype).eps in (bound, bound / 2)
    assert float(tolerance(logits, logits[1], dtype)) == bound
    just, beyond = torch.tensor([best, best - bound * 0.9, 0, 0]), torch.tensor([best, best - bound * 1.1, 0, 0])
    if best > 0:
        assert bool(tied(just, torch.tensor(1), dtype))
        assert not bool(tied(beyond, torch.tensor(1), dtype))
    assert not bool(tied(logits, torch.tensor(3), dtype)), "a token that the rules forbid"
    assert not bool(tied(torch.full((4,), torch.nan), torch.tensor(0), dtype))


def test_float32_is_as_strict_as_ever():
    logits = torch.tensor([20.0, 20 - 2e-4, 3.0])
    assert not bool(tied(logits, torch.tensor(1), torch.float32))


def test_an_offset_of_all_logits_does_not_narrow_the_tolerance():
    logits = torch.tensor([20.0, 19.9, 0.0, 1.0, -1.0])
    wide, narrow = (tolerance(values, values[1], torch.bfloat16) for values in (logits, logits - 19.95))
    assert float(narrow) >= float(wide) / 2


def test_a_users_epsilon_is_an_absolute_bound():
    logits = torch.tensor([20.0, 19.75, 3.0])
    assert bool(tied(logits, torch.tensor(1), torch.bfloat16))
    assert not bool(tied(logits, torch.tensor(1), torch.bfloat16, 0.2))
    assert bool(tied(logits, torch.tensor(1), torch.float32, 0.3))


def test_half_precision_end_to_end(bench, tmp_path, capsys):
    words = ["arms=[ar,lookup,early_exit]", "arms.early_exit.proposer.layers=2", "hardware.dtype=bfloat16", "limit=8"]
    assert bench.call("run", tmp_path / "out", *words) == 0
    summary = load(tmp_path / "out").summary
    for arm in summary["arms"].values():
        assert not arm["void"]
        assert arm["identity"]["identical"] + arm["identity"]["ties"] == 8
    summary["arms"]["lookup"]["identity"] = {"identical": 5, "ties": 3, "mismatches": 0, "tie_positions": 4}
    assert any("lookup: 3 of 8" in note and "4 tied tokens" in note for note in comparison(summary).notes)
    capsys.readouterr()
    assert bench.call("verify", tmp_path / "out", *words) == 0
    said = capsys.readouterr().out
    assert '"tie_positions"' in said


def test_an_old_run_without_tie_positions_is_read(with_peers):
    summary = dict(with_peers.summary)
    summary["arms"] = {"ar": {**summary["arms"]["ar"], "identity": {"identical": 2, "ties": 2, "mismatches": 0}}}
    assert any("ar: 2 of 4" in note for note in comparison(summary).notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["arms=[ar,hf_assisted]", "batch_size=2"],
            "arms.hf_assisted: transformers' assisted generation decodes one sequence",
        ),
        (["arms=[ar,flashspec]", "tasks.stop=['x']"], "arms.flashspec: flashspec knows no stop strings"),
        (["arms=[ar,vllm_sd]", "arms.vllm_sd.command=no-such-server"], "no program 'no-such-server'"),
    ],
)
def test_refused_before_any_weight_is_loaded(bench, tmp_path, capsys, words, says):
    if "flashspec" in says:
        pytest.importorskip("flashspec")
    assert bench.call("run", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_verify_holds_peers_to_generate(bench, tmp_path, capsys):
    assert (
        bench.call("verify", tmp_path / "out", "arms=[hf_assisted,hf_lookup]", "arms.hf_assisted.draft_length=3") == 0
    )
    assert "a peer: no oracle" in capsys.readouterr().out


def test_our_arms_are_paired_with_peers_of_the_same_length(with_peers):
    _, text = peers(read(with_peers.path))
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert heads == ["arm", "over `hf_generate`", "over `hf_assisted`"]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert set(found) == {"ar", "sd"}
    assert found["ar"][1] == "–", "a peer that drafts is not compared with an arm that does not"
    assert found["sd"][1].endswith("]")
    ours, theirs = (with_peers.sequences[with_peers.sequences.arm == name] for name in ("ar", "hf_generate"))
    seconds = [
        pd.Series(side.prefill_seconds.to_numpy() + side.block_decode_seconds.to_numpy(), side.prompt_id)
        for side in (ours, theirs)
    ]
    # The same tokens on both sides: the ratio of speeds is that of times, its geometric mean over the prompts.
    ratio = math.exp((seconds[1] / seconds[0]).map(math.log).mean())
    assert found["ar"][0].startswith(f"{ratio:.2f}x [")


def test_simulate_leaves_peers_out(with_peers):
    from sdbench.harness.simulate import simulate

    document = simulate(with_peers.path, [])
    assert document["outcomes_of"] == "sd"
    assert set(document["against_measured"]) == {"ar", "sd"}
