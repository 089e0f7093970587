"""Encode the training pairs once: latents and token states, memory-mapped by training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.text import encode_text
from ufogen.pipeline import load_base
from ufogen.randomness import torch_generator
from ufogen.stages.common import ARTIFACTS, publish, require_space, run
from ufogen.stages.prepare import read_pairs
from ufogen.training.loop import make_accelerator

BLOCK = 256  # pairs a pass; each block's latents are drawn with a generator of its own


def main(c: config.Config) -> None:
    """Write artifacts/encoded: latents.npy (n, 4, 8, 8) and states.npy (n, tokens, width), float16."""
    device = make_accelerator(c.device, "no").device
    pipeline = load_base(ARTIFACTS / "base").to(device)
    pairs = read_pairs(ARTIFACTS / "data" / "train")
    n = len(pairs.captions)
    with publish(ARTIFACTS / "encoded") as out:
        latents = states = None
        for start in tqdm(range(0, n, BLOCK), desc="encoding", unit_scale=BLOCK, unit="pairs", mininterval=5):
            rows = slice(start, min(start + BLOCK, n))
            rng = torch_generator(device, c.seed, "encode", start)
            latent = encode_images(np.ascontiguousarray(pairs.images[rows]), pipeline.vae, rng)
            state = encode_text(pairs.captions[rows], pipeline.text_encoder, pipeline.tokenizer, batch_size=64)
            if latents is None:
                latents = _create(out / "latents.npy", (n, *latent.shape[1:]))
                states = _create(out / "states.npy", (n, *state.shape[1:]))
            latents[rows], states[rows] = latent.half().cpu().numpy(), state.half().cpu().numpy()
        latents.flush()
        states.flush()
        (out / "card.json").write_text(json.dumps({"n": n, "latents": latents.shape, "states": states.shape}))


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    require_space(path.parent, 2 * math.prod(shape))
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


if __name__ == "__main__":
    run(main)
