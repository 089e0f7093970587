"""What a set of samples is worth: fidelity to real images, and whether they show what their captions name."""

from __future__ import annotations

import numpy as np
import torch

from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity

METRICS = ("kid_lite0", "fd_lite0", "precision", "recall", "attribute_accuracy")
# of every table of samples
COLUMNS = (
    "method", "sampler", "steps", "guidance", "seed", "n", *METRICS, "attribute_accuracy_heldout", "seconds_per_image",
)  # fmt: skip


class Evaluator:
    """Measures samples against one set of real images.

    Parameters
    ----------
    reference: features (m, d) of the real images, from `features.extract`.
    seed, kid_subsets, neighborhood: see `fidelity`.
    kid_subset_size: at most; half of the samples where it is None.
    """

    def __init__(
        self,
        reference: torch.Tensor,
        nouns: Nouns,
        device: torch.device,
        *,
        seed: int,
        neighborhood: int,
        kid_subsets: int = 50,
        kid_subset_size: int | None = None,
    ):
        self.reference, self.nouns, self.device = reference, nouns, device
        self.seed, self.neighborhood = seed, neighborhood
        self.kid_subsets, self.kid_subset_size = kid_subsets, kid_subset_size

    def __call__(self, images: np.ndarray, asked: Pairs) -> dict[str, float]:
        """Every metric of images (n, h, w, 3) uint8, one for each pair asked for: `fidelity`'s and `attribute_accuracy`."""
        return self.fidelity(images) | {"attribute_accuracy": self.attributes(images, asked)["mean"]}

    def fidelity(self, images: np.ndarray) -> dict[str, float]:
        n = len(images)
        size = max(n // 2, 2) if self.kid_subset_size is None else min(self.kid_subset_size, n)
        return fidelity(
            features.extract(images, device=self.device), self.reference, seed=self.seed, kid_subset_size=size,
            kid_subsets=self.kid_subsets, neighborhood=self.neighborhood,
        )  # fmt: skip

    def attributes(self, images: np.ndarray, asked: Pairs) -> dict[str, float]:
        """Share of the named parts that are shown, for each kind of part and as their `mean`."""
        return attribute_accuracy(images, asked.parts, asked.mentioned, self.nouns)
