"""Muon: momentum whose matrices are made orthogonal, for what is trained from nothing on few images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

ITERATION = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration: singular values to about 0.7 ... 1.2


class Muon(torch.optim.Optimizer):
    """Matrices and convolutions step along their orthogonalised momentum, all else by Adam.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the step's size is 0.2 times the learning rate in root mean
    square (Liu et al. 2025, arXiv 2502.16982), so that learning rates of Adam serve. A convolution (o, i, h, w) is
    the matrix (o, i h w). `decay` shrinks these weights by lr times itself in every step, without which they grow for
    as long as the rate is high. Processes with equal gradients divide the matrices among them and exchange the directions.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        decay: float = 0.0,
    ):
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "orthogonal": True},
            {"params": [p for p in parameters if p.ndim < 2], "orthogonal": False},
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # accelerate hands one on
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._orthogonal if group["orthogonal"] else self._adam)(parameters, group)

    def _orthogonal(self, parameters: list[nn.Parameter], group: dict) -> None:
        gradients = [p.grad for p in parameters]
        momenta = [self._state(p, "momentum") for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        if group["decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
        matrices = [direction.reshape(len(direction), -1) for direction in directions]
        for parameter, step in zip(parameters, _exchanged(matrices), strict=True):
            size = 0.2 * max(step.shape) ** 0.5  # an orthogonal matrix has root mean square 1 / sqrt(max(m, n))
            parameter.add_(step.reshape(parameter.shape).to(parameter.dtype), alpha=-group["lr"] * size)

    def _adam(self, parameters: list[nn.Parameter], group: dict) -> None:
        gradients = [p.grad for p in parameters]
        first, second = ([self._state(p, name) for p in parameters] for name in ("first", "second"))
        (beta1, beta2), n = group["betas"], group.setdefault("updates", 0) + 1
        group["updates"] = n
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, (1 - beta2**n) ** 0.5)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(parameters, first, scale, -group["lr"] / (1 - beta1**n))

    def _state(self, p: nn.Parameter, name: str) -> Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state[name]


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], lr: float, decay: float = 0.0) -> torch.optim.Optimizer:
    """`adam` or `muon`, with the moments that pretraining uses; `decay` is Muon's alone."""
    if name == "muon":
        return Muon(parameters, lr, decay=decay)
    return torch.optim.Adam(parameters, lr, betas=(0.9, 0.99), fused=True)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices (k, m, n) to (k, m, n), roughly: singular values of about 1; in bfloat16."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = ITERATION
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _exchanged(matrices: list[Tensor]) -> list[Tensor]:
    """All of them orthogonalised, in bfloat16, by the processes together."""
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    shares = _shares(matrices, processes)
    steps: list[Tensor] = [matrix.new_empty(matrix.shape, dtype=torch.bfloat16) for matrix in matrices]
    for members in _alike([matrices[i] for i in shares[rank]]).values():  # equal shapes as one batch: a third faster
        members = [shares[rank][j] for j in members]
        for i, step in zip(members, orthogonalised(torch.stack([matrices[i] for i in members])), strict=True):
            steps[i] = step
    if processes > 1:
        longest = max(sum(matrices[i].numel() for i in share) for share in shares)
        own = F.pad(mine := torch.cat([steps[i].flatten() for i in shares[rank]]), (0, longest - len(mine)))
        gathered = [torch.empty_like(own) for _ in range(processes)]
        dist.all_gather(
            [part.view(torch.uint8) for part in gathered], own.view(torch.uint8)
        )  # not every backend knows bfloat16
        for share, part in zip(shares, gathered, strict=True):
            pieces = part.split([*(sizes := [matrices[i].numel() for i in share]), longest - sum(sizes)])
            for i, piece in zip(share, pieces, strict=False):
                steps[i] = piece.reshape(matrices[i].shape)
    return steps


def _shares(matrices: list[Tensor], processes: int) -> list[list[int]]:
    """The positions of each process's matrices, by their multiplications as even as a greedy division makes them."""
    costs = [matrix.numel() * min(matrix.shape) for matrix in matrices]
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for i in sorted(range(len(matrices)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        shares[least].append(i)
        loads[least] += costs[i]
    return shares


def _alike(matrices: list[Tensor]) -> dict[tuple[int, int], list[int]]:
    """The positions of the matrices of each shape."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        found.setdefault((len(matrix), matrix[0].numel()), []).append(i)
    return found
