"""What needs CUDA: the same code on a device gives the same tokens, and its steps are timed by events."""

import json
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from sdbench.acceptance import Exact
from sdbench.asynchronous import OnDemandDrafter, SSDDrafter, Uniform
from sdbench.cli import main
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.decoding.speculative import Batch
from sdbench.drafting import EarlyExit, ModelDrafter, PromptLookup, StagedDrafter
from sdbench.lm.programs.modes import execution_of
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.runs.record import load
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import ARCHITECTURES, V, random_model
from tests.family import overrides, save_family

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

GREEDY = Sampling()


def prompts_of(count=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, V, (6 + 4 * i,), generator=generator).tolist() for i in range(count)]


def tokens_of(decoder, prompts, rows, sampling=GREEDY, trace=None):
    requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts)]
    finished = decoder.generate(requests, sampling, NeverStop(), 20, rows=rows, trace=trace)
    got = {item.request.name: item.tokens for item in finished}
    return [got[str(i)] for i in range(len(prompts))]


def family(mode):
    """Target, qualifier and draft."""
    layers = {"target": 4, "qualifier": 3, "draft": 2}
    return [
        Transformer(role, random_model("llama", layers=depth).cuda(), execution=execution_of(mode))
        for role, depth in layers.items()
    ]


def decoders(mode):
    target, qualifier, draft = family(mode)
    return [
        Speculative(target),
        Speculative(target, Exact(), ModelDrafter(draft), 4),
        Speculative(target, Exact(), PromptLookup(), 4),
        Speculative(target, Exact(), EarlyExit(target, 2), 3),
        Speculative(target, Exact(), StagedDrafter(qualifier, Exact(), ModelDrafter(draft), 2), 5),
    ]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
def test_greedy_tokens_are_those_of_the_device_s_own_generate(mode, rows):
    raw, prompts, expected = random_model("llama").cuda(), prompts_of(), []
    for prompt in prompts:
        ids = torch.tensor([prompt], device="cuda")
        out = raw.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0)
        expected.append(out[0, len(prompt) :].tolist())
    arms = decoders(mode)
    for again in (False, True):  # the second time, what was captured is replayed
        for decoder in arms:
            trace = Trace()
            assert tokens_of(decoder, prompts, rows, trace=trace) == expected
            trace.close()
            assert all(step["seconds"] > 0 for step in trace.steps)
            assert not (again and any(step.get("missed") for step in trace.steps))
        for model in {id(model): model for decoder in arms for model in decoder.models}.values():
            model.freeze()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_steps_draw_the_tokens_of_eager_ones(architecture):
    sampling, found = Sampling(temperature=0.7, top_p=0.9), []
    for mode in ("eager", "cudagraph"):
        models = [Transformer("m", random_model(architecture, n).cuda(), execution=execution_of(mode)) for n in (4, 2)]
        decoder = Speculative(models[0], Exact(), ModelDrafter(models[1]), 4)
        found += [tokens_of(decoder, prompts_of(), rows, sampling) for rows in (1, 3)]
        assert (models[0].execution.made > 0) == (models[1].execution.made > 0) == (mode == "cudagraph")
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("mode", ["eager", "cudagraph"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.7)], ids=["greedy", "sampled"])
def test_the_host_waits_once_a_round(sampling, mode, rows, monkeypatch):
    target, _, draft = family(mode)
    decoder, rounds, whole = Speculative(target, Exact(), ModelDrafter(draft), 4), [], Batch._round
    tokens_of(decoder, prompts_of(), rows, sampling)

    def watched(self):
        rounds.append(self.round)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield from whole(self)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Batch, "_round", watched)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens_of(decoder, prompts_of(), rows, sampling)
    places = Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA" in str(w.message))
    assert sum(places.values()) == len(rounds), places


def beside(target, draft):
    """Tokens of ssd and of pearl, whose draft is in a process of its own, and of the target alone."""
    requests = [Request([5, 7, index], str(index)) for index in range(4)]
    tokens = []
    for decoder in (
        Speculative(target),
        Speculative(target, Exact(), SSDDrafter(draft, Uniform(3), timeout_seconds=60), 3),
        Pearl(target, OnDemandDrafter(draft, timeout_seconds=60), None, 3),
    ):
        finished = decoder.generate(requests, Sampling(), NeverStop(), 20, rows=2)
        tokens.append({item.request.name: item.tokens for item in finished})
        decoder.close()
    return tokens


def test_a_draft_process_on_the_same_gpu():
    target = Transformer("target", random_model("llama").cuda())
    draft = Transformer("draft", random_model("llama", layers=2).cuda())
    with pytest.warns(UserWarning, match="share cuda"):
        plain, *overlapped = beside(target, draft)
    assert all(tokens == plain for tokens in overlapped)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices here")
def test_a_draft_process_on_another_gpu():
    """Answers come by NCCL."""
    target = Transformer("target", random_model("llama").to("cuda:0"))
    draft = Transformer("draft", random_model("llama", layers=2).to("cuda:1"))
    plain, *overlapped = beside(target, draft)
    assert all(tokens == plain for tokens in overlapped)


@pytest.mark.skipif(torch.cuda.device_count() < 3, reason="there are no three CUDA devices here")
def test_a_target_over_two_gpus_and_its_draft_on_a_third(tmp_path):
    """Tensor-parallel by transformers under torchrun: NCCL between the target's ranks, and from the draft's."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"prompt {i}"}) for i in range(4)))
    words = overrides(save_family(tmp_path), prompts, tmp_path / "out")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "3",
        "-m",
        "sdbench",
        "run",
        *words,
    ]
    done = subprocess.run(
        [*command, "hardware=cuda_tp", "hardware.dtype=float32", "arms=[ar,sd,ssd]"], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    arms = load(tmp_path / "out").summary["arms"]
    assert arms["ssd"]["devices"] == ["cuda:0", "cuda:1", "cuda:2"]
    assert arms["ssd"]["agreement"] == arms["sd"]["agreement"]


def test_a_comparison_on_a_device(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"prompt {i}"}) for i in range(4)))
    words = overrides(save_family(tmp_path), prompts, tmp_path / "out")
    with pytest.raises(SystemExit) as stop:
        main(["run", *words, "hardware=cuda", "arms=[ar,sd,pyramid]"])
    assert stop.value.code == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["summary"]
    assert summary["arms"]["sd"]["devices"] == ["cuda:0"]
    assert summary["arms"]["ar"]["model_time_fraction"] > 0


def test_the_allocator_s_peak_is_what_was_reckoned(tmp_path):
    """A target of 0.9 GB, and its slots; in a process of its own, which holds nothing else."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"prompt {i}"}) for i in range(4)))
    paths = save_family(tmp_path)
    config = AutoConfig.from_pretrained(paths["target"])
    config.update({"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 12})
    config.update({"num_key_value_heads": 12, "head_dim": 128, "max_position_embeddings": 2048})
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(paths["target"])
    words = [*overrides(paths, prompts, tmp_path / "out"), "arms=[ar,lookup]", "batch_size=4", "max_new_tokens=200"]
    command = [sys.executable, "-m", "sdbench", "run", *words, "hardware=cuda", "ignore_eos=true"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    (memory,) = json.loads((tmp_path / "out" / "environment.json").read_text())["memory"].values()
    assert 0.9 < memory["peak_bytes"] / memory["predicted_bytes"] < 1.1, memory
