"""SpecBranch's classifier: labels of a replay, a training that beats the constant, and drafts that follow its signals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdbench.acceptance import Exact
from sdbench.asynchronous import SpecBranchDrafter
from sdbench.asynchronous.branch_network import ALL, NONE, SOME, BranchNetwork, BranchShape, load_branch_network
from sdbench.decoding import Request, Speculative
from sdbench.errors import InputError
from sdbench.exactness import LOSSLESS, TabularModel, distance_from_target
from sdbench.harness.config import compose
from sdbench.harness.plan import prepare
from sdbench.lm.trace import Trace
from sdbench.lm.transformer import Transformer
from sdbench.models.identity import model_identity
from sdbench.models.spec import family_specs
from sdbench.sampling import Sampling
from sdbench.stopping import NeverStop
from sdbench.training.recipes.branch_classifier import BranchClassifier, outcomes
from tests.conftest import random_model
from tests.training.test_length_policy import FAMILY, Texts, job_in


def test_labels_are_how_many_tokens_of_a_draft_are_kept():
    kept = torch.tensor([True, True, True, False, True, True, True])
    label, known = outcomes(kept, 2)
    # A draft of two that begins at the last place is not known to its end. The first place belongs to the prefill.
    assert known.tolist() == [False, True, True, True, True, True, False]
    assert [label[place].item() for place in range(1, 6)] == [ALL, SOME, NONE, ALL, ALL]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("trained")
    job = job_in(folder)
    recipe = BranchClassifier(Texts(60), 2000, tokens=40_000, batch_tokens=64, last_layers=2, widths=[32])
    return job.out, recipe.run(job)


def test_a_short_training_beats_the_constant(trained):
    measured = trained[1]["measured"]
    assert measured["ce"] < 0.95 * measured["constant_ce"]
    assert measured["accuracy"] >= measured["constant_accuracy"]
    assert measured["none"] + measured["some"] + measured["all"] == pytest.approx(1)
    network = load_branch_network(str(trained[0]))
    assert network.shape.target == model_identity(family_specs(FAMILY)["target"])


def test_an_arm_takes_it_and_refuses_one_for_other_models(trained):
    words = ["arms=[ar,specbranch]", f"arms.specbranch.proposer.classifier={trained[0]}", "limit=1"]
    plan = prepare(compose([*words, "arms.specbranch.proposer.verifier=target"]))
    assert any(str(trained[0]) in file for file in plan.drafting_files)
    with pytest.raises(InputError, match=r"reads the verifier: give proposer\.verifier"):
        prepare(compose(words))
    with pytest.raises(InputError, match="was trained for another model than qualifier"):
        prepare(
            compose([*words, "arms.specbranch.proposer.verifier=target", "arms.specbranch.proposer.model=qualifier"])
        )


class Told(SpecBranchDrafter):
    """Signals that are a function of the decided tokens."""

    def _signal(self, state):
        return [int(state.tokens[row, : int(state.length[row])].sum()) % 3 for row in range(state.rows)]


def test_signals_from_decided_tokens_change_no_law():
    target, draft = TabularModel("target", 2, 1), TabularModel("draft", 2, 3)
    decoder = Speculative(target, Exact(), Told(draft, 2, 0.8, process=False), 2)
    assert distance_from_target(decoder, target, 2) < LOSSLESS


@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_drafts_end_where_the_network_says(process, tmp_path):
    """A network that always says the same, in batches: greedy tokens stay the target's."""
    raw = random_model("llama")
    texts = [Request([5, 3, 8, 1 + number], str(number)) for number in range(3)]
    target, draft = Transformer("target", raw), Transformer("draft", random_model("llama", seed=1))
    expected = [one.tokens for one in Speculative(target).generate(texts, Sampling(), NeverStop(), 10)]
    for signal, epsilon, lengths in ((NONE, 0.0, {0}), (ALL, 1.0, {3}), (SOME, 0.0, {3}), (SOME, 1.0, {0})):
        network = BranchNetwork(BranchShape((3, 4), raw.config.hidden_size, (), "", ""))
        torch.nn.init.zeros_(network.layers[0].weight)
        network.layers[0].bias.data = torch.nn.functional.one_hot(torch.tensor(signal), 3).float()
        network.write(tmp_path / str(signal))
        drafter = SpecBranchDrafter(
            draft, 2, epsilon, process=process, classifier=str(tmp_path / str(signal)), verifier=target
        )
        trace = Trace()
        rows = 1 if process else 3
        method = Speculative(target, Exact(), drafter, 3)
        done = list(method.generate(texts, Sampling(), NeverStop(), 10, rows=rows, trace=trace))
        method.close()
        assert [one.tokens for one in sorted(done, key=lambda one: one.request.name)] == expected
        assert {row["proposed"] for row in trace.rounds if row["round"] < 2} == lengths, (
            "the draft is never sure enough"
        )


def test_the_network_reads_the_last_token_that_the_target_has_read():
    """The features are those of one plain forward over the decided tokens."""
    raw = random_model("llama")
    seen = []

    class Watching(SpecBranchDrafter):
        def _signal(self, state):
            class Net:
                shape = BranchShape((3, 4), raw.config.hidden_size, (), "", "")

                def expected(self, hidden, embedded):
                    ids = state.tokens[:1, : int(state.length[0])]
                    states = raw(ids, output_hidden_states=True).hidden_states
                    wanted = torch.cat([states[layer][0, -2] for layer in self.shape.layers])
                    seen.append(torch.allclose(hidden[0], wanted, atol=1e-4))
                    seen.append(torch.equal(embedded[0], raw.get_input_embeddings()(ids[0, -1])))
                    return [SOME]

            self.network = Net()
            return super()._signal(state)

        def open(self, state, length):
            super().open(state, length)
            self.verifier.tap((3, 4))

    target, draft = Transformer("target", raw), Transformer("draft", random_model("llama", seed=1))
    drafter = Watching(draft, 2, 0.0, process=False)
    drafter.verifier = target
    list(Speculative(target, Exact(), drafter, 3).generate([Request([5, 3, 8], "a")], Sampling(), NeverStop(), 10))
    assert len(seen) > 6
    assert all(seen)


def test_damaged_files_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.safetensors; `sdbench train recipe=branch_classifier`"):
        load_branch_network(str(tmp_path))
    network = BranchNetwork(BranchShape((1,), 4, (), "", ""))
    network.write(tmp_path)
    (tmp_path / "branches.json").write_text(
        (tmp_path / "branches.json").read_text().replace('"hidden": 4', '"hidden": 5')
    )
    with pytest.raises(InputError, match=r"cannot be read .*size mismatch.* train the network again"):
        load_branch_network(str(tmp_path))
    with pytest.raises(InputError, match=r"last_layers is 99"):
        BranchClassifier(Texts(4), 10, last_layers=99).run(job_in(tmp_path))
