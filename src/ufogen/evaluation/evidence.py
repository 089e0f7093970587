"""How much a discriminator could see: the divergence of real from generated samples behind the noise of x_s."""

from __future__ import annotations

import numpy as np


def gaussian_evidence(real: np.ndarray, fake: np.ndarray, alpha_bar: float, redundancy: float = 1.0) -> float:
    """KL(q(x_s) || q(x'_s)) in nats of an item, where both are taken for Gaussians with the moments of their samples.

    x_s = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise. An image that repeats each number r times under noise of its own is,
    for a critic that averages the copies, the same with a noise variance r times smaller: that is `redundancy`.

    Parameters
    ----------
    real, fake: (n, d) and (m, d) samples of x_0 and x'_0, n and m well above d.
    alpha_bar: of the timestep s, in [0, 1); at 1 nothing hides the samples and their covariances must have full rank.
    redundancy: r > 0.

    Returns
    -------
    float: at least 0. Samples of one law have about d^2 / 4 (1/n + 1/m) without noise and less with it.
    """
    variance = (1 - alpha_bar) / redundancy
    means = [np.sqrt(alpha_bar) * x.mean(axis=0) for x in (real, fake)]
    of_real, of_fake = (alpha_bar * np.cov(x, rowvar=False) + variance * np.eye(x.shape[1]) for x in (real, fake))
    shift = means[0] - means[1]
    inverse = np.linalg.inv(of_fake)
    logarithms = np.linalg.slogdet(of_fake)[1] - np.linalg.slogdet(of_real)[1]
    return float(0.5 * (np.trace(inverse @ of_real) - len(shift) + shift @ inverse @ shift + logarithms))
