"""The metrics of a run, one function each, computed from the run record's tables and from nothing else.

A function takes the rows of one arm (`tables.of_arm`) unless it says otherwise. A metric without data is NaN, and null in
`summary.json`. Where frameworks disagree on a word, the definitions follow the counters of vLLM and SGLang. A rate is a
ratio of sums. `tokens_per_target_call` includes the bonus token; `accepted_per_round` and `acceptance_rate` do not.
"""
