"""Latency formulas, and what they predict from a run's own step times and acceptance."""
