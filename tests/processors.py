"""How far do results differ on another processor? `python -m tests.processors`, some ten minutes.

The libraries are told to compute as on a processor without AVX-512. The same seeds then draw pictures with the released model
and train UFOGen for a few updates from the base; weights, pictures and their measures are compared with those of this processor
as it is, and with bfloat16, which `auto` takes where there are instructions for it. Prints a table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PROMPTS, UPDATES = 500, 50
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
VARIANTS = {  # environment, dtype of sampling, precision of training
    "as it is": ({}, "float32", "no"),
    "as it is, again": ({}, "float32", "no"),
    "without AVX-512": (AVX2, "float32", "no"),
    "bfloat16": ({}, "bfloat16", "bf16"),
}
DATA = (
    "data.train_size=512",
    "data.evaluation_size=20",
    f"data.node_modules={ROOT}/node_modules",
    f"base.path={ROOT}/models/nouns-sd",
)
TRAIN = (
    "objective.generator_init=base", f"trainer.updates={UPDATES}", "trainer.discriminator_first=0", "trainer.validation_size=8",
    "trainer.validate_every=1000", "trainer.sample_every=1000", "threads=1",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        found, start = {}, load_file(ROOT / "models/nouns-sd/unet/diffusion_pytorch_model.safetensors")
        for name, (environment, dtype, precision) in VARIANTS.items():
            at = Path(folder) / name.replace(" ", "-")
            at.mkdir()
            python(at, environment, "tests.processors", str(at / "pictures.npy"), dtype)
            for stage, given in (("prepare", DATA), ("initialize", DATA), ("encode", DATA), ("train", TRAIN)):
                given = (*DATA, *given, f"trainer.precision={precision}")
                python(
                    at,
                    environment,
                    f"ufogen.pipelines.main.{stage}",
                    "--params",
                    str(ROOT / "params.yaml"),
                    "device=cpu",
                    *given,
                )
            weights = load_file(at / "artifacts/train/unet/diffusion_pytorch_model.safetensors")
            found[name] = np.load(at / "pictures.npy").astype(int), np.concatenate([weights[key].flatten() for key in start])
        measures = measured({name: pictures for name, (pictures, _) in found.items()})
        began = np.concatenate([value.float().flatten() for value in start.values()])
    pictures, weights = found["as it is"]
    for name, (others, trained) in found.items():
        apart = np.linalg.norm(trained - weights) / np.linalg.norm(weights - began)
        print(
            f"{name}: channels that differ {(others != pictures).mean():.4%}, mean difference of the pictures"
            f" {np.abs(others - pictures).mean():.4f} of 255, weights after {UPDATES} updates {apart:.2e} of their way;"
            f" {measures[name]}"
        )


def python(folder: Path, environment: dict[str, str], *words: str) -> None:
    given = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=given, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def asked():
    """The prompts' pairs."""
    from ufogen.data.nouns import Nouns
    from ufogen.data.pairs import make_pairs

    nouns = Nouns.load(ROOT / "node_modules")
    return nouns, make_pairs(nouns, PROMPTS, 0, "processors")


def draw(path: str, dtype: str) -> None:
    """One-step pictures of the released model into a file."""
    from ufogen import UFOGen

    model = UFOGen.from_pretrained(device="cpu", dtype=dtype)
    pictures = [np.asarray(picture) for picture in model(asked()[1].captions, seed=range(PROMPTS), batch_size=50)]
    np.save(path, np.stack(pictures))


def measured(pictures: dict[str, np.ndarray]) -> dict[str, str]:
    """KID-Lite0, residual and attributes."""
    import torch

    from ufogen.data.pairs import make_pairs
    from ufogen.evaluation import features
    from ufogen.evaluation.evaluator import Evaluator

    nouns, pairs = asked()
    reference = features.extract(make_pairs(nouns, 1000, 0, "processors' real images").images, device=torch.device("cpu"))
    evaluator = Evaluator(reference, nouns, torch.device("cpu"), seed=0, neighborhood=3)
    found = {name: evaluator(images.astype(np.uint8), pairs) for name, images in pictures.items()}
    keys = ("kid_lite0", "residual", "attribute_accuracy")
    return {name: ", ".join(f"{key} {values[key]:.5f}" for key in keys) for name, values in found.items()}


if __name__ == "__main__":
    draw(*sys.argv[1:]) if len(sys.argv) > 1 else main()
