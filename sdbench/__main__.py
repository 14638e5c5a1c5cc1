"""`python -m sdbench` is `sdbench`."""

from sdbench.cli import main

main()
