"""Programs give the logits of the model's own forward. Steps of shapes that have no program are marked."""

import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch

from sdbench.errors import InputError
from sdbench.keyed_random import Key
from sdbench.lm import prepacked
from sdbench.lm.output import StepOutput
from sdbench.lm.prepacked import PrepackedLinear
from sdbench.lm.programs.execution import Execution
from sdbench.lm.programs.modes import check_execution, execution_of
from sdbench.lm.transformer import Transformer
from tests.conftest import ARCHITECTURES, V, random_model
from tests.lm.interpreted import Interpreted, Replayed
from tests.lm.test_transformer import CLOSE, context


def chain(model: Transformer) -> list[StepOutput]:
    """Read a prompt, a single token and seven tokens; forget some; read again."""
    text = torch.randint(0, V, (1, 30), generator=torch.Generator().manual_seed(1))
    model.allocate(1, 40)
    here = context(text, [30], 40)
    model.read(here, np.array([12]), "prefill", row=0)
    outputs = [model.read(here, np.array([stop]), "verify", num_logits=count) for stop, count in ((13, 1), (20, 7))]
    model.keep(np.array([15]))
    return [*outputs, model.read(here, np.array([22]), "verify", num_logits=7)]


def ragged(model: Transformer) -> list[StepOutput]:
    text = torch.randint(0, V, (3, 30), generator=torch.Generator().manual_seed(2))
    model.allocate(3, 40)
    here = context(text, [30] * 3, 40)
    for row, length in enumerate((15, 9, 20)):
        model.read(here, np.full(3, length), "prefill", row=row)
    outputs = [model.read(here, np.array([18, 16, 25]), "verify", num_logits=3)]
    here.active[2] = False
    last = model.read(here, np.array([19, 18, 25]), "verify")
    return [*outputs, StepOutput(last.logits[:2], missed=last.missed)]


def tree(model: Transformer) -> list[StepOutput]:
    """Read two branches behind a common prefix, one forward for each depth, in scratch slots."""
    generator = torch.Generator().manual_seed(3)
    model.allocate(1, 40)
    model.read(context(torch.randint(0, V, (1, 14), generator=generator), [14], 40), np.array([14]), "prefill", row=0)
    prefix, own = torch.ones(1, 2, 20, dtype=torch.bool), torch.eye(2, dtype=torch.bool).repeat(1, 2)[None]
    prefix[:, :, 14:] = False
    mask, outputs = torch.cat([prefix, own], -1), []
    for depth in range(2):
        tokens, stop = torch.randint(0, V, (1, 2), generator=generator), 20 + 2 * (depth + 1)
        at = torch.full((1, 2), 14 + depth)
        outputs.append(model.step(tokens, at, None, mask[:, :, :stop], num_logits=2, attend_len=stop))
    return outputs


def apart(ours: StepOutput, theirs: StepOutput) -> float:
    """The largest difference between two outputs' logits, relative to the largest logit."""
    return float((ours.logits - theirs.logits).abs().max() / theirs.logits.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("work", [chain, ragged, tree])
@pytest.mark.parametrize("mode", [Interpreted, Replayed])
def test_a_program_gives_the_logits_of_the_models_own_forward(mode, architecture, work):
    raw = random_model(architecture)
    wanted = work(Transformer("target", raw))
    model = Transformer("target", raw, execution=mode())
    for _ in range(2):
        for ours, theirs in zip(work(model), wanted, strict=True):
            assert not ours.missed
            assert apart(ours, theirs) < CLOSE
        model.execution.frozen = True  # the second time, every shape has a program
    assert model.execution.made


@torch.inference_mode()
def test_early_exit_has_programs_of_its_own():
    raw = random_model("llama")
    eager, fast = Transformer("target", raw), Transformer("target", raw, execution=Interpreted())
    found = []
    for whole in (eager, fast):
        view = whole.truncated(2)
        for model in (whole, view):
            model.allocate(1, 40)
        text = torch.randint(0, V, (1, 20), generator=torch.Generator().manual_seed(5))
        here = context(text, [20], 40)
        whole.read(here, np.array([18]), "prefill", row=0)
        found.append(view.read(here, np.array([20]), "draft"))
    assert view.execution is not whole.execution
    assert view.execution.made == 1
    assert apart(found[1], found[0]) < CLOSE


@torch.inference_mode()
def test_an_unknown_shape_is_never_compiled_in_a_measurement():
    model = Transformer("target", random_model("llama"), execution=Interpreted())
    chain(model)
    made, model.execution.frozen = model.execution.made, True
    text = torch.randint(0, V, (1, 30), generator=torch.Generator().manual_seed(1))
    here = context(text, [30], 40)
    model.allocate(1, 40)
    model.read(here, np.array([12]), "prefill", row=0)
    assert model.read(here, np.array([15]), "verify", num_logits=3).missed
    assert model.execution.made == made
    assert [step.get("missed", False) for step in here.trace.steps] == [False, True]
    assert not model.read(here, np.array([16]), "verify").missed, "a known shape afterwards is no miss"


def test_graphs_for_longer_prompts_are_captured_before_anything_is_measured():
    model = Transformer("target", random_model("llama"), execution=Replayed())
    model.execution.granule = 16
    with torch.inference_mode():
        chain(model)
    known = model.execution.made
    model.freeze()  # called outside of inference mode, as the warm-up does
    assert (
        model.execution.made == known + 4
    )  # two shapes, which had graphs over 32 slots only, over 16 and 48 slots too
    with torch.inference_mode():
        here = context(torch.randint(0, V, (1, 40), generator=torch.Generator().manual_seed(1)), [40], 40)
        model.keep(np.array([0]))
        model.read(here, np.array([36]), "prefill", row=0)
        assert not model.read(here, np.array([37]), "verify").missed


@torch.inference_mode()
def test_inputs_for_capture_stand_at_the_end_of_the_slots():
    """Behind them, a query with a sliding window would see no slot, and its softmax would be no number."""
    model = Transformer("target", random_model("gemma3"), execution=Replayed())
    chain(model)
    known = model.execution.known(model)
    assert known
    for given in known:
        ends = given.within(16).ends
        assert ends[:, 0].tolist() == [16 - given.width, 16]


def test_another_process_gets_the_mode_without_its_programs():
    made = Interpreted()
    made.made, made.frozen = 3, True
    copy = pickle.loads(pickle.dumps(made))
    assert (type(copy), copy.frozen, copy.made) == (Interpreted, True, 0)
    assert made.fresh().frozen


@pytest.mark.parametrize(
    ("mode", "device", "said"),
    [
        ("fast", "cpu", "must be one of eager"),
        ("cudagraph", "cpu", "CUDA device"),
        ("compile", "mps", "choose eager"),
        ("compile", "cuda:0", "choose cudagraph"),
    ],
)
def test_a_mode_that_the_device_cannot_run_is_refused(mode, device, said):
    with pytest.raises(InputError, match=said):
        check_execution("draft", mode, device)


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"C\+\+ compiler"):
        check_execution("draft", "compile", "cpu")


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_compiled_programs_equal_the_forward_and_are_kept(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    raw = random_model(architecture, layers=2)
    for work in (chain, ragged, tree):
        wanted = work(Transformer("target", raw))
        for made in (True, False):  # the second model loads the programs of the first
            model = Transformer("target", raw, execution=execution_of("compile"))
            for ours, theirs in zip(work(model), wanted, strict=True):
                assert apart(ours, theirs) < 1e-4
            execution: Execution = model.execution
            assert bool(execution.made) == made
            assert bool(execution.loaded) != made
    fewer = Transformer("target", raw, V - 7, execution_of("compile"))
    assert [output.logits.shape[-1] for output in tree(fewer)] == [V - 7] * 2, "a program belongs to a number of logits"
    raw.share_memory()  # as when another process gets the model; the weights move
    for ours, theirs in zip(tree(model), wanted, strict=True):
        assert apart(ours, theirs) < 1e-4, "a program follows its weights"
    others = random_model(architecture, layers=2, seed=1)
    model = Transformer("target", others, execution=execution_of("compile"))
    for ours, theirs in zip(tree(model), tree(Transformer("target", others)), strict=True):
        assert apart(ours, theirs) < 1e-4, "a program holds no weights"
    assert not model.execution.made


@pytest.mark.slow
@torch.inference_mode()
def test_compiled_programs_compute_with_blocked_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(prepacked, "SMALLEST", 64)
    raw = random_model("llama", layers=2)
    wanted = chain(Transformer("target", raw))
    prepacked.prepack(raw)
    products = []
    monkeypatch.setattr(PrepackedLinear, "product", counted(PrepackedLinear.product, products))
    for made in (True, False):  # the second model loads the programs of the first
        model = Transformer("target", raw, execution=execution_of("compile"))
        for _ in range(2):
            for ours, theirs in zip(chain(model), wanted, strict=True):
                assert apart(ours, theirs) < 1e-4
            assert len(products) >= 3 * 15, "two layers of seven matrices, and the head, in three steps"
            products.clear()
            raw.share_memory()  # the weights move
        assert bool(model.execution.made) == made


def counted(product, calls):
    def count(part, given):
        calls.append(part)
        return product(part, given)

    return count


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_compiled_program_updates_the_cache_in_place(rows, architecture, tmp_path, monkeypatch):
    """No loop in its code is as long as a layer of the cache."""
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path))
    model = Transformer("target", random_model(architecture, layers=2), execution=execution_of("compile"))
    model.allocate(rows, 1000)
    here = context(torch.ones(rows, 20, dtype=torch.long), [8] * rows, 20)
    key = Key(np.zeros(rows, np.uint64), np.zeros(rows, int))
    for row in range(rows):  # the first read allocates the layers
        model.read(here, np.full(rows, 5), "prefill", row=row)
    model.read(here, np.full(rows, 8), "verify", num_logits=2)
    model.draft(here, 3, "draft", key)
    lengths = {str(layer.numel()) for layer in model.pool.keys.values()}
    packages = [*(tmp_path / "compiled").glob("*.pt2")]
    assert len(packages) == 2
    for package in packages:
        with zipfile.ZipFile(package) as held:
            kernels = [held.read(name).decode() for name in held.namelist() if name.endswith(".kernel.cpp")]
        assert kernels
        assert not any(lengths & {*re.findall("[0-9]+", kernel)} for kernel in kernels)
