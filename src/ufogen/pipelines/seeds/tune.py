"""Make the base consistent as the main chain does, with another seed.

`python -m ufogen.launch --standalone --nproc_per_node 2 -m ufogen.pipelines.seeds.tune seed=1`
"""

from __future__ import annotations

from ufogen import config
from ufogen.pipelines.main.tune import tune
from ufogen.pipelines.seeds.paths import of_seed
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write artifacts/seeds/SEED/tuned, as the main chain's stage writes artifacts/tuned."""
    tune(c, of_seed(c.seed, "tuned"))


if __name__ == "__main__":
    run(main)
