"""The metrics of a run, one function each, computed from the run record's tables and from nothing else.

A function takes the rows of one arm (`tables.of_arm`) unless it says otherwise. A metric without data is NaN, and null in
`summary.json`. Where frameworks disagree on a word, the definitions follow the counters of vLLM and SGLang: ratios of sums,
the bonus token included in `tokens_per_target_call` and left out of `accepted_per_round` and `acceptance_rate`.
"""
