"""The verifier's surprise at the drafted tokens, which the rules of Consultant Decoding and BiLD put a threshold on."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.base import taken
from sdbench.acceptance.draft import Draft, wide
from sdbench.sampling import Scored


def surprise(draft: Draft, p: Scored, warped: bool) -> Float[Tensor, "B K"]:
    """-ln p(x) in nats, of the un-warped temperature-1 distribution or of the warped one."""
    if warped:
        return -taken(p.probs, draft.tokens).log()
    logits = p.logits[:, : draft.tokens.shape[1]].to(wide(p.logits))
    return logits.logsumexp(-1) - taken(logits, draft.tokens)
