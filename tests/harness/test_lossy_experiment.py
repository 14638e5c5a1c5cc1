"""The comparison of lossy methods has every lossy rule, each with two values of its knob, beside the lossless arms."""

from collections import Counter

from hydra.utils import instantiate

from sdbench.acceptance.draft import NEVER
from sdbench.harness.arms import build_on_stubs
from sdbench.harness.config import compose, members


def test_every_lossy_rule_is_compared():
    rules = {config["_target_"]: instantiate(config) for config in members("acceptance").values()}
    lossy = {
        name for name, rule in rules.items() if rule.lossless_over == NEVER and not getattr(rule, "simulated", False)
    }
    configs = compose(["experiment=lossy"])["arms"]
    arms = build_on_stubs(configs, ["target", "qualifier", "draft"])
    counted = Counter(f"sdbench.acceptance.{type(arm.decoder.rule).__name__}" for arm in arms)
    assert {name for name in lossy if counted[name] < 2} == set()
    assert len(lossy) > 10
    assert {arm.name for arm in arms if arm.decoder.lossless} == {"ar"} | {
        name for name in configs if name.startswith("sd[")
    }
    assert sum("Reflective" in str(config.get("scoring")) for config in configs.values()) == 2
