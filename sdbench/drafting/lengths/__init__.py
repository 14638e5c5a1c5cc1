"""Length policies say how far a stage drafts in a round. Each has a file of its own."""

from sdbench.drafting.lengths.adaptive_threshold import AdaptiveThreshold as AdaptiveThreshold
from sdbench.drafting.lengths.base import LengthPolicy as LengthPolicy, PolicyRows as PolicyRows
from sdbench.drafting.lengths.confidence import StopWhenUnsure as StopWhenUnsure
from sdbench.drafting.lengths.decision_model import DecisionModel as DecisionModel
from sdbench.drafting.lengths.fixed import Fixed as Fixed
from sdbench.drafting.lengths.heuristic import Heuristic as Heuristic
from sdbench.drafting.lengths.limited import Limited as Limited, calibrated as calibrated, limited as limited
from sdbench.drafting.lengths.match import MatchLength as MatchLength
from sdbench.drafting.lengths.pacer import Pacer as Pacer
from sdbench.drafting.lengths.speculative_verification import SpeculativeVerification as SpeculativeVerification
from sdbench.drafting.lengths.window import Window as Window
