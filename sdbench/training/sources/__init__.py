"""Sources of training data, one file each.

A source gives sequences with their prompts:

    TextFile        lines of a text, or texts of a file of JSON lines
    FinishedRun     the prompts and outputs of a finished run
    Answers         answers of the target to given prompts
    SelfInstructed  prompts and answers that an instruct model writes; no data set is needed
    Kept            the corpus of another training
    Mixture         several sources, by share

A draft's own texts (on-policy data) come from the recipe that trains it, because they change as it learns.
"""

from sdbench.training.sources.answers import Answers
from sdbench.training.sources.base import Source
from sdbench.training.sources.finished_run import FinishedRun
from sdbench.training.sources.kept import Kept
from sdbench.training.sources.mixture import Mixture
from sdbench.training.sources.self_instructed import SelfInstructed
from sdbench.training.sources.text_file import TextFile

__all__ = ["Answers", "FinishedRun", "Kept", "Mixture", "SelfInstructed", "Source", "TextFile"]
