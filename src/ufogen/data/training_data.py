"""What training calls for its batches, whichever the source: a batch is a pure function of the update's number."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from ufogen import config
from ufogen.base.models import Pipeline
from ufogen.data.encoded import Encoded
from ufogen.data.encoder import Encoder
from ufogen.data.shard_encoding import identity, lengths, read_run
from ufogen.data.shards import open_shards
from ufogen.data.streamed import Streamed
from ufogen.errors import UserError
from ufogen.files import ARTIFACTS

NO_TRAINING = "parameter data.source is coco, which is for evaluation; allowed for training: nouns, folder, webdataset"


def open_training_data(
    c: config.Config, accelerator: Accelerator, base: Pipeline, encoded: Path = ARTIFACTS / "encoded"
) -> Encoded | Streamed:
    """This process's share of each batch, from `encoded` or, with data.cache=false, encoded by `base` as training goes.

    Raises `UserError` where the encoded data is missing or was made with other settings.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    share = (c.trainer.batch_size * c.trainer.accumulation, c.seed, rank, world_size)
    if c.data.source in ("nouns", "folder"):
        return Encoded(encoded, *share)
    if c.data.source == "coco":
        raise UserError(NO_TRAINING)
    if c.data.cache:
        refusal = UserError(f"{encoded} was made from other data or settings: run the stage encode again")
        if read_run(encoded) != identity(c):
            raise refusal
        data = Encoded(encoded, *share)
        if (there := lengths(c.data.path)) and there != data.card["lengths"]:  # none is there: they are not needed any more
            raise refusal
        return data
    index = ARTIFACTS / "shards"
    shards = open_shards(c.data, index, rank, world_size, accelerator.wait_for_everyone)
    encoder = Encoder(base, c.data, c.seed, accelerator.device)
    data = Streamed(shards, encoder, index / f"broken_images-{rank}.json", *share)
    data.card |= {"run": identity(c), "lengths": lengths(c.data.path)}  # a checkpoint of other data is not continued
    return data
