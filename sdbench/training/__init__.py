"""Train drafts, heads, length policies and families.

`sdbench train recipe=NAME` runs a file of `recipes/` (conf/train/). Its sequences come from a file of `sources/` (conf/data/).
`job` has what a recipe works with: target, corpus, laws, hidden states, folders and the card. `optimise` has the loop of steps up
to a budget, with checkpoints and log. `tiny/` has the modules of the tiny family.
"""
