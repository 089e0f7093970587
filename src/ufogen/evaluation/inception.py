"""FID and KID on Inception v3 as published results use them: torch-fidelity's network, weights and arithmetic.

Every image goes the same way: its middle square to 256 x 256 (Lanczos), then Inception's own resize to 299 x 299.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ufogen.data.crops import square
from ufogen.errors import UserError
from ufogen.evaluation.features import torch_fidelity  # which takes care of a missing torchvision
from ufogen.evaluation.fidelity import frechet_and_kid

Network = torch_fidelity.FeatureExtractorInceptionV3

NAME = "inception-v3-compat"
LAYER = "2048"  # the last average pool
SIZE = 256
RESIZE = (
    f"middle square to {SIZE} x {SIZE} (Pillow {Image.__version__}, Lanczos, antialias, uint8), "
    "then 299 x 299 inside the network (bilinear as in TensorFlow 1, no antialias, float32)"
)
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = URL.removesuffix(".pth")[-8:]  # how the hash of the published weights begins


def weights_file(given: str) -> Path:
    """The file `given`, or, where that is empty, torch-fidelity's own weights, downloaded once.

    Raises `UserError` where the file is not there or cannot be downloaded.
    """
    if given:
        if not Path(given).is_file():
            raise UserError(f"parameter coco.inception_weights is {given!r}, which is no file; allowed: a file as {URL}, or ''")
        return Path(given)
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=PUBLISHED, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Inception weights cannot be downloaded: {error}; get {URL} and set coco.inception_weights to the file"
            ) from error
    return path


def load(path: Path) -> Network:
    """The network in float32 on the CPU. Raises `UserError` where the file does not hold its weights."""
    wanted = f"allowed: torch-fidelity's Inception v3, {Path(URL).name}"
    try:  # torch-fidelity itself would run code that a file holds
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds for a file that is something else
        raise UserError(f"Inception weights {path} are not a readable file of PyTorch weights; {wanted}") from error
    try:
        return Network(NAME, [LAYER], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        raise UserError(f"Inception weights {path} are of another architecture; {wanted}") from error


def resized(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, 3) uint8 as (n, 256, 256, 3) uint8."""
    if images.shape[1:3] == (SIZE, SIZE):
        return images
    return np.stack([square(Image.fromarray(image), SIZE, "lanczos") for image in images])


def extract(batches: Iterable[np.ndarray], network: Network, device: torch.device | str = "cpu") -> torch.Tensor:
    """Features (n, d) float32 on the CPU of images (b, h, w, 3) uint8, which come in batches of any sizes."""
    network = network.to(device)
    # TF32 would make a GPU's features differ from a CPU's in the third digit
    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        features = [network(torch.from_numpy(resized(batch)).to(device).permute(0, 3, 1, 2))[0].cpu() for batch in batches]
    return torch.cat(features)


def distances(
    features_generated: torch.Tensor, features_reference: torch.Tensor, *, seed: int, kid_subsets: int, kid_subset_size: int
) -> dict[str, float]:
    """FID, and KID as mean and standard deviation over random subsets, drawn by `seed`.

    Parameters
    ----------
    features_generated, features_reference: (n, d) and (m, d) float32, from `extract`.

    Returns
    -------
    fid: Frechet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500). Biased upwards, the more the fewer the
        images: compare at equal n only.
    kid, kid_std: squared maximum mean discrepancy, kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).
        Unbiased, so it may be slightly negative. The deviation is no error bar of the mean: subsets share images.

    Raises
    ------
    UserError: fewer images than a subset takes, or features that are not finite.
    """
    for name, features in {"generated": features_generated, "reference": features_reference}.items():
        if len(features) < max(kid_subset_size, 2):
            raise UserError(f"{len(features)} {name} images are too few, {max(kid_subset_size, 2)} needed for FID and KID")
        if not features.isfinite().all():
            raise UserError(f"Inception features of the {name} images are not finite")
    found = frechet_and_kid(
        features_generated, features_reference, seed=seed, kid_subset_size=kid_subset_size, kid_subsets=kid_subsets
    )
    return {"fid": found["frechet"], "kid": found["kid"], "kid_std": found["kid_std"]}
