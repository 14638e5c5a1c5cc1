"""The metrics of speed, acceptance and quality: one function each, from the run record's tables and nothing else.

Each takes the rows of one arm (`rows.of_arm`) unless it says otherwise. A metric that has nothing to be computed from
is NaN. Where frameworks disagree on a word, the definition here follows vLLM's and SGLang's counters: ratios of sums,
the bonus token included in `tokens_per_target_call` and left out of `accepted_per_round` and `acceptance_rate`. What
bounds the speed, and where the time goes, is in `bounds.py`; repetition in `degenerate.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sdbench.analysis.rows import (
    decode_seconds,
    decode_tokens,
    emitted_tokens,
    ratio,
    target_rounds,
)

PERCENTILES = (50, 90, 99)


def tokens_per_second(sequences: pd.DataFrame) -> float:
    """Decode tokens / decode seconds. The first token of a sequence belongs to prefill, in both."""
    return ratio(decode_tokens(sequences).sum(), decode_seconds(sequences))


def end_to_end_tokens_per_second(sequences: pd.DataFrame) -> float:
    """All emitted tokens / (prefill + decode seconds), prefill being that of every model of the arm."""
    return ratio(emitted_tokens(sequences).sum(), sequences["prefill_seconds"].sum() + decode_seconds(sequences))


def first_token_seconds(sequences: pd.DataFrame) -> dict[str, float]:
    """Time to first token: mean and percentiles, in seconds."""
    return _spread(sequences["first_token_seconds"])


def seconds_per_token(sequences: pd.DataFrame) -> dict[str, float]:
    """Decode seconds per token of each sequence: mean and percentiles over sequences."""
    tokens = decode_tokens(sequences)
    return _spread((sequences["decode_seconds"] / tokens)[tokens > 0])


def tokens_per_target_call(sequences: pd.DataFrame) -> float:
    """Emitted decode tokens / target forwards, per sequence counted: 1.0 where the target decodes alone.

    Block efficiency (Leviathan et al. 2211.17192), vLLM's mean acceptance length: the bonus or correction included.
    """
    return ratio(decode_tokens(sequences).sum(), sequences["target_calls"].sum())


def emitted_per_target_call(sequences: pd.DataFrame) -> float:
    """Emitted tokens / target forwards, the prompt's own among them: of arms whose prefill cannot be told from decoding."""
    return ratio(emitted_tokens(sequences).sum(), sequences["target_calls"].sum())


def target_calls_per_answer(sequences: pd.DataFrame) -> float:
    """Target forwards after prefill, mean over sequences: what an answer costs, however many tokens a round accepts.

    An answer that was cut by the length limit counts with the calls that it had, so read `length_rate` beside it.
    """
    return _mean(sequences["target_calls"])


def length_rate(sequences: pd.DataFrame) -> float:
    """Share of sequences that the length limit ended."""
    return _mean(sequences["finish_reason"] == "length")


def output_tokens(sequences: pd.DataFrame) -> float:
    """Emitted tokens, mean over sequences."""
    return _mean(emitted_tokens(sequences))


def accepted_per_round(rounds: pd.DataFrame) -> float:
    """Accepted drafted tokens / rounds of the outermost edge, bonus excluded; a round that drafted nothing counts."""
    outer = target_rounds(rounds)
    return ratio(outer["accepted"].sum(), len(outer))


def acceptance_rate(rounds: pd.DataFrame) -> float:
    """Accepted / proposed drafted tokens of the given rounds: NaN where nothing was proposed."""
    return ratio(rounds["accepted"].sum(), rounds["proposed"].sum())


def acceptance_by_position(rounds: pd.DataFrame) -> list[float]:
    """P(accepted >= k), k = 1 .. the longest draft, over all the given rounds: unconditional, falling (vLLM's)."""
    accepted = rounds["accepted"].to_numpy()
    return [float(np.mean(accepted >= k)) for k in range(1, _longest(rounds) + 1)]


def conditional_acceptance_by_position(rounds: pd.DataFrame) -> list[float]:
    """P(accepted >= k | token k was drafted and all before it accepted): EAGLE's n-alpha. NaN where never tried."""
    accepted, proposed = rounds["accepted"].to_numpy(), rounds["proposed"].to_numpy()
    tried = [(accepted >= k - 1) & (proposed >= k) for k in range(1, _longest(rounds) + 1)]
    return [ratio((accepted >= k)[mask].sum(), mask.sum()) for k, mask in enumerate(tried, start=1)]


def edges(rounds: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """For each edge: rounds, proposed, accepted, emitted, their rates, both acceptances by position, and histograms.

    histogram[n]: how many rounds accepted n tokens. proposed_histogram[n]: how many rounds drafted n.
    """
    return {str(edge): _edge(part) for edge, part in rounds.groupby("edge") if part["proposed"].any()}


def prompt_scores(sequences: pd.DataFrame) -> pd.Series:
    """The mean score of each prompt over its repeats, by prompt_id; prompts without a score are left out."""
    return sequences.dropna(subset=["score"]).groupby("prompt_id")["score"].mean()


def agreement(sequences: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """How far the arm's answers are the reference arm's, over the (prompt, repeat) pairs that both have.

    identical: share of answers with exactly the reference's tokens. common_prefix: mean length of the common beginning,
    as a share of the longer of the two.
    """
    keys = ["prompt_id", "repeat"]
    pairs = sequences[[*keys, "tokens"]].merge(reference[[*keys, "tokens"]], on=keys, suffixes=("", "_reference"))
    shares = [_common(ours, theirs) for ours, theirs in zip(pairs["tokens"], pairs["tokens_reference"], strict=True)]
    return {
        "identical": float(np.mean([share == 1.0 for share in shares])) if shares else float("nan"),
        "common_prefix": float(np.mean(shares)) if shares else float("nan"),
    }


def _edge(rounds: pd.DataFrame) -> dict[str, Any]:
    return {
        "rounds": len(rounds),
        "proposed": int(rounds["proposed"].sum()),
        "accepted": int(rounds["accepted"].sum()),
        "acceptance_rate": acceptance_rate(rounds),
        "accepted_per_round": ratio(rounds["accepted"].sum(), len(rounds)),
        "emitted_per_round": ratio(rounds["emitted"].sum(), len(rounds)),
        "acceptance_by_position": acceptance_by_position(rounds),
        "conditional_acceptance_by_position": conditional_acceptance_by_position(rounds),
        "histogram": np.bincount(rounds["accepted"]).tolist(),
        "proposed_histogram": np.bincount(rounds["proposed"]).tolist(),
    }


def _common(ours: Any, theirs: Any) -> float:
    """Length of the common beginning of two token lists / length of the longer one; two empty ones agree."""
    a, b = np.asarray(ours), np.asarray(theirs)
    shorter, longer = min(len(a), len(b)), max(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return (int(differ[0]) if len(differ) else shorter) / longer if longer else 1.0


def _longest(rounds: pd.DataFrame) -> int:
    return int(rounds["proposed"].max()) if len(rounds) else 0


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _spread(values: pd.Series) -> dict[str, float]:
    levels = np.percentile(values, PERCENTILES) if len(values) else [float("nan")] * len(PERCENTILES)
    named = {f"p{level}": float(value) for level, value in zip(PERCENTILES, levels, strict=True)}
    return {"mean": _mean(values), **named}
