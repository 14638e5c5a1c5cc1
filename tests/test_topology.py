"""Token trees: their shapes and what is derived from them."""

import pytest

from sdbench.errors import InputError
from sdbench.topology import Topology


def test_branching():
    tree = Topology.branching([2, 2])
    assert tree.parent == (0, 0, 1, 1, 2, 2)
    assert tree.depth == (0, 1, 1, 2, 2, 2, 2)
    assert tree.children[0] == (1, 2)
    assert tree.children[2] == (5, 6)
    assert tree.rank == (0, 1, 0, 1, 0, 1)
    assert tree.widths == (2, 4)
    assert tree.path(6) == [2, 6]
    assert tree.path(0) == []


@pytest.mark.parametrize("widths", [[32, 32, 1], [2] * 40, [10**9]])
def test_a_tree_of_too_many_tokens_is_refused(widths):
    with pytest.raises(InputError, match="the most are 1024"):
        Topology.branching(widths)
    assert Topology.branching([1024]).size == 1024


def test_a_chain_has_no_siblings():
    assert Topology.chain(3) == Topology.branching([1, 1, 1])
    assert Topology.chain(3).rank == (0, 0, 0)
    assert Topology.chain(0).size == 0


def test_ancestors():
    tree = Topology.branching([2, 1])
    assert tree.ancestors.tolist() == [
        [True, False, False, False],
        [False, True, False, False],
        [True, False, True, False],
        [False, True, False, True],
    ]


def test_the_branches_of_a_speculation():
    tree = Topology.branches(2, [0, 2], 2)
    assert tree.parent == (0, 1, 0, 2, 3, 4)
    assert tree.path(5) == [3, 5], "behind no token of the speculation"
    assert tree.path(6) == [1, 2, 4, 6], "behind all of it"
    assert Topology.branches(2, [], 3) == Topology.chain(2)


def test_the_choices_of_medusa():
    tree = Topology.from_paths([[0], [0, 0], [1], [0, 1], [0, 0, 0]])
    assert tree.parent == (0, 0, 1, 1, 3)
    assert [tree.depth[node] for node in range(1, 6)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("paths", [[[0], [1, 0]], [[1]], [[0], [0, 1]]])
def test_paths_that_hang_in_the_air_are_refused(paths):
    with pytest.raises(InputError, match="needs its parent and its elder siblings"):
        Topology.from_paths(paths)


def test_a_child_before_its_parent_is_refused():
    with pytest.raises(InputError, match="Node 1 of a token tree follows node 2"):
        Topology((2, 0))
