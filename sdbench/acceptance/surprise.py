"""The verifier's surprise at the drafted tokens. Consultant Decoding and BiLD compare it with a threshold."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.base import taken
from sdbench.acceptance.draft import Draft, wide
from sdbench.sampling import Scored


def surprise(draft: Draft, p: Scored, warped: bool) -> Float[Tensor, "B K"]:
    """Return -ln p(x) in nats. warped: of the warped distribution, in place of the un-warped one at temperature 1."""
    if warped:
        return -taken(p.probs, draft.tokens).log()
    logits = p.logits[:, : draft.tokens.shape[1]].to(wide(p.logits))
    return logits.logsumexp(-1) - taken(logits, draft.tokens)
