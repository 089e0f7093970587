"""What every method of the comparison is asked for, and who measures what it makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ufogen import config
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs, read_pairs
from ufogen.evaluation import features
from ufogen.evaluation.evaluator import Evaluator
from ufogen.evaluation.exact import exact_measures
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.files import ARTIFACTS


class Prompts:
    """Evaluation prompts, and held-out pairs; noise depends on the seed alone, so that all methods have the same."""

    def __init__(self, c: config.Config, device: torch.device):
        self.size = c.sampler.batch_size
        self.asked = read_pairs(ARTIFACTS / "data" / "evaluation")
        real = features.extract(np.array(self.asked.images), device=device)
        self.evaluator = Evaluator(
            real, Nouns.load(c.data.node_modules), device, seed=0, neighborhood=c.evaluation.neighborhood,
            kid_subsets=c.evaluation.kid_subsets, kid_subset_size=c.evaluation.kid_subset_size,
        )  # fmt: skip
        self.asked = self.asked[: c.comparison.evaluation_size]
        self.heldout = read_pairs(ARTIFACTS / "data" / "heldout")[: c.comparison.heldout_size]

    def measure(self, sampler: Sampler, method: Method, seed: int, network: Any = None) -> tuple[list[dict], np.ndarray]:
        """The rows of a method and the images that it makes for the evaluation prompts."""
        images, heldout_images = (
            sampler.sample(method, sampler.encode(pairs.captions), self.size, seed, network)
            for pairs in (self.asked, self.heldout)
        )
        evaluations = method.steps * (2 if method.guidance > 1 else 1)
        name = vars(method) | {"seed": seed, "network_evaluations": evaluations}
        return self.rows(name, images, self.asked, heldout_images), images

    def rows(self, name: dict, images: np.ndarray, asked: Pairs, heldout_images: np.ndarray) -> list[dict]:
        """One row for all images and one for each number of attributes that captions name; see `Evaluator.rows`."""
        rows = [name | row for row in self.evaluator.rows(images, asked)]
        unseen = exact_measures(self.evaluator.read(heldout_images, self.heldout))["attribute_accuracy"]
        return [row | ({"attribute_accuracy_heldout": unseen} if row["named"] == "all" else {}) for row in rows]
