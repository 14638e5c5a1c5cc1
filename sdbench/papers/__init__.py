"""Reproduce papers: run a paper's plan, keep its runs, and judge its claims by them.

A paper is a folder with `plan.yaml`, `claims.yaml`, `measures.py`, `figures.py` and `published.csv`. These folders lie in
`experiments/` of a checkout; a wheel carries them in `sdbench/papers/experiments/`. Either place extends this package, so the
Python files of a paper are imported as `sdbench.papers.<paper>.measures`.
"""

from pathlib import Path

FOLDER = next(
    folder
    for folder in (Path(__file__).parent / "experiments", Path(__file__).parents[2] / "experiments")
    if folder.is_dir()
)
__path__ = [*__path__, str(FOLDER)]
