"""Define the columns of the run record's tables. All metrics are computed from these tables only.

Units: seconds are wall-clock seconds as float; tokens are counts. A row of `SEQUENCES` is one finished sequence. A row of
`ROUNDS` is one verification. A row of `STEPS` is one forward of a batch. A row of `BARE` is one timing of a reference forward,
which is the model's own forward with its own cache. `model_time_fraction` divides by these times. The first word of a column's
description is its type. A method may add columns; the comments below each table list them.
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

# Added: `pieces`, the text that each token added. The report colours it by origin.
# Added if an arm is lossy, for these arms and the baseline: `nats`, minus the log-likelihood of the tokens under the target at
# temperature 1.
# Added on a machine with energy counters: `block_joules`, the energy of the whole block under this arm, the same in all its rows.

ROUNDS = {
    "arm": "str: as in SEQUENCES",
    "prompt_id": "str: as in SEQUENCES",
    "repeat": "int: as in SEQUENCES",
    "block": "int: as in SEQUENCES",
    "edge": "str: proposer>verifier by role (draft>target, draft>qualifier, ...); 'target' alone where nothing drafts",
    "proposer": "str: the role that drafts, or self if the verifier drafts for itself; '' where nothing drafts",
    "verifier": "str: the role that verifies",
    "round": "int: the sequence's round, i.e. which target forward, from 0",
    "inner_round": "int: which verification of an inner edge within the round, from 0; 0 on the outermost edge",
    "proposed": "int: drafted tokens verified",
    "accepted": "int: drafted tokens kept, counted before what follows a stop is cut",
    "emitted": "int: tokens handed on (accepted + 1), after the cut on the outermost edge",
    "outcome": "str: bonus (all kept) or correction (one rejected)",
}
# Added if a token tree is verified; `proposed` and `accepted` are then depths:
#   nodes       drafted tokens of the tree                end       the node at which the kept path ends; 0: nothing kept
#   parents     list[int]: the node that each drafted token follows (`sdbench.topology`)
#   drafted     list[int]: the drafted tokens
# Added if the verifier reads more than the draft (`sdbench.decoding.Reflective`):
#   read        tokens that it read behind the decided ones
# Added if a verified pair drafts:
#   origins     list[str]: the level that each drafted token comes from: the role that drafted it, or a verifier and how it added
#               the token, such as `qualifier correction`
# Added if a draft model drafts:
#   rank        the rank (from 1) of the verifier's next token by the draft's probabilities, without the rejected token; null in
#               a sequence's last round
#   first_rank  in a sequence's first round: the rank of the first token after the prompt. A draft in its own process records
#               it at batch size 1 only
#   draft_probabilities  list[float]: the draft's probability of each drafted token, at temperature 1
# Added if the draft learns while it serves, in the round after which it learned:
#   update_seconds    the time of the update, part of the block
#   update_positions  the positions that it learned from
#   update_loss       the mean divergence there, before the update
# Added if the draft has its own process; times are in seconds, on the clock of `begun`:
#   hit         whether the speculation cache contained this draft
#   asked       the verifier sent the outcome             received  the server received the outcome
#   replied     the server sent the draft                 wanted    the verifier began to wait for the draft
#   answered    the verifier received the draft           built     the server finished its next speculation cache

STEPS = {
    "arm": "str: as in SEQUENCES",
    "block": "int: as in SEQUENCES",
    "repeat": "int: as in SEQUENCES",
    "round": "int: the batch's round, from 0; -1 for prefill",
    "role": "str: which model stepped (target, qualifier, draft, or target[n] for its first n layers)",
    "kind": "str: prefill, draft, verify, or reread (a recurrent model reads kept tokens again); in a draft's server also backup, "
    "glue, tree, branch (one branch of a tree) or run",
    "rows": "int: rows B of the step",
    "tokens": "int: new tokens T of the step (the widest row's)",
    "context": "int: slots that the step attended over",
    "seconds": "float: the step, from its inputs on the host to its logits",
}
# Added:
#   begun       the start of the step, in seconds on a clock that all processes share
#   concurrent  whether the step ran while the verifier was busy, and so off the critical path
#   missed      true if the execution mode had no program for the step's shape, so that the step ran eagerly
#   loop        the number of steps that one program made, if it is more than one; its time is divided evenly (in BARE too)

BARE = {
    "role": "str: as in STEPS",
    "rows": "int: as in STEPS",
    "tokens": "int: as in STEPS",
    "context": "int: tokens in the model's own cache after the forward",
    "seconds": "float: the model's own forward with its own cache, of that shape",
}
# Added: `loop`. `after` (str), `block` and `repeat`: the arm that decoded last before the timing, and the block and repeat.

TABLES = {"sequences": SEQUENCES, "rounds": ROUNDS, "steps": STEPS, "bare": BARE}
