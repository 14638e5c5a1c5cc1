"""Execution modes of a step: eager, compiled programs, captured CUDA graphs."""
