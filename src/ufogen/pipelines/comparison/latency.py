"""Time every way of sampling, one after another on an otherwise idle machine.

All methods are one U-Net, so the seconds are those of sampler, number of steps and guidance, whatever the weights.
"""

from __future__ import annotations

import json
import platform

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.data.pairs import read_pairs
from ufogen.evaluation.latency import seconds_per_image
from ufogen.evaluation.sampler import Method, Sampler, methods
from ufogen.files import write_whole
from ufogen.pipelines.comparison.arm import all_arms, sampler_of
from ufogen.pipelines.comparison.paths import LATENCY
from ufogen.pipelines.stage import ARTIFACTS, run
from ufogen.precision import DTYPES
from ufogen.training.loop import make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/comparison/latency.json: seconds an image, text to pixels, of each sampler, steps and guidance."""
    device, s, e = make_accelerator(c.device, "no").device, c.sampler, c.evaluation
    base = load_base(ARTIFACTS / "base")
    sampler = Sampler.load(base, (base.unet, 0), device, DTYPES[s.precision])
    captions = read_pairs(ARTIFACTS / "data" / "evaluation").captions
    ways = {(sampler_of(arm), steps, 0.0) for arm in all_arms().values() for steps in arm["steps"]}
    solvers = methods(s.base_solvers, s.ufogen_steps, s.base_steps, s.guidance, "sampler.base_solvers")
    ways |= {(method.sampler, method.steps, method.guidance) for method in solvers}
    rows = []
    for name, steps, guidance in tqdm(sorted(ways), desc="latency", mininterval=5):
        method = Method("base", name, steps, guidance)

        def generate(n: int, method: Method = method) -> np.ndarray:
            return sampler.sample(method, sampler.encode([captions[i % len(captions)] for i in range(n)]), n, c.seed)

        seconds = seconds_per_image(generate, e.latency_batch_size, e.latency_repeats, warmup=1)["median"]
        rows.append({"sampler": name, "steps": steps, "guidance": guidance, "seconds_per_image": seconds})
    card = {
        "batch_size": e.latency_batch_size, "repeats": e.latency_repeats, "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU",
        "precision": s.precision, "rows": rows,
    }  # fmt: skip
    LATENCY.parent.mkdir(parents=True, exist_ok=True)
    write_whole(LATENCY, (json.dumps(card, indent=1) + "\n").encode())


if __name__ == "__main__":
    run(main)
