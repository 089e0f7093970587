"""Fidelity and diversity of a set of images, from features of two sets, by torch-fidelity's own functions."""

from __future__ import annotations

import numpy as np
import torch

from ufogen.errors import UserError
from ufogen.evaluation.features import torch_fidelity  # which takes care of a missing torchvision
from ufogen.randomness import numpy_generator

_fid, _kid, _prc = torch_fidelity.metric_fid, torch_fidelity.metric_kid, torch_fidelity.metric_prc


def fidelity(
    features_generated: torch.Tensor,
    features_reference: torch.Tensor,
    *,
    seed: int,
    kid_subset_size: int,
    kid_subsets: int,
    neighborhood: int = 3,
) -> dict[str, float]:
    """KID-Lite0, FD-Lite0, precision and recall of generated against real images.

    Parameters
    ----------
    features_generated, features_reference: (n, d) and (m, d) float32 on the CPU, from `features.extract`.
    seed: of the subsets of KID.
    kid_subset_size, kid_subsets: KID is the mean over this many pairs of random subsets of this size.
    neighborhood: k of the k-nearest-neighbour balls of precision and recall.

    Returns
    -------
    kid_lite0: squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv
        1801.01401). Unbiased, so it may be slightly negative where the distributions are equal.
    kid_lite0_std: standard deviation over the subsets. Not an error bar of the mean, which is
        `kid_standard_error`: subsets share images.
    fd_lite0: Frechet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500). Strongly biased
        upwards for few images: compare at equal n only, beside the value of a second real set.
    precision, recall: share of generated images among the real ones and of real ones among the generated ones
        (Kynkaanniemi et al. 2019, arXiv 1904.06991), in [0, 1].

    Raises
    ------
    UserError: features of another shape or not finite, or too few images for the subsets or neighbourhood.
    """
    sets = {"features_generated": features_generated, "features_reference": features_reference}
    needed = max(kid_subset_size, neighborhood + 1)
    for name, values in sets.items():
        if values.dim() != 2 or values.shape[1] != features_reference.shape[-1]:
            raise UserError(
                f"{name}: expected (n, d) with d as in the other set, "
                f"got {tuple(features_generated.shape)} and {tuple(features_reference.shape)}"
            )
        if len(values) < needed:
            raise UserError(
                f"{name}: {len(values)} images are too few, "
                f"{needed} needed (kid_subset_size {kid_subset_size}, neighborhood {neighborhood})"
            )
        if not values.isfinite().all():
            raise UserError(f"{name}: not all values are finite")

    distances = frechet_and_kid(
        features_generated, features_reference, seed=seed, kid_subset_size=kid_subset_size, kid_subsets=kid_subsets
    )
    manifold = _prc.prc_features_to_metric(
        features_generated,
        features_reference,
        prc_neighborhood=neighborhood,
        save_cpu_ram=True,
        verbose=False,
    )
    return {
        "kid_lite0": distances["kid"],
        "kid_lite0_std": distances["kid_std"],
        "fd_lite0": distances["frechet"],
        "precision": manifold["precision"],
        "recall": manifold["recall"],
    }


def kid_standard_error(
    features_generated: torch.Tensor, features_reference: torch.Tensor, *, seed: int, resamples: int = 200
) -> float:
    """Standard error of `kid_lite0` over other generated images, the real ones staying, by a bootstrap.

    An image that is drawn twice is not compared with itself, which would add its kernel's diagonal.

    Parameters
    ----------
    features_generated, features_reference: (n, d) and (m, d), n >= 2.
    seed: of the resamples; 200 of them are sure to 5 %.
    """
    x, y = features_generated.double(), features_reference.double()
    n = len(x)
    among = (x @ x.T / x.shape[1] + 1) ** 3  # (n, n)
    among.fill_diagonal_(0)
    across = ((x @ y.T / x.shape[1] + 1) ** 3).mean(1)  # (n,)
    rng = numpy_generator(seed, "standard error of KID")
    times = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), resamples)).double()  # (resamples, n)
    pairs = n**2 - times.square().sum(1)
    again = (times @ among * times).sum(1) / pairs - 2 * times @ across / n
    return float(again.std())


def frechet_and_kid(
    features_generated: torch.Tensor, features_reference: torch.Tensor, *, seed: int, kid_subset_size: int, kid_subsets: int
) -> dict[str, float]:
    """`frechet`, and `kid` and `kid_std` over random subsets, of features (n, d) and (m, d) of any network; see `fidelity`."""
    frechet = _fid.fid_statistics_to_metric(
        _fid.fid_features_to_statistics(features_generated),
        _fid.fid_features_to_statistics(features_reference),
        verbose=False,
    )
    mean, std = kid(features_generated, features_reference, seed=seed, kid_subset_size=kid_subset_size, kid_subsets=kid_subsets)
    return {"frechet": frechet["frechet_inception_distance"], "kid": mean, "kid_std": std}


def kid(
    features_generated: torch.Tensor, features_reference: torch.Tensor, *, seed: int, kid_subset_size: int, kid_subsets: int
) -> tuple[float, float]:
    """The mean over random subsets, and their standard deviation, of features (n, d) and (m, d); see `fidelity`."""
    found = _kid.kid_features_to_metric(
        features_generated,
        features_reference,
        kid_subset_size=kid_subset_size,
        kid_subsets=kid_subsets,
        rng_seed=seed,
        verbose=False,
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]
