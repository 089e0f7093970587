"""The boundary condition of consistency models: what is clean already stays as it is."""

from __future__ import annotations

from torch import Tensor

from ufogen.diffusion.objective import Network

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def boundary_scalings(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out (b, 1, 1, 1), 1 and 0 at t = 0, as diffusers' LCMScheduler has them.

    They are those of consistency models (Song et al. 2023, arXiv 2303.01469) with the timestep scaled.
    """
    t = (TIMESTEP_SCALING * t).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
    squared = t.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / squared, t / squared.sqrt()


def consistency_function(network: Network) -> Network:
    """f(x_t, t, c) = c_skip(t) x_t + c_out(t) x'_0, which at t = 0 is x_t (section 4.1)."""

    def f(x_t: Tensor, t: Tensor, **caption: Tensor) -> Tensor:
        c_skip, c_out = boundary_scalings(t, like=x_t)
        return c_skip * x_t + c_out * network(x_t, t, **caption)

    return f
