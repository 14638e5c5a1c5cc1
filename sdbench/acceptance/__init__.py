"""Acceptance rules: how much of a draft a verifier keeps. Rules are pure functions of tensors; `base` has their interface."""

from sdbench.acceptance.base import AcceptanceRule, Decided, Law, Memoryless, Verdict, draw, keep_best, tokenwise
from sdbench.acceptance.best_chain import BestChain
from sdbench.acceptance.bild import BiLD
from sdbench.acceptance.block import Block
from sdbench.acceptance.cactus import Cactus
from sdbench.acceptance.cascades import Cascade
from sdbench.acceptance.consultant import Consultant
from sdbench.acceptance.divergence import DIVERGENCES, Divergence
from sdbench.acceptance.draft import Draft, ProposalKind
from sdbench.acceptance.ears import EARS
from sdbench.acceptance.easd import EASD
from sdbench.acceptance.ensemble import Ensemble
from sdbench.acceptance.exact import Exact
from sdbench.acceptance.fly import FLy
from sdbench.acceptance.fuzzy import Fuzzy
from sdbench.acceptance.kseq import KSeq
from sdbench.acceptance.lenience import Lenience
from sdbench.acceptance.longest import LongestPath
from sdbench.acceptance.match import Match
from sdbench.acceptance.mentored import Mentored
from sdbench.acceptance.recorded import Recorded
from sdbench.acceptance.relaxed_topk import RelaxedTopK
from sdbench.acceptance.simulated_acceptance import Forced, ForcedByPosition, ForcedLength
from sdbench.acceptance.spechub import SpecHub
from sdbench.acceptance.thresholds import Thresholds
from sdbench.acceptance.top_beta import TopBeta
from sdbench.acceptance.traversal import Traversal
from sdbench.acceptance.typical import Typical
from sdbench.acceptance.walk import SiblingRule, TokenRule, TreeRule, walk
from sdbench.acceptance.zhou_joint import ZhouJoint

__all__ = [
    "DIVERGENCES",
    "EARS",
    "EASD",
    "AcceptanceRule",
    "BestChain",
    "BiLD",
    "Block",
    "Cactus",
    "Cascade",
    "Consultant",
    "Decided",
    "Divergence",
    "Draft",
    "Ensemble",
    "Exact",
    "FLy",
    "Forced",
    "ForcedByPosition",
    "ForcedLength",
    "Fuzzy",
    "KSeq",
    "Law",
    "Lenience",
    "LongestPath",
    "Match",
    "Memoryless",
    "Mentored",
    "ProposalKind",
    "Recorded",
    "RelaxedTopK",
    "SiblingRule",
    "SpecHub",
    "Thresholds",
    "TokenRule",
    "TopBeta",
    "Traversal",
    "TreeRule",
    "Typical",
    "Verdict",
    "ZhouJoint",
    "draw",
    "keep_best",
    "tokenwise",
    "walk",
]
