"""Predict and simulate the speed of methods from the step times and the acceptance of a run."""
