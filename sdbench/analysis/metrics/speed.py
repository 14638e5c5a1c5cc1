"""Speed: tokens per second, latencies, calls, and the paired speed-up over a baseline.

The unit of a speed-up is the prompt: it is paired with itself under the baseline, and its repeats travel with it. At batch
sizes above one the rows of a block share their time, so the unit is then the block.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from sdbench.analysis.stats.intervals import FEWEST_PROMPTS, Estimate, FewPrompts, Interval, mean_intervals
from sdbench.analysis.stats.power import detectable_speedup
from sdbench.analysis.stats.tests import paired_t_test
from sdbench.analysis.tables import (
    TARGET,
    Tables,
    decode_seconds,
    decode_steps,
    decode_tokens,
    emitted_tokens,
    interpolate,
    mean,
    ratio,
    target_rounds,
)

PERCENTILES = (50, 90, 99)


def tokens_per_second(sequences: pd.DataFrame) -> float:
    """Divide decode tokens by decode seconds. The first token of a sequence belongs to prefill, in both.

    NaN where no sequence has a second token.
    """
    return _rate(decode_tokens(sequences).sum(), decode_seconds(sequences))


def end_to_end_tokens_per_second(sequences: pd.DataFrame) -> float:
    """Divide all emitted tokens by prefill plus decode seconds. Prefill is that of every model of the arm."""
    return _rate(emitted_tokens(sequences).sum(), sequences["prefill_seconds"].sum() + decode_seconds(sequences))


def joules_per_token(sequences: pd.DataFrame) -> float | None:
    """Divide the energy of all blocks whose energy was read by their emitted tokens; None if there are none."""
    if "block_joules" not in sequences or sequences["block_joules"].isna().all():
        return None
    read = sequences[sequences["block_joules"].notna()]
    joules = read.drop_duplicates(["arm", "block", "repeat"])["block_joules"].sum()
    return _rate(joules, emitted_tokens(read).sum())


def first_token_seconds(sequences: pd.DataFrame) -> dict[str, float]:
    """Summarise the time to first token: mean and percentiles, in seconds."""
    return _spread(sequences["first_token_seconds"])


def seconds_per_token(sequences: pd.DataFrame) -> dict[str, float]:
    """Summarise the decode seconds per token of each sequence: mean and percentiles over sequences."""
    tokens = decode_tokens(sequences)
    return _spread((sequences["decode_seconds"] / tokens)[tokens > 0])


def tokens_per_target_call(sequences: pd.DataFrame) -> float:
    """Divide emitted decode tokens by target forwards, counted per sequence: 1.0 where the target decodes alone.

    Block efficiency (Leviathan et al. 2211.17192), vLLM's mean acceptance length: the bonus or correction included.
    """
    return ratio(decode_tokens(sequences).sum(), sequences["target_calls"].sum())


def emitted_per_target_call(sequences: pd.DataFrame) -> float:
    """Divide all emitted tokens by target forwards: for arms that cannot tell prefill from decoding."""
    return ratio(emitted_tokens(sequences).sum(), sequences["target_calls"].sum())


def target_calls_per_answer(sequences: pd.DataFrame) -> float:
    """Average the target forwards after prefill over sequences: the cost of an answer, however many tokens a round accepts.

    An answer that the length limit cut counts with the calls that it had. So read `length_rate` too.
    """
    return mean(sequences["target_calls"])


def unit_column(sequences: pd.DataFrame) -> str:
    """Name the column of the units that are resampled: `prompt_id`, or `block` where a block has several rows."""
    single = (sequences.groupby(["arm", "block", "repeat"]).size() == 1).all()
    return "prompt_id" if single else "block"


def log_ratios(sequences: pd.DataFrame, baseline: pd.DataFrame, whole: bool = False) -> pd.Series:
    """Compute log(tokens per second of the arm / of the baseline) of each unit, mean over its repeats, by unit.

    Pairs are made by (unit, repeat). A pair that either arm lacks, or that gave no token, is left out.

    Args:
        sequences, baseline: the rows of the two arms.
        whole: compare end to end, all tokens over prefill and decode seconds. This also happens where one of the two arms
            cannot tell prefill from decoding.
    """
    unit, whole = unit_column(pd.concat([sequences, baseline])), whole or _whole_only(sequences, baseline)
    sides = [_speeds(side, unit, whole) for side in (sequences, baseline)]
    paired = pd.concat(sides, axis=1, keys=["arm", "base"]).dropna()
    return (paired["arm"] / paired["base"]).map(np.log).groupby(level=0).mean()


def log_speeds(sequences: pd.DataFrame) -> pd.Series:
    """Compute log(tokens per second) of each unit, mean over its repeats, by unit."""
    return _speeds(sequences, unit_column(sequences)).map(np.log).groupby(level=0).mean()


def speedup(sequences: pd.DataFrame, baseline: pd.DataFrame, whole: bool = False) -> Estimate:
    """Compute the geometric mean over units of the paired speed ratio, with its bootstrap 95 % interval.

    Warns (`FewPrompts`) below 40 units. whole: end to end, as in `log_ratios`.
    """
    values = log_ratios(sequences, baseline, whole).to_numpy()
    units = min(sequences["prompt_id"].nunique(), len(values))
    if units < FEWEST_PROMPTS:
        what = "prompts" if units == sequences["prompt_id"].nunique() else "blocks"
        warnings.warn(f"{units} {what} are few: intervals are rough below {FEWEST_PROMPTS}", FewPrompts, stacklevel=2)
    return ratio_estimate(values)


def ratio_estimate(log_ratios: np.ndarray) -> Estimate:
    """Estimate the geometric mean of ratios from their logarithms, one per unit."""
    if not len(log_ratios):
        return Estimate(float("nan"), None, 0)
    value = float(np.exp(log_ratios.mean()))
    if len(log_ratios) == 1:
        return Estimate(value, None, 1)
    intervals = mean_intervals(log_ratios)
    return Estimate(
        value,
        _exp(intervals.percentile),
        len(log_ratios),
        _exp(intervals.bca),
        paired_t_test(log_ratios),
        detectable_speedup(log_ratios),
    )


def speedup_totals(sequences: pd.DataFrame, baseline: pd.DataFrame) -> float:
    """Compute the ratio of totals: all tokens / all seconds of the arm over those of the baseline, for the units of both."""
    unit, whole = unit_column(pd.concat([sequences, baseline])), _whole_only(sequences, baseline)
    ours, theirs = _totals(sequences, unit, whole), _totals(baseline, unit, whole)
    both = ours.index.intersection(theirs.index)
    ours, theirs = ours.loc[both].sum(), theirs.loc[both].sum()
    return ratio(_rate(ours["tokens"], ours["seconds"]), _rate(theirs["tokens"], theirs["seconds"]))


def oracle_length_tokens_per_second(arm: Tables, verify: pd.Series) -> float:
    """Bound the tokens per second of every length policy: each round drafts exactly as many tokens as the target accepts.

    The bound holds within the lengths that were drafted: a round that accepted all it drafted might have accepted more,
    which the log cannot know. Two times are taken off each round: the drafting of the rejected tokens, at the arm's mean
    drafting time per proposed token; and the difference between verifying n + 1 and a + 1 tokens, at the measured
    verification times, linear in between. In a batch the longest row of a round sets its length.

    Args:
        arm: the arm's rows.
        verify: seconds of a target forward by its number of tokens (`model_time.verify_seconds` of all arms of the run:
            `ar` gives the time of a single token).

    Returns:
        NaN where nothing was drafted, or where no target forward was timed. `open_rounds` tells how many rounds were too short.
    """
    rounds = target_rounds(arm["rounds"])
    if not rounds["proposed"].any() or verify.empty:
        return float("nan")
    own = decode_steps(arm["steps"])
    own_verify = own["role"].eq(TARGET) & own["kind"].eq("verify")
    longest = rounds.groupby(["block", "repeat", "round"])[["proposed", "accepted"]].max()
    drafting = ratio(own.loc[~own_verify, "seconds"].sum(), longest["proposed"].sum())
    tokens, seconds = verify.index.to_numpy(), verify.to_numpy()
    proposed, accepted = longest["proposed"].to_numpy(), longest["accepted"].to_numpy()
    shorter = interpolate(proposed + 1, tokens, seconds) - interpolate(accepted + 1, tokens, seconds)
    saved = drafting * (proposed - accepted).sum() + np.maximum(shorter, 0.0).sum()
    return _rate(decode_tokens(arm["sequences"]).sum(), decode_seconds(arm["sequences"]) - float(saved))


def open_rounds(rounds: pd.DataFrame, length: int | None) -> float:
    """Compute the share of the target's rounds that kept their whole draft although it was shorter than the draft length.

    A longer draft might have kept more there, which the log cannot know. So the oracle-length bound may be too low by that much.
    length: K of the outermost stage. NaN where it is unknown, or where nothing was drafted.
    """
    outer = target_rounds(rounds)
    if length is None or not outer["proposed"].any():
        return float("nan")
    return mean((outer["accepted"] == outer["proposed"]) & (outer["proposed"] < length))


def _rate(tokens: float, seconds: float) -> float:
    """Divide tokens by seconds; NaN without a token: a speed of nothing is no speed."""
    return ratio(tokens, seconds) if tokens else float("nan")


def _whole_only(sequences: pd.DataFrame, baseline: pd.DataFrame) -> bool:
    """Tell whether one of two arms cannot tell prefill from decoding. A peer reports a prefill of 0 and decoding as the
    whole."""
    return (sequences["prefill_seconds"] > 0).any() != (baseline["prefill_seconds"] > 0).any()


def _totals(sequences: pd.DataFrame, unit: str, whole: bool = False) -> pd.DataFrame:
    """Sum decode tokens and seconds by (unit, repeat); whole: all tokens, and prefill too."""
    groups = sequences.assign(n=(emitted_tokens if whole else decode_tokens)(sequences)).groupby([unit, "repeat"])
    # The rows of a block share its seconds: the first row's stand for all.
    seconds = groups["block_decode_seconds"].first() + (groups["prefill_seconds"].sum() if whole else 0.0)
    return pd.DataFrame({"tokens": groups["n"].sum(), "seconds": seconds})


def _speeds(sequences: pd.DataFrame, unit: str, whole: bool = False) -> pd.Series:
    """Compute tokens per second by (unit, repeat), where there were any."""
    totals = _totals(sequences, unit, whole)
    totals = totals[(totals["tokens"] > 0) & (totals["seconds"] > 0)]
    return totals["tokens"] / totals["seconds"]


def _spread(values: pd.Series) -> dict[str, float]:
    levels = np.percentile(values, PERCENTILES) if len(values) else [float("nan")] * len(PERCENTILES)
    named = {f"p{level}": float(value) for level, value in zip(PERCENTILES, levels, strict=True)}
    return {"mean": mean(values), **named}


def _exp(interval: np.ndarray) -> Interval:
    return float(np.exp(interval[0])), float(np.exp(interval[1]))
