"""More training pairs than the main chain's, encoded for the release."""

from __future__ import annotations

from ufogen import config
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs
from ufogen.errors import UserError
from ufogen.pipelines.main.encode import encode_pairs
from ufogen.pipelines.release.paths import ENCODED
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write artifacts/release/encoded. Raises `UserError` for data that cannot be made at will."""
    if c.data.source != "nouns":
        raise UserError(f"parameter data.source is {c.data.source}; allowed in the release: nouns")
    encode_pairs(c, make_pairs(Nouns.load(c.data.node_modules), c.release.train_size, c.seed, "train"), ENCODED)


if __name__ == "__main__":
    run(main)
