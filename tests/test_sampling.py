"""Warping, and choices that depend on their key alone."""

import hashlib
import sys
from bisect import bisect_left, bisect_right
from itertools import accumulate, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.errors import InputError
from sdbench.keyed_random import HashChoices, Key, invert, stream
from sdbench.sampling import Sampling, Scored, most_likely, warp


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
def test_the_most_likely_token_is_the_first_of_equals(kind, width):
    generator = torch.Generator().manual_seed(width)
    logits = torch.randn(7, width, generator=generator, dtype=torch.float64).to(kind)
    logits[3] = 0.5
    assert most_likely(logits).tolist() == logits.argmax(-1).tolist()
    assert most_likely(logits[3]) == 0


def inverted_in_plain_numbers(weights: list[float], uniform: float) -> int:
    """Bisect the running sums; where the level is the whole mass, take the last outcome with weight."""
    mass = [*accumulate(weights)]
    level = uniform * mass[-1]
    return bisect_right(mass, level) if level < mass[-1] else bisect_left(mass, mass[-1])


WEIGHTS = st.one_of(
    st.just(0.0),
    st.sampled_from([1.0, 0.5, 0.1, 0.3, 1e-30, 1e30, 5e-324]),
    st.floats(0, 1e6, allow_subnormal=False),
)
UNIFORMS = st.one_of(st.sampled_from([0.0, 0.5, 1 - 2.0**-53, 2.0**-53]), st.floats(0, 1, exclude_max=True))


@given(st.lists(WEIGHTS, min_size=1, max_size=40), UNIFORMS)
@settings(deadline=None, max_examples=300)
def test_inversion_is_bisection_of_the_running_sums(weights, uniform):
    found = invert(torch.tensor([weights], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64))
    assert found.tolist() == [inverted_in_plain_numbers(weights, uniform)]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 1000, 50000])
def test_choices_are_inversions_over_small_and_large_vocabularies(kind, width):
    generator = torch.Generator().manual_seed(width)
    probs = torch.randn(7, width, generator=generator, dtype=torch.float64).to(kind).softmax(-1)
    probs[0, -1:] = probs[1, :1] = 0
    probs[4] = probs[5] = 0
    probs[5, width // 2] = 0.25
    lines = probs.double().tolist()
    for round in range(10):
        name = key(7, round)
        expected = [inverted_in_plain_numbers(*pair) for pair in zip(lines, name.uniform().tolist(), strict=True)]
        assert HashChoices().choose(probs, name).tolist() == expected


def hashed_in_plain_numbers(stream: int, round: int, path: tuple[int | str, ...]) -> float:
    """The uniform number of a key, in Python's integers."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    word = int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=8).digest(), sys.byteorder)
    return (mix(mix(stream ^ mix(round % 2**64)) ^ word) >> 11) * 2.0**-53


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-1, 10**6)), min_size=1, max_size=5),
    st.lists(st.one_of(st.integers(0, 99), st.sampled_from(["draft", "inner", "next"])), max_size=3),
)
@settings(deadline=None, max_examples=100)
def test_the_numbers_of_a_key_are_its_hash(rows, path):
    streams, rounds = np.array([stream for stream, _ in rows], np.uint64), [round for _, round in rows]
    name = Key(streams, rounds)
    for part in path:
        name = name / part
    assert name.uniform().tolist() == [hashed_in_plain_numbers(*row, tuple(path)) for row in rows]
    for depth, numbers in enumerate(name.uniforms(3)):
        assert numbers.tolist() == [hashed_in_plain_numbers(*row, (*path, depth)) for row in rows]


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

        def uniform(self):
            return np.array([self.level])

    for probs, level in product((torch.tensor([weights]), torch.tensor([weights * 40])), (0.0, 0.5, 1 - 2.0**-53)):
        extreme = Extreme(np.zeros(1, np.uint64), np.zeros(1))
        object.__setattr__(extreme, "level", level)
        assert probs[0, HashChoices().choose(probs, extreme)[0]] > 0


def test_scores_keep_what_they_have_computed():
    sampling = Sampling(0.7, top_k=4)
    scored = Scored(torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)), sampling)
    assert torch.equal(scored.probs, warp(scored.logits, sampling))
    assert scored.probs is scored.probs
    joined = Scored.cat([scored[:, :1], scored[:, 1:]], 1)
    for scores in (joined, scored[:]):
        assert torch.equal(scores.logits, scored.logits)
        for name in ("best", "probs", "plain"):
            assert torch.equal(getattr(scores, name), getattr(scored, name))


def test_scores_pass_known_values_on_to_their_parts():
    known = torch.tensor([[1, 0, 2], [0, 1, 1]])
    scored = Scored(torch.zeros(2, 3, 7), Sampling()).knowing(best=known)
    assert scored[:, 1].best.tolist() == [0, 1]
    assert Scored.cat([scored[:, 1:], scored[:, :1]], 1).best.tolist() == [[0, 2, 1], [1, 1, 0]]
    mixed = Scored.cat([scored[:, 1:], Scored(torch.ones(2, 1, 7), Sampling())], 1)
    assert mixed.best.tolist() == [[0, 0, 0], [0, 0, 0]], "a part without the value: it is computed for the whole"


@pytest.mark.parametrize("knobs", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}])
def test_bad_knobs_are_refused(knobs):
    with pytest.raises(InputError):
        Sampling(**knobs)
