"""Length policies: how far a drafter drafts in a round. One file per policy."""

from sdbench.drafting.lengths.base import LengthPolicy as LengthPolicy
from sdbench.drafting.lengths.confidence import StopWhenUnsure as StopWhenUnsure
from sdbench.drafting.lengths.fixed import Fixed as Fixed
