"""Run a comparison: check the config, warm up, decode with the arms in turn, time them, and write the results."""
