"""Answer questions about a kept run, as paragraphs in Markdown.

- `peers` compares each arm of ours with each peer, end to end, paired over prompts.
- `concurrent` compares arms with a concurrent draft with synchronous decoding, and measured with predicted hit rates and speeds.
- `categories` compares the arms within each category of the prompts.
- `front` says whether a lossy arm that is no worse is faster than the best lossless arm, and a pyramid than one stage.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sdbench.analysis.compare import speed_verdict
from sdbench.analysis.figures.ssd import budget_of
from sdbench.analysis.figures.style import family
from sdbench.analysis.metrics.quality import NATS_MARGIN, as_likely, likelihood
from sdbench.analysis.metrics.speed import speedup, tokens_per_target_call
from sdbench.analysis.report.grid import Column, Grid, estimate
from sdbench.analysis.results import Results
from sdbench.analysis.stats.intervals import FewPrompts
from sdbench.analysis.stats.tests import non_inferiority
from sdbench.papers.archive import SIMULATED
from sdbench.papers.estimate import fastest_ratio, of_logs
from sdbench.papers.paper_results import NotRun

MODEL_TOLERANCE = 0.10
RANKED = {"Uniform": "uniform", "Geometric": "geometric"}
"""The fan-outs whose hit rates follow from the ranks that a synchronous run records."""


def ratio(run: Results, name: str, other: str, whole: bool = False) -> str:
    """Return the paired speed ratio of two arms with its interval, or why there is none.

    whole: end to end, prefill included.
    """
    void = [arm for arm in (name, other) if run.summary["arms"][arm].get("void")]
    if void:
        return f"void: {', '.join(void)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPrompts)  # the run's table says it under its flags
        found = speedup(run.of(name), run.of(other), whole)
    return estimate(found.value, found.ci95, 2, "x")


def peers(run: Results) -> list[str]:
    """Compare each arm of ours with each peer of the same draft length, or without one."""
    arms = run.summary["arms"]
    theirs = [name for name, arm in arms.items() if arm.get("end_to_end_only")]
    kinds = list(dict.fromkeys(map(family, theirs)))
    if not theirs:
        return []
    rows = []
    for name, arm in arms.items():
        if name in theirs:
            continue
        length = arm["config"].get("draft_length")
        cells = []
        for kind in kinds:
            same = [
                peer
                for peer in theirs
                if family(peer) == kind and arms[peer]["config"].get("draft_length") in (None, length)
            ]
            cells.append(ratio(run, name, same[0], whole=True) if same else None)
        rows.append([name, *cells])
    words = (
        "Speed of our arms over each peer, end to end, paired over prompts [95 %]. Peers that draft are compared at the same draft "
        "length."
    )
    return [words, Grid([_ARM, *(_over(f"`{kind}`") for kind in kinds)], rows).markdown()]


def categories(run: Results) -> list[str]:
    """Give each arm's speed-up over the baseline, end to end, and its tokens per target call, by category of the prompts."""
    counts = run.sequences.drop_duplicates("prompt_id").groupby("category", sort=False).size()
    if len(counts) < 2:
        return []
    base, rows = run.of(run.summary["baseline"]), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPrompts)  # the heading gives the number of prompts
        for name in run.summary["arms"]:
            arm = run.of(name)
            cells = []
            for category in counts.index:
                ours = arm[arm["category"] == category]
                gain = speedup(ours, base[base["category"] == category], whole=True)
                calls = None if run.summary["arms"][name].get("end_to_end_only") else tokens_per_target_call(ours)
                cells.append(f"{estimate(gain.value, None, 2, '×')}" + ("" if calls is None else f", {calls:.2f}"))
            rows.append([name, *cells])
    words = "Speed-up over the baseline, end to end, and tokens per target call, by category (its number of prompts):"
    columns = [_ARM, *(Column(f"{category} ({count})") for category, count in counts.items())]
    return [words, Grid(columns, rows).markdown()]


def concurrent(run: Results) -> list[str]:
    """Compare the arms whose draft works while the target verifies with synchronous decoding, and with predictions."""
    arms = run.summary["arms"]
    overlapped = [name for name, arm in arms.items() if arm["speculation"] or arm["overlapped"]]
    if not overlapped:
        return []
    plain = {arm["config"]["draft_length"]: name for name, arm in arms.items() if family(name) == "sd"}
    parts = [
        "Speed of the arms whose draft works while the target verifies, paired over prompts [95 %]. The best `sd` is the fastest "
        "one of this run.",
        _compared(run, overlapped, plain),
    ]
    caches = [name for name in overlapped if arms[name]["speculation"]]
    if caches:
        words = (
            "Hit rates of outcomes: measured, and predicted from the ranks that the synchronous arm of the same draft length "
            "recorded. Mean times: T_v of a verification, T_p of building the cache, T_b of the back-up, and of the wait after a "
            "hit."
        )
        parts += [words, _caches(run, caches, plain)]
    words = (
        "Speed against predictions on each arm's own times. *Formula* is theorem 7 of SSD, or PEARL's formula. *Simulated* is the "
        "discrete-event simulator. Both columns show predicted / measured - 1. Corollary 9 bounds the ratio of total speeds over "
        "`sd` of the same length."
    )
    return [*parts, words, _predictions(run, overlapped)]


def _predictions(run: Results, overlapped: Sequence[str]) -> str:
    """A row per arm: the formula, the simulator, the bounds of corollary 9, and the measured ratio of totals."""
    file = run.path / SIMULATED
    simulated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = []
    for name in overlapped:
        arm = run.summary["arms"][name]
        said, measured = arm["predicted_tokens_per_second"], arm["tokens_per_second"]
        bounds = (arm["speculation"] or {}).get("corollary_9")
        formula = said / measured - 1 if said and measured else None
        between = f"{bounds['low']:.2f}x to {bounds['high']:.2f}x" if bounds else None
        rows.append([name, formula, simulated.get(name), between, bounds and bounds["measured"]])
    columns = [_ARM, Column("formula", "+.1%"), Column("simulated", "+.1%")]
    columns += [_right("corollary 9"), Column("measured", lambda value: f"{value:.2f}x")]
    return Grid(columns, rows).markdown()


def _compared(run: Results, overlapped: Sequence[str], plain: dict[int, str]) -> str:
    """A row per overlapped arm, a column per baseline that the run has."""
    arms = run.summary["arms"]
    best = max(plain.values(), key=lambda name: arms[name]["speedup"]) if plain else None
    named = [name for name in arms if name == "ar" or "two_cores" in name]
    heads = [_over("`sd`, same length"), _over(f"`{best}`, the best")] if plain else []
    rows = []
    for name in overlapped:
        same = plain.get(arms[name]["config"].get("draft_length"))
        others = ([same, best] if plain else []) + named
        rows.append([name, *(ratio(run, name, other) if other else None for other in others)])
    return Grid([_ARM, *heads, *(_over(f"`{name}`") for name in named)], rows).markdown()


def _caches(run: Results, caches: Sequence[str], plain: dict[int, str]) -> str:
    arms = run.summary["arms"]
    rows = []
    for name in caches:
        arm, found = arms[name], arms[name]["speculation"]
        tokens = f"{found['tokens_per_round_on_hit']:.2f} / {found['tokens_per_round_on_miss']:.2f}"
        seconds = [f"{1e3 * found['seconds'][key]:.1f}" for key in ("verify", "build", "backup", "wait_on_hit")]
        rates = [found["outcome_hit_rate"], _by_ranks(run, name, plain), arm["acceptance_rate"]]
        rows.append([name, budget_of(arm), *rates, tokens, " / ".join(seconds)])
    columns = [
        _ARM,
        Column("branches", "d"),
        *(Column(head, ".3f") for head in ("hit rate", "predicted", "acceptance")),
    ]
    columns += [_right("tokens on hit / miss"), _right("T_v / T_p / T_b / wait (ms)")]
    return Grid(columns, rows).markdown()


def _by_ranks(run: Results, name: str, plain: dict[int, str]) -> float | None:
    """The hit rate that the ranks of the synchronous arm predict.

    None where they do not: another fan-out, a sampled run, or a back-up that is not the draft's, since the rounds behind such a
    back-up are others than the recorded ones.
    """
    arms = run.summary["arms"]
    proposer = arms[name]["config"]["proposer"]
    kind = RANKED.get(proposer["fan_out"]["_target_"].rpartition(".")[2])
    neural = proposer["backup"]["_target_"].endswith(".Neural")
    same = plain.get(arms[name]["config"]["draft_length"])
    if not (kind and neural and same and run.config["sampling"]["temperature"] == 0):
        return None
    rates = arms[same]["ranks"]["hit_rate"].get(str(budget_of(arms[name])))
    return rates[kind] if rates else None


def front(run: Results) -> list[str]:
    """Compare lossy arms that are no worse with lossless ones, and pyramids with one fuzzy stage.

    An arm is no worse than another by the task's score. If the baseline's score is not above the margin, every arm would pass, and
    the likelihood of the answers counts. Speeds are compared prompt by prompt. The fastest of several arms is chosen on one half of
    the prompts and read on the other, both ways. Each test stands at its own level.
    """
    arms = {name: arm for name, arm in run.summary["arms"].items() if not arm.get("void")}
    lossless = [name for name, arm in arms.items() if arm["lossless"]]
    pyramids = [name for name in arms if name.startswith("psd_")]
    speeds = {name: (arm["predicted_tokens_per_second"], arm["tokens_per_second"]) for name, arm in arms.items()}
    off = {name: said / measured - 1 for name, (said, measured) in speeds.items() if said and measured}
    worst = max(off, key=lambda name: abs(off[name]))
    within = sum(abs(value) <= MODEL_TOLERANCE for value in off.values())
    baseline, margin = run.summary["baseline"], run.config["margin"]
    score = arms[baseline]["quality"] if baseline in arms else None
    words = [f"{run.summary['prompts']} prompts."]
    lines: list[str] = []
    if score is not None and score > margin:
        words.append(f"The margin of non-inferiority is {100 * margin:.0f} points of score.")
        lines += _standings(run, arms, "of non-inferior quality", _not_worse)
    elif any(arm.get("nats_difference") is not None for arm in arms.values() if not arm["lossless"]):
        if score is not None:
            words.append(f"The baseline's score is {score:.3f}, so the score tells no arm from another.")
        words.append(f"The margin of the likelihood is {NATS_MARGIN} nats a token.")
        lines += _standings(run, arms, "with answers as likely under the target", _as_likely)
    lines += [
        f"The fastest PyramidSD arm of any quality and the fastest lossless arm: {_faster(run, pyramids, lossless)}",
        f"The throughput model is within {100 * MODEL_TOLERANCE:.0f} % of the measured speed for {within} of {len(off)} arms. "
        f"The largest error is that of `{worst}`: {100 * off[worst]:+.1f} %.",
    ]
    return [" ".join(words), "\n".join(f"- {line}" for line in lines)]


def _standings(
    run: Results, arms: Mapping[str, Any], words: str, no_worse: Callable[[Results, str, str], bool]
) -> list[str]:
    """Return lines on the lossy arms that are no worse than the baseline, and on the pyramids that are no worse than FSD.

    words: what such an arm is. no_worse: whether an arm is no worse than another.
    """
    baseline = run.summary["baseline"]
    lossless = [name for name, arm in arms.items() if arm["lossless"]]
    sound = [name for name, arm in arms.items() if not arm["lossless"] and no_worse(run, name, baseline)]
    pyramids = [name for name in arms if name.startswith("psd_")]
    return [
        f"The fastest lossy arm {words} and the fastest lossless arm: {_faster(run, sound, lossless)}",
        *(
            f"The fastest PyramidSD arm {words}, compared with `{fuzzy}`: "
            + _faster(run, [name for name in pyramids if no_worse(run, name, fuzzy)], [fuzzy])
            for fuzzy in arms
            if family(fuzzy) == "fsd"
        ),
        f"Lossy arms {words}: {', '.join(f'`{name}`' for name in sound) or 'none'}.",
    ]


def _not_worse(run: Results, name: str, other: str) -> bool:
    return non_inferiority(run.scores[name], run.scores[other], margin=run.config["margin"]).non_inferior


def _as_likely(run: Results, name: str, other: str) -> bool:
    return bool(as_likely(likelihood(run.of(name), run.of(other))[1]))


def _faster(run: Results, arms: list[str], others: list[str]) -> str:
    """The fastest of some arms against the fastest of others, in words."""
    try:
        logs, _, note = fastest_ratio(run, arms, others)
    except NotRun:
        return "there is no such arm."
    found = of_logs(logs)
    verdict = speed_verdict(found.ci95, found.n, None)
    low, high = found.ci95 or (found.value, found.value)
    return f"`{note.replace(' over ', '` over `')}` is {found.value:.2f}x [{low:.2f}, {high:.2f}]: **{verdict}**."


_ARM = Column("arm", code=True)


def _right(head: str) -> Column:
    return Column(head, align="right")


def _over(name: str) -> Column:
    return _right(f"over {name}")
