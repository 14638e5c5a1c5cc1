"""Warping, and choices that depend on their key alone."""

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.errors import InputError
from sdbench.keyed_random import HashChoices, Key, invert, stream
from sdbench.sampling import Sampling, most_likely, warp


def key(rows: int, round: int = 0, seed: int = 0) -> Key:
    streams = np.array([stream(seed, f"prompt {row}", 0) for row in range(rows)], np.uint64)
    return Key(streams, np.full(rows, round))


def by_hand(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    weights = [np.exp(x / temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    if top_k:
        order = order[:top_k]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if mass >= top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    return [weights[i] / mass if i in kept else 0.0 for i in range(len(weights))]


@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.integers(0, 10),
    st.sampled_from([0.31, 0.77, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_warp_is_temperature_then_top_k_then_top_p(tens, temperature, top_k, top_p):
    logits = [x / 10 for x in tens]
    probs = warp(torch.tensor(logits, dtype=torch.float64), Sampling(temperature, top_k, top_p))
    assert probs.tolist() == pytest.approx(by_hand(logits, temperature, top_k, top_p), abs=1e-12)


def test_greedy_is_one_hot():
    assert warp(torch.tensor([[1.0, 3.0, 2.0]]), Sampling()).tolist() == [[0.0, 1.0, 0.0]]


def test_a_row_s_choice_does_not_depend_on_the_others():
    probs = torch.rand(6, 11, generator=torch.Generator().manual_seed(0))
    together = HashChoices().choose(probs, key(6) / "draft" / 2)
    names = key(6)
    for row in range(6):
        alone = Key(names.streams[row : row + 1], names.rounds[row : row + 1]) / "draft" / 2
        assert HashChoices().choose(probs[row : row + 1], alone)[0] == together[row]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 1000, 50000])
def test_on_a_cpu_the_same_is_chosen_another_way(kind, width):
    generator = torch.Generator().manual_seed(width)
    logits = torch.randn(7, width, generator=generator, dtype=torch.float64).to(kind)
    logits[3] = 0.5  # the first among equals
    assert most_likely(logits).tolist() == logits.argmax(-1).tolist()
    assert most_likely(logits[2]) == logits[2].argmax()
    probs = logits.softmax(-1)
    probs[0, -1:] = probs[1, :1] = 0
    probs[4] = 0
    probs[5] = 0
    probs[5, width // 2] = 0.25
    for round in range(50):
        name = key(7, round)
        expected = invert(probs, torch.from_numpy(name.uniform()))
        assert HashChoices().choose(probs, name).tolist() == expected.tolist()


def test_the_numbers_of_a_key_are_its_hash():
    """Against the same in numpy's 64-bit arithmetic; a round may be -1, before there is one."""

    def mix(x):
        with np.errstate(over="ignore"):
            x = x + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return x ^ (x >> np.uint64(31))

    streams, rounds = np.array([0, 5, 2**64 - 1], np.uint64), np.array([-1, 0, 7])
    name = Key(streams, rounds) / "draft"
    for depth, numbers in enumerate(name.uniforms(3)):
        digest = hashlib.blake2b(repr(("draft", depth)).encode(), digest_size=8).digest()
        bits = mix(mix(streams ^ mix(rounds.astype(np.uint64))) ^ np.frombuffer(digest, np.uint64))
        assert numbers.tolist() == ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).tolist()
        assert numbers.tolist() == (name / depth).uniform().tolist()


@pytest.mark.parametrize("vary", ["round", "seed", "path"])
def test_uniforms_are_uniform_and_independent(vary):
    """Kolmogorov-Smirnov against the uniform law, and no correlation between neighbours."""
    made = {
        "round": lambda i: key(1, round=i),
        "seed": lambda i: key(1, seed=i),
        "path": lambda i: key(1) / "draft" / i,
    }[vary]
    numbers = np.array([made(i).uniform()[0] for i in range(4000)])
    ordered = np.sort(numbers)
    distance = np.abs(ordered - np.arange(1, 4001) / 4000).max()
    assert distance < 1.95 / np.sqrt(4000)  # the 0.1 % point
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 3.3 / np.sqrt(4000)


def test_choices_have_the_law_of_their_weights():
    """A chi-square test, and its negative control: other weights are rejected."""
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 6.0, 0.0])
    names = key(20_000)
    drawn = HashChoices().choose(weights.expand(20_000, -1), names)
    counts = torch.bincount(drawn, minlength=6).double()
    assert counts[weights == 0].sum() == 0

    def chi_square(expected: torch.Tensor) -> float:
        some = expected > 0
        return float(((counts - 20_000 * expected)[some] ** 2 / (20_000 * expected)[some]).sum())

    limit = 13.8  # two degrees of freedom, 0.1 %
    assert chi_square(weights / 10) < limit
    assert chi_square(torch.tensor([0.0, 3.2, 0.0, 1.0, 5.8, 0.0]) / 10) > limit


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 0.0], [1e-30, 1.0, 0.0], [0.0, 0.0, 5.0, 0.0]])
def test_an_outcome_without_weight_is_never_drawn(weights):
    class Extreme(Key):
        level = 0.0

        def numbers(self):
            return [self.level]

    for probs, level in product((torch.tensor([weights]), torch.tensor([weights * 40])), (0.0, 0.5, 1 - 2.0**-53)):
        extreme = Extreme(np.zeros(1, np.uint64), np.zeros(1))
        object.__setattr__(extreme, "level", level)
        assert probs[0, HashChoices().choose(probs, extreme)[0]] > 0


@pytest.mark.parametrize("knobs", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}])
def test_bad_knobs_are_refused(knobs):
    with pytest.raises(InputError):
        Sampling(**knobs)
