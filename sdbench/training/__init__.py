"""Train drafts, heads, length policies and families.

recipes/    one file per recipe: what `sdbench train recipe=NAME` runs (conf/train/)
sources/    where training sequences come from (conf/data/)
job         what a recipe works with: target, corpus, laws, hidden states, folders, card
optimise    the loop of steps up to a budget, with checkpoints and log
tiny/       the modules of the tiny family
"""
