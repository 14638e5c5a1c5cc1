"""Proposers, and the policies that say how far they draft."""

from sdbench.drafting.adadecode import AdaDecode as AdaDecode
from sdbench.drafting.base import Proposer as Proposer
from sdbench.drafting.dynamic_tree import DynamicTree as DynamicTree
from sdbench.drafting.hierarchy import hierarchy as hierarchy
from sdbench.drafting.lengths import (
    AdaptiveThreshold as AdaptiveThreshold,
    DecisionModel as DecisionModel,
    Fixed as Fixed,
    Heuristic as Heuristic,
    LengthPolicy as LengthPolicy,
    MatchLength as MatchLength,
    Pacer as Pacer,
    SpeculativeVerification as SpeculativeVerification,
    StopWhenUnsure as StopWhenUnsure,
    Window as Window,
)
from sdbench.drafting.lookahead import Lookahead as Lookahead
from sdbench.drafting.lookup import PromptLookup as PromptLookup
from sdbench.drafting.model import EarlyExit as EarlyExit, ModelDrafter as ModelDrafter
from sdbench.drafting.no_draft import NoDraft as NoDraft
from sdbench.drafting.parallel import ParallelDrafter as ParallelDrafter
from sdbench.drafting.parallel_tree import (
    BestPaths as BestPaths,
    ParallelChains as ParallelChains,
    ParallelTree as ParallelTree,
)
from sdbench.drafting.reencode import ReencodedDrafter as ReencodedDrafter
from sdbench.drafting.rest import Rest as Rest
from sdbench.drafting.staged import StagedDrafter as StagedDrafter
from sdbench.drafting.staged_tree import StagedTree as StagedTree
from sdbench.drafting.suffix import SuffixLookup as SuffixLookup
from sdbench.drafting.suffix_decoding import SuffixDecoding as SuffixDecoding
from sdbench.drafting.token_recycling import TokenRecycling as TokenRecycling
from sdbench.drafting.tree import PlannedTree as PlannedTree, TreeDrafter as TreeDrafter
