"""The one error that is meant for the user."""


class InputError(ValueError):
    """The input was refused: one sentence that says what is wrong and what would be right. Exit status 2."""
