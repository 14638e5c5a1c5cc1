"""Intervals, tests and detectable effects of arrays of numbers. This package knows nothing of runs."""
