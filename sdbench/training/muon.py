"""Implement the optimizer Muon, which makes the momentum of each matrix nearly orthogonal before a step.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
The step size matches AdamW's, as in J. Liu et al., "Muon is scalable for LLM training" (2025), section 2.2.
The iteration is that of N. Amsel et al., "The Polar Express" (2025).

Three rounds of this iteration replace five of the usual one. The optimizer torch.optim.Muon uses the same coefficients in every
round, so it needs five. With the small batches used here, five rounds cost as much as the gradients.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from sdbench.training.precision import product_dtype

_COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
_MOMENTUM = 0.95  # the common value
_SAFETY = 1.01  # rounding must not move a singular value out of the range where the iteration converges
_ADAMW_RMS = 0.2  # the typical root mean square of an AdamW step, divided by the learning rate


def orthogonalised(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Return matrices with the same singular vectors and with singular values near 1. Products are in `product_dtype`."""
    wide = matrices.shape[1] <= matrices.shape[2]
    dtype = product_dtype()
    x = matrices.to(dtype) if wide else matrices.to(dtype).mT.contiguous()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) * _SAFETY + 1e-7).to(dtype)
    for a, b, c in _COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).float()


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices only."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                updates = orthogonalised(torch.stack([self._momentum(matrix) for matrix in matrices]))
                rate = _ADAMW_RMS * max(shape) ** 0.5 * group["lr"]
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Update the running mean of a matrix's gradients, and return the Nesterov momentum."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        mean = state["mean"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(mean, _MOMENTUM)
