"""The joint rule of Zhou et al. (2601.05724), which its paper calls hierarchical speculative decoding, from prefix ratios.

With the prefix ratios r_n = prod_{i<=n} p(x_i) / q(x_i), the capped ratio is

    rho_n = r_n / max(1, max_{i<=n} r_i).

The whole draft is kept with probability min(1, r_K / max(1, max_{i<K} r_i)). Otherwise the rule goes back, and stops at n with
probability D+ / max(D+, D-), where D+ = sum_x (rho_n p(x) - q(x))+ and D- = sum_x (q(x) - rho_n p(x))+. The token there has the
law norm((rho_n p - q)+).

This law is block verification's, though the paper reports more kept tokens than that: rho_n is P_n, and D- - D+ is 1 - rho_n
(`tests/acceptance/test_joint.py`). The released code differs from these formulas, and is not lossless (FA A.2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.acceptance.block import Block


class ZhouJoint(Block):
    """Apply the joint rule of Zhou et al. to a chain.

    Reads the warped p and q. Greedy form: keep the tokens that are the verifier's most likely ones.
    """

    def shares(self, p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, "B K1"]:
        """Return rho_0 .. rho_K, from sums of logarithms, because a product of ratios can overflow."""
        ratios = torch.cat([p.new_zeros(len(p), 1), (p / q).log().cumsum(1)], 1)  # ln r_0 = 0
        return (ratios - ratios.cummax(1).values).exp().nan_to_num(nan=0.0)

    def stops(
        self, p: Float[Tensor, "B K V"], q: Float[Tensor, "B K V"], shares: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B K"]:
        gap = shares[..., None] * p - q
        above, below = gap.clamp(min=0).sum(-1), (-gap).clamp(min=0).sum(-1)
        most = torch.maximum(above, below)
        return torch.where(most > 0, above / most, 1.0)
