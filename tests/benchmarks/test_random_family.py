"""A family of random weights has the published sizes, or is refused."""

import pytest
import yaml

from experiments.benchmarks.random_family import SHAPES, configs
from sdbench.errors import InputError
from sdbench.harness.config import compose


def test_the_shapes_have_as_many_parameters_as_was_published():
    published = compose(["models=llama3"])["models"]
    found = configs(yaml.safe_load(SHAPES.read_text()), published)
    assert set(found) == set(published)
    shapes = yaml.safe_load(SHAPES.read_text())
    shapes["draft"]["num_hidden_layers"] -= 1
    with pytest.raises(InputError, match="shape of draft has"):
        configs(shapes, published)


def test_the_forced_experiment_forces_every_stage():
    config = compose(["experiment=forced"])
    arms = config["arms"]
    assert len(arms) == 4, "ar, sd at two lengths, and the pyramid"
    rules = [arm["rule"] for name, arm in arms.items() if name != "ar"]
    rules.append(arms["pyramid"]["proposer"]["rule"])
    assert {rule["_target_"] for rule in rules} == {"sdbench.acceptance.Forced"}
