"""The release's training pairs, encoded: of Nouns more than the main chain's, of other sources the same."""

from __future__ import annotations

import os
import shutil

from ufogen import config
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs
from ufogen.pipelines.main.encode import encode_pairs
from ufogen.pipelines.release.paths import ENCODED
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/release/encoded. Sources that have what they have lend the main chain's files."""
    if c.data.source != "nouns":
        with publish(ENCODED) as out:
            shutil.copytree(ARTIFACTS / "encoded", out, copy_function=os.link, dirs_exist_ok=True)
        return
    encode_pairs(c, make_pairs(Nouns.load(c.data.node_modules), c.release.train_size, c.seed, "train"), ENCODED)


if __name__ == "__main__":
    run(main)
