"""Train the one-step generator as the main chain does, with another seed.

`python -m ufogen.launch --standalone --nproc_per_node 2 -m ufogen.pipelines.seeds.train seed=1`
"""

from __future__ import annotations

from ufogen import config
from ufogen.pipelines.main.train import train
from ufogen.pipelines.seeds.paths import of_seed
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write artifacts/seeds/SEED/train, as the main chain's stage writes artifacts/train."""
    train(c, of_seed(c.seed, "train"), tuned_base=of_seed(c.seed, "tuned"))


if __name__ == "__main__":
    run(main)
