"""What D could see at each step size before any training: real latents against the base's one-step means, behind the noise."""

from __future__ import annotations

import torch

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.data.encoded import Encoded
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.schedule import Schedule
from ufogen.evaluation.evidence import gaussian_evidence
from ufogen.inference.export import refuse_sdxl
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, table, write_results
from ufogen.randomness import torch_generator

STEP_SIZES = (25, 50, 100, 125, 250, 375, 500, 625, 750, 875)
REDUNDANCIES = (1, 4, 16, 64)
ITEMS, BATCH = 8192, 256


@torch.no_grad()
def main(c: config.Config) -> None:
    """Write paper/results/evidence.csv: `nats` of an item at s = T - 1 - k for each redundancy.

    `floor` is the same between two halves of the real latents.
    """
    base = load_base(ARTIFACTS / "base")
    refuse_sdxl(base, "the ablation study")
    schedule = Schedule.from_scheduler(base.scheduler)
    generator = Generator(base.unet, schedule, base.scheduler.config.prediction_type)
    last = schedule.num_timesteps - 1
    size = min(BATCH, len(Encoded(ARTIFACTS / "encoded", 1, c.seed)))
    data = Encoded(ARTIFACTS / "encoded", size, c.seed)
    rng, reals, fakes = torch_generator("cpu", c.seed, "evidence"), [], []
    for step in range(min(ITEMS, len(data)) // size):
        batch = data(step)
        x_t = torch.randn(batch.latents.shape, generator=rng)
        fakes.append(generator(x_t, torch.full((size,), last), batch.prompt_embeds.float()).flatten(1))
        reals.append(batch.latents.float().flatten(1))
    real, fake = (torch.cat(parts).double().numpy() for parts in (reals, fakes))
    rows = []
    for k in STEP_SIZES:
        alpha_bar = float(schedule.alpha_bar(torch.tensor([last - k])))
        for redundancy in REDUNDANCIES:
            rows.append(
                {
                    "k": k, "redundancy": redundancy, "nats": gaussian_evidence(real, fake, alpha_bar, redundancy),
                    "floor": gaussian_evidence(real[::2], real[1::2], alpha_bar, redundancy),
                }
            )  # fmt: skip
    write_results(RESULTS, {"evidence.csv": table(rows, digits=5)})


if __name__ == "__main__":
    run(main)
