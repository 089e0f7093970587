"""Parameters of the toy: methods as points on the axes of `config.Objective`, and one setting of the rest for all.

As in the toy of SIDDM (`Simulation_SIDDMs` of the authors' code, arXiv 2306.12511): the data, three hidden layers in G and
four in D with SiLU, a linear path around G's, two uniform latent numbers, the cosine schedule, beta1 and beta2, lambda = 1.
Changed, so that minutes on one core are enough: width 64 of 100, batch 128 of 4,000, 5,000 updates of 187,500 with
larger learning rates that decay, averaged weights, Fourier features of the coordinates and a faint lazy R1 (a stronger
one blurs). The published script shows its D x'_0; here D sees x'_s, as in the papers.
The values stand in experiments/toy/default.yaml.
"""

from __future__ import annotations

from ufogen.schema.studies import TOY_TIMESTEPS, ToyMethod
from ufogen.schema.studies import Toy as Toy

TIMESTEPS, Method = TOY_TIMESTEPS, ToyMethod
