"""What needs CUDA: the same code on a device gives the same tokens, and its steps are timed by events."""

import json
import subprocess
import sys

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.cli import main
from sdbench.decoding import Pearl, Request, Speculative
from sdbench.drafting import EarlyExit, ModelDrafter, PromptLookup, Verified
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.remote import Remote, RemoteDrafter, Uniform
from sdbench.runs.record import load
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from tests.conftest import V, random_model
from tests.family import overrides, save_family

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_tokens_are_those_of_the_device_s_own_generate(rows):
    raw = random_model("llama").cuda()
    target = Transformer("target", raw)
    draft = Transformer("draft", random_model("llama", layers=2).cuda())
    qualifier = Transformer("qualifier", random_model("llama", layers=3).cuda())
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, V, (6 + 4 * i,), generator=generator).tolist() for i in range(4)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device="cuda")
        out = raw.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0)
        expected.append(out[0, len(prompt) :].tolist())
    for decoder in (
        Speculative(target),
        Speculative(target, Exact(), ModelDrafter(draft), 4),
        Speculative(target, Exact(), PromptLookup(), 4),
        Speculative(target, Exact(), EarlyExit(target, 2), 3),
        Speculative(target, Exact(), Verified(qualifier, Exact(), ModelDrafter(draft), 2), 5),
    ):
        trace = Trace()
        requests = [Request(prompt, str(i)) for i, prompt in enumerate(prompts)]
        finished = decoder.generate(requests, Sampling(), NeverStop(), 20, rows=rows, trace=trace)
        got = {item.request.name: item.tokens for item in finished}
        trace.close()
        assert [got[str(i)] for i in range(len(prompts))] == expected
        assert all(step["seconds"] > 0 for step in trace.steps)


def beside(target, draft):
    """Tokens of ssd and of pearl, whose draft is in a process of its own, and of the target alone."""
    requests = [Request([5, 7, index], str(index)) for index in range(4)]
    tokens = []
    for decoder in (
        Speculative(target),
        Speculative(target, Exact(), Remote(draft, Uniform(3), timeout_seconds=60), 3),
        Pearl(target, RemoteDrafter(draft, timeout_seconds=60), None, 3),
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
