"""Imported by the process that others are forked from, before all that they need, and nowhere else: it ends with its parent."""

from sdbench.processes import die_with_parent

die_with_parent()
