"""Length policies say how far a drafter drafts in a round. Each has a file of its own."""

from sdbench.drafting.lengths.base import LengthPolicy as LengthPolicy
from sdbench.drafting.lengths.confidence import StopWhenUnsure as StopWhenUnsure
from sdbench.drafting.lengths.fixed import Fixed as Fixed
