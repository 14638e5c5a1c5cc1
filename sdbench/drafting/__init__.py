"""Proposers, and the policies that say how far they draft."""

from sdbench.drafting.base import Proposer as Proposer
from sdbench.drafting.dynamic_tree import DynamicTree as DynamicTree
from sdbench.drafting.lengths import Fixed as Fixed, LengthPolicy as LengthPolicy, StopWhenUnsure as StopWhenUnsure
from sdbench.drafting.lookup import PromptLookup as PromptLookup
from sdbench.drafting.model import EarlyExit as EarlyExit, ModelDrafter as ModelDrafter
from sdbench.drafting.no_draft import NoDraft as NoDraft
from sdbench.drafting.staged import StagedDrafter as StagedDrafter
from sdbench.drafting.staged_tree import StagedTree as StagedTree
from sdbench.drafting.suffix import SuffixLookup as SuffixLookup
from sdbench.drafting.tree import PlannedTree as PlannedTree, TreeDrafter as TreeDrafter
