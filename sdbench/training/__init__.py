"""Training of the tiny family."""
