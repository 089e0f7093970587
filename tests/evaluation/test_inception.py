"""FID and KID: equal to torch-fidelity on the same images, and one clear error where the weights are not Inception's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from tests import tiny_coco
from ufogen.errors import UserError
from ufogen.evaluation import inception
from ufogen.evaluation.features import torch_fidelity

KID = {"kid_subsets": 10, "kid_subset_size": 5}


class Folder(Dataset):
    """Images of a folder as torch-fidelity takes them, resized by Pillow."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        image = Image.open(self.paths[i]).resize((256, 256), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_coco.inception_weights(tmp_path_factory.mktemp("inception"))


@pytest.fixture
def shallow(monkeypatch, weights) -> inception.Network:
    """The same network up to its first pooled layer: 64 features, whose covariance takes no minute to decompose."""
    monkeypatch.setattr(inception, "LAYER", "64")
    return inception.load(weights)


def save(folder: Path, images: np.ndarray) -> Folder:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return Folder(folder)


def test_equals_calculate_metrics_on_the_same_folders(tmp_path, weights, shallow):
    generated, real = tiny_coco.pictures(8, seed=0), tiny_coco.pictures(6, seed=1) // 2
    theirs = torch_fidelity.calculate_metrics(
        input1=save(tmp_path / "generated", generated), input2=save(tmp_path / "real", real), fid=True, kid=True,
        feature_extractor=inception.NAME, feature_extractor_weights_path=str(weights), feature_layer_fid="64",
        feature_layer_kid="64", batch_size=4, rng_seed=3, cuda=False, cache=False, save_cpu_ram=True, verbose=False, **KID,
    )  # fmt: skip
    features = [inception.extract([images[:4], images[4:]], shallow) for images in (generated, real)]
    ours = inception.distances(*features, seed=3, **KID)
    assert ours["fid"] > 1e-3
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)


def test_features_are_those_of_the_last_pool(weights):
    images = tiny_coco.pictures(2)
    network = inception.load(weights)
    theirs = torch_fidelity.FeatureExtractorInceptionV3("other", ["2048"], feature_extractor_weights_path=str(weights))
    resized = [Image.fromarray(image).resize((256, 256), Image.Resampling.LANCZOS) for image in images]
    expected = theirs(torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in resized]))[0]
    assert expected.shape == (2, 2048) and expected.std() > 0
    assert torch.equal(inception.extract([images], network), expected)


def test_a_set_has_no_distance_to_itself(shallow):
    features = inception.extract([tiny_coco.pictures(8)], shallow)
    found = inception.distances(features, features.clone(), seed=0, **KID)
    other = inception.distances(features, inception.extract([tiny_coco.pictures(8, seed=5)], shallow), seed=0, **KID)
    assert abs(found["fid"]) < 1e-6 * other["fid"] + 1e-9


def test_images_of_256_stay_as_they_are_and_others_are_resized():
    large = tiny_coco.pictures(1, side=256)
    assert inception.resized(large) is large
    small = tiny_coco.pictures(1)
    assert (
        inception.resized(small)[0] == np.array(Image.fromarray(small[0]).resize((256, 256), Image.Resampling.LANCZOS))
    ).all()


def test_too_few_or_broken_features_are_an_error():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="3 generated images are too few, 5 needed"):
        inception.distances(features[:3], features, seed=0, **KID)
    broken = features.clone()
    broken[0, 0] = torch.inf
    with pytest.raises(UserError, match="reference images are not finite"):
        inception.distances(features, broken, seed=0, **KID)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("no weights")
    with pytest.raises(UserError, match=r"weights\.pth are not a readable file of PyTorch weights; allowed: .*Inception v3"):
        inception.load(path)
    for content in ({"conv.weight": torch.zeros(3)}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"weights\.pth are of another architecture; allowed: .*Inception v3"):
            inception.load(path)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"code": Code()}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not a readable file"):
        inception.load(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_missing_file_and_missing_network_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="parameter coco.inception_weights is 'absent.pth', which is no file"):
        inception.weights_file("absent.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match="Inception weights cannot be downloaded: .*set coco.inception_weights to the file"):
        inception.weights_file("")
    assert not list(tmp_path.rglob("*.pth"))
