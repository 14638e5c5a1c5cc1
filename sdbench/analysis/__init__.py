"""From the rows of a run to its summary, comparisons, figures and report.

- `tables` selects the rows that count.
- `metrics` computes the numbers of a summary from them.
- `stats` gives intervals, tests and detectable effects.
- `figures` draws a summary, and `report` writes tables, figures and the HTML page.
- `compare` decides whether one arm beats another.
- `results` opens a finished run in a notebook.
"""
