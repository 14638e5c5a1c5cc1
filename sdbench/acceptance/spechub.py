"""SpecHub (Sun et al. 2411.05289; github MasterGodzilla/Speculative_decoding_OT): two candidates, one of which is always the hub.

The hub a is the draft's most likely token. The first candidate is drawn from q. If it is the hub, the second is drawn from the
other tokens; otherwise the second is the hub (`siblings: hub`). So a pair is (i, a) with probability Q(i, a) = q(i), or (a, i)
with probability Q(a, i) = q(a) q'(i), where q' is the draft's law without the hub. The rule serves i first, and then the hub:

    keep i from (i, a) up to p(i),   then i from (a, i) up to what is left of p(i),
    keep a from (a, i) up to p(a),   then a from (i, a) up to what is left of p(a).

The rest of p, renormalised, is the law behind two refused candidates. Each token gets at most p, and the rest is p minus what it
got, so the output has the law p. No rule keeps more of these pairs. For only two pairs can give i, and every pair can give a.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdbench.acceptance.base import normalised
from sdbench.acceptance.draft import ProposalKind
from sdbench.acceptance.exact import Exact
from sdbench.acceptance.walk import SiblingRule
from sdbench.sampling import Scored, most_likely


class SpecHub(SiblingRule):
    """Apply SpecHub to nodes with two children. A node with one child has the exact rule.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    lossless_over = frozenset({ProposalKind.SAMPLED})
    siblings_drawn = "hub"

    def siblings(
        self, p: Scored, q: Scored, xs: Int[Tensor, "M W"]
    ) -> tuple[Float[Tensor, "M W"], Float[Tensor, "M V"]]:
        first = q[:, 0]
        if xs.shape[1] == 1:
            passes, rest = Exact().test(p, first, xs[:, 0], p.probs)
            return passes[:, None], rest
        hub = first.best[:, None]
        of_hub = first.probs.gather(-1, hub)
        ahead = first.probs.scatter(-1, hub, 0.0)  # Q(i, a)
        behind = of_hub * Scored(second(first.logits, hub[:, 0]), first.sampling).probs  # Q(a, i)

        from_ahead = torch.minimum(p.probs, ahead)
        from_behind = torch.minimum(p.probs - from_ahead, behind)
        spare_ahead = (ahead - from_ahead).sum(-1, keepdim=True)
        spare_behind = (behind - from_behind).sum(-1, keepdim=True)
        wanted = p.probs.gather(-1, hub)
        hub_behind = torch.minimum(wanted, spare_behind)
        hub_ahead = torch.minimum(wanted - hub_behind, spare_ahead)

        hub_first = xs[:, :1] == hub
        other = torch.where(hub_first, xs[:, 1:], xs[:, :1])
        kept = torch.where(
            hub_first, _share(from_behind, behind).gather(-1, other), _share(from_ahead, ahead).gather(-1, other)
        )
        kept_hub = (1 - kept) * torch.where(hub_first, _share(hub_behind, spare_behind), _share(hub_ahead, spare_ahead))
        chosen = torch.where(hub_first, torch.cat([kept_hub, kept], 1), torch.cat([kept, kept_hub], 1))
        rest = (p.probs - from_ahead - from_behind).scatter(-1, hub, wanted - hub_behind - hub_ahead)
        return chosen, normalised(rest.clamp(min=0))


def second(logits: Float[Tensor, "M V"], first: Int[Tensor, " M"]) -> Float[Tensor, "M V"]:
    """Return the logits of the second candidate, given the first: of the other tokens behind the hub, else of the hub alone."""
    hub = most_likely(logits)[:, None]
    others = logits.scatter(-1, hub, -torch.inf)
    alone = torch.full_like(logits, -torch.inf).scatter(-1, hub, 0.0)
    return torch.where(first[:, None] == hub, others, alone)


def _share(part: Float[Tensor, "M N"], whole: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """Return part / whole; 0 where there is nothing."""
    return torch.where(whole > 0, part / whole, 0.0)
