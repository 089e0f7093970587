"""Train the generator that is released.

`python -m ufogen.launch --standalone --nproc_per_node 2 -m ufogen.pipelines.release.train`
"""

from __future__ import annotations

from ufogen import config
from ufogen.pipelines.main.train import train
from ufogen.pipelines.release.paths import ENCODED, TRAIN, released, start
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write artifacts/release/train, as the main chain's stage writes artifacts/train."""
    train(released(c), TRAIN, ENCODED, start=start(c), keep_discriminator=True)


if __name__ == "__main__":
    run(main)
