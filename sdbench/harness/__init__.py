"""Runs a comparison: checks it, warms up, interleaves the arms, times and writes."""
