"""Bad knobs are refused in one sentence, and the YAML files say what the constructors say."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from sdbench import acceptance
from sdbench.errors import InputError
from sdbench.validate import shown

CONF = Path(__file__).parents[2] / "conf" / "acceptance"
FILES = sorted(CONF.glob("*.yaml"))

BAD = [
    ("Fuzzy", {"threshold": -0.1}, "threshold"),
    ("Fuzzy", {"threshold": float("nan")}, "threshold"),
    ("Fuzzy", {"threshold": float("inf")}, "threshold"),
    ("Fuzzy", {"threshold": "0.4x"}, "threshold"),
    ("Fuzzy", {"form": "hard"}, "threshold, fallback"),
    ("Fuzzy", {"replacement": "q"}, "verifier, residual"),
    ("Fuzzy", {"divergence": "jsd"}, "js_fsd_code"),
    ("Fuzzy", {"top_k": 0}, "top_k"),
    ("Fuzzy", {"top_k": 2.5}, "top_k"),
    ("Fuzzy", {"warped": "yes"}, "warped"),
    ("Fuzzy", {"divergence": "abs_logit", "warped": True}, "raw logits"),
    ("Lenience", {"lenience": 0}, "(0, 1]"),
    ("Lenience", {"lenience": 1.5}, "(0, 1]"),
    ("Typical", {"posterior_threshold": 1.1}, "posterior_threshold"),
    ("Typical", {"posterior_alpha": -1}, "posterior_alpha"),
    ("Consultant", {"threshold": -1}, "threshold"),
    ("Consultant", {"beta": 1.0}, "[0, 1)"),
    ("Consultant", {"initial": "last"}, "first, zero"),
    ("Consultant", {"reset": "always"}, "never, rejection"),
    ("Consultant", {"warped": 1}, "warped"),
    ("RelaxedTopK", {"relaxed_topk": 0}, "relaxed_topk"),
    ("RelaxedTopK", {"relaxed_topk": None}, "relaxed_topk"),
    ("RelaxedTopK", {"relaxed_delta": 2}, "relaxed_delta"),
    ("TopBeta", {"beta": 0}, "beta"),
    ("TopBeta", {"tau": -1}, "tau"),
    ("Thresholds", {"threshold_single": -0.1}, "threshold_single"),
    ("Thresholds", {"threshold_acc": 1.1}, "threshold_acc"),
    ("BiLD", {"rollback_threshold": -5}, "rollback_threshold"),
    ("Mentored", {"budget": -0.1}, "budget"),
    ("Mentored", {"tolerance": 1}, "tolerance"),
    ("Cactus", {"delta": -1}, "delta"),
    ("Cactus", {"delta": True}, "delta"),
    ("Cascade", {"deferral": "token_v4"}, "token_v3"),
    ("Cascade", {"deferral": "chow", "alpha": -0.1}, "[0, 1]"),
    ("Cascade", {"deferral": "diff", "alpha": -1.1}, "[-1, 1]"),
    ("Cascade", {"deferral": "opt", "alpha": float("-inf")}, "finite number"),
    ("EASD", {"draft_entropy": -1}, "draft_entropy"),
    ("EASD", {"target_entropy": float("inf")}, "target_entropy"),
    ("EASD", {"top_n": 0}, "top_n"),
    ("EASD", {"overlap": 1.1}, "overlap"),
    ("EASD", {"warped": "no"}, "warped"),
    ("EARS", {"beta": -0.1}, "beta"),
    ("FLy", {"window": 0}, "window"),
    ("FLy", {"entropy": -0.3}, "entropy"),
    ("FLy", {"draws": 0}, "draws"),
    ("Ensemble", {"weight": 0}, "(0, 1]"),
]


@pytest.mark.parametrize(("rule", "knobs", "says"), BAD)
def test_a_bad_knob_is_refused(rule, knobs, says):
    with pytest.raises(InputError) as refused:
        getattr(acceptance, rule)(**knobs)
    sentence = str(refused.value)
    assert says in sentence
    assert sentence.count("\n") == 0
    assert shown(list(knobs.values())[-1]) in sentence


BASES = (acceptance.AcceptanceRule, acceptance.SiblingRule, acceptance.TokenRule)


def read(file):
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def test_every_rule_has_its_file():
    rules = {
        value
        for value in vars(acceptance).values()
        if inspect.isclass(value) and hasattr(value, "law") and value not in BASES
    }
    assert {get_class(read(file)["_target_"]) for file in FILES} == rules


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_what_the_constructor_says(file):
    config = read(file)
    knobs = {name: value for name, value in config.items() if name != "_target_"}
    parameters = inspect.signature(get_class(config["_target_"])).parameters
    assert knobs == {name: parameter.default for name, parameter in parameters.items()}
    assert instantiate(config).lossless_over is not None
    assert "@package" not in file.read_text()
