"""Errors that are for people: one sentence each."""


class InputError(ValueError):
    """The input was refused: one sentence that says what is wrong and what would be right. Exit status 2."""


class RunError(RuntimeError):
    """What was started cannot go on: one sentence that says why. What was measured is kept. Exit status 1."""


class ScoringError(RunError):
    """One answer cannot be scored: it counts as failed, and the run goes on."""
