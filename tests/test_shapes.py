"""The check of shape annotations: it sees wrong shapes in modules of sdbench, in the first calls of each test."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from sdbench.acceptance.base import normalised, residual
from sdbench.drafting.draft_tokens import DraftedTokens
from tests import shapes

P, OTHER = torch.full((2, 3), 1 / 3), torch.full((2, 4), 1 / 4)


@pytest.fixture
def halved():
    @shapes.check
    def halved(p: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
        return p[:, 0] if p.shape[1] == 3 else p

    return halved


def test_a_wrong_argument_is_found():
    residual(P, P)
    with pytest.raises(TypeCheckError, match="residual"):
        residual(P, OTHER)


def test_a_wrong_result_is_found(halved):
    halved(P)
    with pytest.raises(TypeCheckError, match="return value"):
        halved(OTHER)


def test_a_wrong_field_is_found():
    DraftedTokens(torch.zeros(2, 3, dtype=torch.long), None, torch.zeros(2, 3, 5))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError, match="DraftedTokens"):
        DraftedTokens(torch.zeros(2, 3, dtype=torch.long), None, torch.zeros(2, 4, 5))  # pyright: ignore[reportArgumentType]


def test_the_first_calls_of_each_test_are_checked(halved):
    for _ in range(shapes.CALLS):
        halved(P)
    halved(OTHER)
    shapes.begin_test()
    with pytest.raises(TypeCheckError):
        halved(OTHER)


def test_a_function_that_is_defined_again_and_again_is_checked_at_first():
    def outer() -> object:
        @shapes.check
        def inner(p: Float[Tensor, "B V"]) -> None:
            pass

        return inner

    made = [outer() for _ in range(shapes.DEFINITIONS + 1)]
    assert [hasattr(inner, "__wrapped__") for inner in made] == [True] * shapes.DEFINITIONS + [False]


def test_only_functions_with_shapes_are_wrapped():
    from sdbench.validate import whole

    assert hasattr(normalised, "__wrapped__")
    assert not hasattr(whole, "__wrapped__")
