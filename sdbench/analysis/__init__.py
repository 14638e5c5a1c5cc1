"""From the run record to metrics, intervals, figures and the report."""
