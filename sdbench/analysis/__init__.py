"""From the rows of a run to its summary, comparisons, figures and report.

`tables` selects the rows that count; `metrics` computes one number from them each; `stats` gives intervals, tests and
detectable effects; `figures` draws a summary; `report` writes all of it for people; `compare` says whether one arm beats
another; `results` opens a finished run in a notebook.
"""
