"""What a set of samples is worth: fidelity to real images, named attributes, and the variety of those left open."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ufogen import config
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.evaluation import features
from ufogen.evaluation.exact import EXACT, Reading, by_named, exact_details, exact_measures, read
from ufogen.evaluation.fidelity import fidelity, kid, kid_standard_error

METRICS = ("kid_lite0", "fd_lite0", "precision", "recall", *EXACT)
# of every table of samples
COLUMNS = (
    "method", "sampler", "steps", "guidance", "seed", "n", "named", *METRICS, "attribute_accuracy_heldout",
    "seconds_per_image",
)  # fmt: skip
KID_IMAGES = 100  # a row of fewer images has no KID: it would say little more than its noise


def nouns_of(data: config.Data) -> Nouns | None:
    """The characters that pictures of a source are made of; None where they are the user's own."""
    return Nouns.load(data.node_modules) if data.source == "nouns" else None


class Evaluator:
    """Measures samples against one set of real images.

    Parameters
    ----------
    reference: features (m, d) of the real images, from `features.extract`.
    nouns: what the exact measures compare with; None for other pictures, which have none.
    seed, kid_subsets, neighborhood: see `fidelity`.
    kid_subset_size: at most; half of the samples where it is None.
    """

    def __init__(
        self,
        reference: Tensor,
        nouns: Nouns | None,
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
        """`METRICS` of images (n, h, w, 3) uint8, one for each pair asked for; one that no image decides is left out."""
        found = self.fidelity(self.features(images))
        return found if self.nouns is None else found | exact_measures(self.read(images, asked))

    def rows(self, images: np.ndarray, asked: Pairs) -> list[dict]:
        """The row of all images and one for each number of attributes that captions name, with what stands beside a table.

        The images of some captions have the distribution of all of them, since which attributes are named is drawn apart from
        what they are; so KID compares them with the same real images. The Frechet distance, precision and recall depend on
        how many images there are and stand in the row of all alone.
        """
        found = self.features(images)
        if self.nouns is None:
            return [{"named": "all", "n": len(found)} | self.fidelity(found) | self._error(found, {})]
        reading, rows = self.read(images, asked), []
        for named, some in by_named(asked.mentioned):
            n, part = int(some.sum()), found[torch.from_numpy(some)]
            row = {"named": named, "n": n}
            row |= self.fidelity(part) if named == "all" else self.kid(part)
            row |= exact_measures(reading.where(some)) | exact_details(reading.where(some), self.seed)
            if "kid_lite0" in row and n > 1:
                row |= self._error(part, row["standard_error"])
            rows.append(row)
        return rows

    def _error(self, found: Tensor, others: dict[str, float]) -> dict:
        """How noisy the KID of features (n, d) is, beside other columns' standard errors."""
        error = kid_standard_error(found, self.reference, seed=self.seed)
        return {"kid_subset_size": self._subset_size(len(found)), "standard_error": others | {"kid_lite0": error}}

    def features(self, images: np.ndarray) -> Tensor:
        return features.extract(images, device=self.device)

    def read(self, images: np.ndarray, asked: Pairs) -> Reading:
        """What the images show of what was asked for."""
        return read(images, asked.parts, asked.mentioned, self.nouns)

    def fidelity(self, found: Tensor) -> dict[str, float]:
        """`fidelity` of features (n, d)."""
        return fidelity(
            found, self.reference, seed=self.seed, kid_subset_size=self._subset_size(len(found)),
            kid_subsets=self.kid_subsets, neighborhood=self.neighborhood,
        )  # fmt: skip

    def kid(self, found: Tensor) -> dict[str, float]:
        """`kid_lite0` and `kid_lite0_std` alone, of features (n, d); empty for fewer than `KID_IMAGES`."""
        if len(found) < KID_IMAGES:
            return {}
        size = self._subset_size(len(found))
        mean, std = kid(found, self.reference, seed=self.seed, kid_subset_size=size, kid_subsets=self.kid_subsets)
        return {"kid_lite0": mean, "kid_lite0_std": std}

    def _subset_size(self, n: int) -> int:
        """Of the subsets whose mean KID is; the estimator is unbiased at any size."""
        return max(n // 2, 2) if self.kid_subset_size is None else min(self.kid_subset_size, n)
