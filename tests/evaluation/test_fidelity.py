"""Fidelity: equal to torch-fidelity from end to end, and sensible on sets whose answer is known."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ufogen.errors import UserError
from ufogen.evaluation.features import NAME, extract, torch_fidelity
from ufogen.evaluation.fidelity import fidelity, kid_standard_error

SETTINGS = {"seed": 3, "kid_subset_size": 20, "kid_subsets": 10}


class Images(Dataset):
    def __init__(self, images: np.ndarray):
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.images[i]


def normal(n: int, dimensions: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed))


def test_equals_calculate_metrics(nouns, rng):
    generated, reference = nouns.render(nouns.sample(24, rng)), nouns.render(nouns.sample(32, rng))
    generated[:12] = generated[:12] // 2  # so that precision and recall differ
    ours = fidelity(extract(generated, 8), extract(reference, 8), **SETTINGS)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(reference),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        prc=True,
        rng_seed=SETTINGS["seed"],
        kid_subset_size=SETTINGS["kid_subset_size"],
        kid_subsets=SETTINGS["kid_subsets"],
        batch_size=8,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    names = {
        "kid_lite0": "kernel_inception_distance_mean",
        "kid_lite0_std": "kernel_inception_distance_std",
        "fd_lite0": "frechet_inception_distance",
        "precision": "precision",
        "recall": "recall",
    }
    assert ours["precision"] != ours["recall"]
    assert ours == {name: pytest.approx(theirs[key], rel=1e-5) for name, key in names.items()}


def test_a_tight_cluster_has_precision_without_recall():
    found = fidelity(0.05 * normal(300, 3, seed=0), normal(300, 3, seed=1), **SETTINGS)
    assert found["precision"] > 0.95
    assert found["recall"] < 0.05


def test_a_wide_set_has_recall_without_precision():
    found = fidelity(20 * normal(300, 3, seed=0), normal(300, 3, seed=1), **SETTINGS)
    assert found["precision"] < 0.05
    assert found["recall"] > 0.95


def test_identical_sets_have_no_distance():
    same = normal(100, 16, seed=0)
    found = fidelity(same, same.clone(), **SETTINGS)
    assert found["fd_lite0"] == pytest.approx(0, abs=1e-5)
    assert found["precision"] == found["recall"] == 1


def test_frechet_distance_of_a_shift_is_its_square():
    reference = normal(200, 8, seed=0)
    assert fidelity(reference + 2, reference, **SETTINGS)["fd_lite0"] == pytest.approx(8 * 2**2, rel=1e-4)


def test_fewer_images_than_dimensions_give_finite_values():
    found = fidelity(normal(25, 64, seed=0), normal(30, 64, seed=1), **SETTINGS)
    assert all(np.isfinite(value) for value in found.values())
    assert found["fd_lite0"] > 1


def test_seed_alone_moves_kid():
    sets = normal(60, 8, seed=0), normal(60, 8, seed=1) + 0.2
    first, again, other = (fidelity(*sets, **SETTINGS | {"seed": seed}) for seed in (3, 3, 4))
    assert first == again
    assert first["kid_lite0"] != other["kid_lite0"]
    assert first["fd_lite0"] == other["fd_lite0"]


@pytest.mark.parametrize("shift", [0.2, 0.6])
def test_standard_error_of_kid_is_the_spread_of_other_images(shift):
    reference = normal(400, 16, seed=0)
    others = [normal(100, 16, seed=seed) + shift for seed in range(1, 151)]
    whole = {"seed": 0, "kid_subset_size": 100, "kid_subsets": 40}
    spread = np.std([fidelity(images, reference, **whole)["kid_lite0"] for images in others])
    found = [kid_standard_error(images, reference, seed=0) for images in others[:20]]
    assert np.mean(found) == pytest.approx(spread, rel=0.25)
    assert found[0] == kid_standard_error(others[0], reference, seed=0) != kid_standard_error(others[0], reference, seed=1)


def test_bad_input_is_named():
    features = normal(30, 8, seed=0)
    with pytest.raises(UserError, match="features_generated: 10 images are too few, 20 needed"):
        fidelity(features[:10], features, **SETTINGS)
    with pytest.raises(UserError, match="features_reference: 5 images are too few, 31 needed"):
        fidelity(features.repeat(2, 1), features[:5], **SETTINGS | {"neighborhood": 30})
    with pytest.raises(UserError, match=r"features_generated: .*\(30, 4\) and \(30, 8\)"):
        fidelity(features[:, :4], features, **SETTINGS)
    broken = features.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(UserError, match="features_reference: not all values are finite"):
        fidelity(features, broken, **SETTINGS)
