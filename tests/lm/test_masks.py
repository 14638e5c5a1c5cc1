"""Masks against their definitions in plain Python."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from sdbench.lm.masks import MaskForm, additive_masks, aligned, branch_masks, chain_masks
from sdbench.models.skeleton import CHUNKED, FULL, SLIDING

KINDS = st.sampled_from([(FULL,), (SLIDING,), (FULL, SLIDING), (CHUNKED,), (FULL, CHUNKED)])


def form(kinds: tuple[str, ...], window: int) -> MaskForm:
    return MaskForm(kinds, window, torch.tensor(0.0), torch.tensor(-torch.inf), chunk=window)


def near(kind: str, size: int, query: int, other: int) -> bool:
    """Whether a layer with a window or chunks of `size` tokens lets position `query` see position `other` before it."""
    return {FULL: True, SLIDING: query - other < size, CHUNKED: query // size == other // size}[kind]


def seen(masks: list[torch.Tensor]) -> list[list]:
    """Which slots each query sees, by kind of layers, row and query. Checks that masks hold nothing but 0 and -inf."""
    assert all(((mask == 0) | (mask == -torch.inf)).all() for mask in masks)
    return [(mask[:, 0] == 0).tolist() for mask in masks]


@given(KINDS, st.integers(1, 6), st.lists(st.integers(0, 11), min_size=1, max_size=3), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=80)
def test_a_chain_sees_its_past_within_the_window(kinds, window, firsts, width, padded):
    slots = max(firsts) + width
    positions = torch.tensor([[first + i for i in range(width)] for first in firsts])
    padding = torch.zeros_like(positions, dtype=torch.bool)
    if padded:
        padding[0, 0] = True
    masks = chain_masks(form(kinds, window), positions, torch.arange(slots), padding if padded else None)
    for kind, found in zip(kinds, seen(masks), strict=True):
        for row, first in enumerate(firsts):
            for query in range(width):
                position = first + query
                expected = [slot <= position and near(kind, window, position, slot) for slot in range(slots)]
                if padded and (row, query) == (0, 0):
                    expected = [True] * slots
                assert found[row][query] == expected


@given(
    KINDS,
    st.integers(1, 6),
    st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=2), min_size=1, max_size=2),
    st.integers(1, 4),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_a_branch_sees_its_row_up_to_its_root_and_itself(kinds, window, firsts, depth, gap):
    M, base = 2, max(map(max, firsts)) + gap
    slots = base + depth * M
    masks = branch_masks(form(kinds, window), torch.tensor(firsts), torch.tensor(base), depth, torch.arange(slots))
    for kind, found in zip(kinds, seen(masks), strict=True):
        for row, branches in enumerate(firsts):
            for deep in range(depth):
                for branch, first in enumerate(branches):
                    held = {slot: slot for slot in range(first)}  # slot: position
                    held |= {base + d * M + branch: first + d for d in range(deep + 1)}
                    expected = [slot in held and near(kind, window, first + deep, held[slot]) for slot in range(slots)]
                    assert found[row][deep * M + branch] == expected


def test_a_window_counts_positions_and_not_slots():
    """A tree's token may stand in a slot far from its position."""
    visible = torch.tensor([[[True, True, False, True]]])
    distance = torch.tensor([[[2, 1, 5, 0]]])
    full, sliding = seen(additive_masks(form((FULL, SLIDING), 2), visible, torch.tensor([[7]]), distance))
    assert full == [[[True, True, False, True]]]
    assert sliding == [[[False, True, False, True]]]


def test_a_chunk_counts_positions_and_not_slots():
    visible = torch.tensor([[[True, True, False, True]]])
    distance = torch.tensor([[[2, 1, 5, 0]]])
    full, chunked = seen(additive_masks(form((FULL, CHUNKED), 3), visible, torch.tensor([[7]]), distance))
    assert full == [[[True, True, False, True]]]
    assert chunked == [[[False, True, False, True]]]  # position 7 begins its chunk at 6


@pytest.mark.parametrize(("rows", "width", "slots"), [(1, 1, 13), (1, 5, 16), (3, 4, 21)])
def test_masks_for_a_gpu_begin_at_aligned_addresses(rows, width, slots):
    whole = torch.randn(1, 1, width, 64)
    cut = whole.narrow(3, 3, slots).expand(
        rows, -1, -1, -1
    )  # of one row, a view counts as contiguous wherever it begins
    mask = aligned(cut)
    assert torch.equal(mask, cut)
    assert mask.storage_offset() == 0
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
