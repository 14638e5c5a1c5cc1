"""The exactness oracle: tabular language models, and the enumeration of a method's exact output law."""

from sdbench.exactness.oracle import (
    LOSSLESS as LOSSLESS,
    Walk as Walk,
    distance_from_target as distance_from_target,
    output_law as output_law,
    total_variation as total_variation,
)
from sdbench.exactness.tabular import TabularModel as TabularModel, sequence_law as sequence_law
