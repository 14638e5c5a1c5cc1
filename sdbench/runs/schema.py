"""The run record's tables, column by column. Every metric is computed from these and from nothing else.

Units: seconds are wall-clock seconds as float; tokens are counts. A row of `ROUNDS` is one verification; a row of
`STEPS` is one forward of a batch; a row of `SEQUENCES` is one finished sequence; a row of `BARE` is one timing of a
bare forward (the model's own forward with its own cache: the floor that `model_time_fraction` is measured against).
The first word of a column's description is its type. A table may have columns beside these (what a method adds to its
rounds).
"""

from __future__ import annotations

SCHEMA_VERSION = 1

SEQUENCES = {
    "arm": "str: the arm's name",
    "prompt_id": "str: the prompt, unique within the task",
    "repeat": "int: which repeat of the prompt",
    "block": "int: the block (batch_size prompts, decoded by every arm in turn) that the prompt belongs to",
    "category": "str: the task's own category, '' where it has none",
    "prompt_tokens": "int: tokens of the prompt",
    "tokens": "list[int]: emitted token ids, the stopping token included",
    "text": "str: the decoded output, cut before the stop",
    "finish_reason": "str: eos, stop (a stop string), length, or error (failed: in no metric, but counted)",
    "score": "float or null: the task's score of the text, 0..1",
    "first_token_seconds": "float: from the start of the sequence to its first token",
    "prefill_seconds": "float: all prefill of the sequence (every model's), the first token included",
    "decode_seconds": "float: from the end of prefill to the last token, other rows' prefill left out",
    "block_decode_seconds": "float: decode wall time of the whole block under this arm, the same in all its rows",
    "target_calls": "int: target forwards that this sequence took part in after prefill",
}

# Beside these `pieces`, the text that each token added (what the report colours by origin).

ROUNDS = {
    "arm": "str: as in SEQUENCES",
    "prompt_id": "str: as in SEQUENCES",
    "repeat": "int: as in SEQUENCES",
    "block": "int: as in SEQUENCES",
    "edge": "str: proposer>verifier by role (draft>target, draft>qualifier, ...); 'target' alone where nothing drafts",
    "round": "int: the sequence's round, i.e. which target forward, from 0",
    "inner_round": "int: which verification of an inner edge within the round, from 0; 0 on the outermost edge",
    "proposed": "int: drafted tokens verified",
    "accepted": "int: drafted tokens kept, counted before what follows a stop is cut",
    "emitted": "int: tokens handed on (accepted + 1), after the cut on the outermost edge",
    "outcome": "str: bonus (all kept) or correction (one rejected)",
}
# Beside these, where a draft model drafts: `rank`, the place (from 1) of the token that followed the kept ones in the draft's own
# order, the refused token left out (null in a sequence's last round), and, in its first round, `first_rank`, the same of the first
# token behind the prompt (of a draft with a process of its own only with one row). Where the draft has a process of its own also
# `hit` and the seconds, on the clock of `begun`, at which the speculation was asked for, received (by the server), replied, wanted
# (when the verifier began to wait) and answered, and at which the next cache was built.

STEPS = {
    "arm": "str: as in SEQUENCES",
    "block": "int: as in SEQUENCES",
    "repeat": "int: as in SEQUENCES",
    "round": "int: the batch's round, from 0; -1 for prefill",
    "role": "str: which model stepped (target, qualifier, draft, or target[n] for its first n layers)",
    "kind": "str: prefill, draft or verify; of a speculation server backup, glue, tree, branch (of a tree, alone) or run",
    "rows": "int: rows B of the step",
    "tokens": "int: new tokens T of the step (the widest row's)",
    "context": "int: slots that the step attended over",
    "seconds": "float: the step, from its inputs on the host to its logits",
}
# Beside these: `begun`, when the step was begun, in seconds of a clock that all processes share; `beside`, whether it ran while the
# verifier was busy and so off the critical path; `missed`, true where a step ran eagerly in another mode, for want of a program;
# `loop`, of how many steps the program was that made it, where that is not one (they share its time evenly; in BARE too).

BARE = {
    "role": "str: as in STEPS",
    "rows": "int: as in STEPS",
    "tokens": "int: as in STEPS",
    "context": "int: tokens in the model's own cache after the forward",
    "seconds": "float: the model's own forward with its own cache, of that shape",
}
# Beside these: `loop`, and `after` (str), `block`, `repeat`: the arm whose part of a block had just been decoded.

TABLES = {"sequences": SEQUENCES, "rounds": ROUNDS, "steps": STEPS, "bare": BARE}
