"""PEARL (2408.11850): tokens per round when the draft works during every verification.

The draft drafts g tokens during each verification. A token passes with probability a. A run of accepted tokens ends after
1 / (1 - a) tokens, which costs one round. Each window of g tokens that passes costs a further round with probability a:

    tokens per round = (1 / (1 - a)) / (1 + a / (1 - a^g)),   a round takes max(g t_d, T_v).
"""

from __future__ import annotations


def tokens_per_round(acceptance: float, window: int) -> float:
    """Return PEARL's tokens per round. acceptance: a. window: g drafted tokens."""
    if acceptance >= 1:
        return float(window)
    return (1 / (1 - acceptance)) / (1 + acceptance / (1 - acceptance**window))
