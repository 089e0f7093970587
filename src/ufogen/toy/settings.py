"""Parameters of the toy: methods as points on the axes of `config.Objective`, and one setting of the rest for all.

As in the toy of SIDDM (`Simulation_SIDDMs` of the authors' code, arXiv 2306.12511): the data, three hidden layers in G and
four in D with SiLU, a linear path around G's, two uniform latent numbers, the cosine schedule, beta1 and beta2, lambda = 1.
Changed, so that minutes on one core are enough: width 64 of 100, batch 128 of 4,000, 5,000 updates of 187,500 with
larger learning rates that decay, averaged weights, Fourier features of the coordinates and a faint lazy R1 (a stronger
one blurs). The published script shows its critic x'_0; here the critic sees x'_s, as in the papers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from ufogen.errors import UserError

TIMESTEPS = 1000
Count = Annotated[int, "at least 1"]


@dataclass
class Method:
    """A point in the space of diffusion-GANs."""

    name: str = "ufogen"
    parameterization: Literal["forward", "posterior"] = "forward"
    discriminator_input: Literal["marginal", "joint"] = "marginal"  # x_s, or the pair (x_s, x_t)
    reconstruction: Literal["x_0", "x_s", "none"] = "x_0"  # x_s is weighted by the KL of the forward kernels
    gamma: Literal["snr", "truncated_snr", "min_snr", "kl", "constant"] = "snr"  # of the reconstruction at x_0
    coupling: Literal["independent", "chained"] = "independent"
    latent: int = 2  # uniform numbers that G gets beside x_t


DDGAN = Method("ddgan", "posterior", "joint", "none", coupling="chained")
SIDDM = Method("siddm", "posterior", "marginal", "x_s", coupling="chained")
UFOGEN = Method("ufogen", "forward", "marginal", "x_0", coupling="independent")


@dataclass
class Toy:
    """Every method with every number of trained denoising steps is an arm; all seeds of an arm train at once."""

    methods: list[Method] = field(default_factory=lambda: [Method(**asdict(m)) for m in (DDGAN, SIDDM, UFOGEN)])
    trained_steps: list[Count] = field(default_factory=lambda: [1, 2, 4, 8])  # T; each divides 1000
    seeds: Count = 4
    schedule: Literal["cosine", "stable_diffusion"] = "cosine"
    width: Count = 64
    frequencies: int = 3  # Fourier features of the coordinates, octaves; 0 for none
    updates: Count = 5000
    batch_size: Count = 128  # of each seed
    generator_learning_rate: float = 2e-3
    discriminator_learning_rate: float = 2e-3
    beta1: float = 0.5
    beta2: float = 0.999
    ema_decay: float = 0.998
    reconstruction_weight: float = 1.0  # lambda_KL
    r1_weight: float = 3e-4  # with respect to x_s
    r1_interval: Count = 8
    samples: Count = 10000  # of each seed and number of sampling steps
    transport_samples: Count = 1000  # of them for the Wasserstein distance, whose cost grows with the cube


def check(settings: Toy) -> None:
    """Raise `UserError` for an arm that cannot be, before any work starts."""
    for steps in settings.trained_steps:
        if TIMESTEPS % steps:
            raise UserError(f"parameter toy.trained_steps has {steps}; allowed are divisors of {TIMESTEPS}")
    names = [method.name for method in settings.methods]
    if len(set(names)) < len(names):
        raise UserError(f"parameter toy.methods has a name twice: {', '.join(names)}")
    for method in settings.methods:
        if method.discriminator_input == "joint" and method.coupling == "independent":
            raise UserError(
                f"method {method.name} of parameter toy.methods has discriminator_input=joint with coupling=independent, "
                "which are not a pair of one path: take coupling=chained"
            )
