"""Encode the training pairs once: latents and token states, memory-mapped by training.

Shards may be shared by many processes, and a stopped stage goes on with the shards that are not done:
`torchrun --nproc_per_node 8 -m ufogen.pipelines.main.encode data.source=webdataset data.path=FOLDER`.
"""

from __future__ import annotations

import json
import math
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.loading import load_base
from ufogen.base.text import encode_prompts, text_encoders
from ufogen.data.encoder import Encoder
from ufogen.data.pairs import Pairs, read_pairs
from ufogen.data.shard_encoding import encode_shard, identity, lengths, read_run, shard_card
from ufogen.data.shards import open_shards
from ufogen.data.training_data import NO_TRAINING
from ufogen.errors import UserError
from ufogen.pipelines.stage import ARTIFACTS, publish, require_space, run, sha256
from ufogen.randomness import torch_generator
from ufogen.training.loop import make_accelerator

BLOCK = 256  # pairs a pass; each block's latents are drawn with a generator of its own


def main(c: config.Config) -> None:
    """Write artifacts/encoded: latents (n, 4, h, w) and token states (n, tokens, width), float16, and a card.

    For an SDXL base also pooled states (n, p).
    """
    if c.data.source == "coco":
        raise UserError(NO_TRAINING)
    if c.data.source == "webdataset":
        encode_shards(c)
    else:
        encode_pairs(c, read_pairs(ARTIFACTS / "data" / "train"), ARTIFACTS / "encoded")


def encode_pairs(c: config.Config, pairs: Pairs, folder: Path) -> None:
    """Nouns or a folder: one file each for latents, prompt_embeds and, for SDXL, pooled states."""
    device = make_accelerator(c.device, "no").device
    pipeline = load_base(ARTIFACTS / "base").to(device)
    n = len(pairs.captions)
    with publish(folder) as out:
        files: dict[str, np.memmap] = {}
        for start in tqdm(range(0, n, BLOCK), desc="encoding", unit_scale=BLOCK, unit="pairs", mininterval=5):
            rows = slice(start, min(start + BLOCK, n))
            rng = torch_generator(device, c.seed, "encode", start)
            latent = encode_images(np.ascontiguousarray(pairs.images[rows]), pipeline.vae, rng)
            text = encode_prompts(pairs.captions[rows], text_encoders(pipeline), batch_size=64)
            found = {"latents": latent, "prompt_embeds": text.prompt_embeds} | (
                {} if text.pooled_prompt_embeds is None else {"pooled_prompt_embeds": text.pooled_prompt_embeds}
            )
            for kind, value in found.items():
                if start == 0:
                    files[kind] = _create(out / f"{kind}.npy", (n, *value.shape[1:]))
                files[kind][rows] = value.half().cpu().numpy()
        for file in files.values():
            file.flush()
        # by its hash a run knows that it goes on with the same data
        hashes = {kind: sha256(out / f"{kind}.npy") for kind in files}
        card = {"n": n} | {kind: file.shape for kind, file in files.items()} | {"sha256": hashes}
        (out / "card.json").write_text(json.dumps(card))


def encode_shards(c: config.Config) -> None:
    """A file each a shard. Each combination of settings has a folder of its own until it is whole, so that nothing is mixed."""
    target = ARTIFACTS / "encoded"
    cpu = c.device == "cpu" or not torch.cuda.is_available()
    PartialState(cpu=cpu, timeout=timedelta(days=7))  # the processes wait for the slowest at the end
    accelerator = make_accelerator(c.device, "no")
    rank, world_size = accelerator.process_index, accelerator.num_processes
    if not c.data.cache:
        if accelerator.is_main_process:
            set_aside(target)
            with publish(target) as out:  # training encodes for itself; the folder says so
                (out / "card.json").write_text(json.dumps({"cache": False}))
        return
    shards = open_shards(c.data, ARTIFACTS / "shards", rank, world_size, accelerator.wait_for_everyone)
    run_id = identity(c)
    work = work_folder(run_id)
    if accelerator.is_main_process:
        if read_run(target) == run_id and not work.exists():
            target.rename(work)  # shards that came or changed since are added
        work.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    encoder = Encoder(load_base(ARTIFACTS / "base"), c.data, c.seed, accelerator.device)
    wanted = [(shard, rows) for shard, rows in zip(shards.shards, shards.rows, strict=True) if len(rows)]
    missing = [(shard, rows) for shard, rows in wanted if shard_card(shard, work) is None]
    accelerator.wait_for_everyone()  # until here none has encoded any, so all have the same list
    mine = missing[rank::world_size]
    for shard, rows in tqdm(mine, desc="encoding", unit="shards", disable=not accelerator.is_main_process):
        encode_shard(shard, rows, encoder, work)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for stopped in work.glob(".*"):  # what stopped processes left
            shutil.rmtree(stopped)
        cards = {f"-{shard.path.stem}": shard_card(shard, work) for shard, _ in wanted}
        sizes = {name: card["n"] for name, card in cards.items() if card["n"]}
        if not sizes:
            raise UserError(f"none of the {len(shards)} images of data.path {c.data.path} can be read")
        counts = shards.counts | {"broken_images": sum(card["broken_images"] for card in cards.values())}
        card = {"n": sum(sizes.values()), "shards": sizes, "run": run_id, "resolution": encoder.resolution, "counts": counts}
        card["lengths"] = lengths(c.data.path)
        card |= {"pooled_prompt_embeds": True} if "pooled_prompt_embeds" in encoder.kinds else {}
        (work / "card.json").write_text(json.dumps(card | {"data": config.to_dict(c.data)}, indent=1))
        set_aside(target)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
        print(f"{card['n']} pairs of {len(sizes)} shards: {counts}")
    accelerator.wait_for_everyone()


def work_folder(run_id: str) -> Path:
    """Where the shards are encoded to that `run_id` identifies."""
    return ARTIFACTS / "checkpoints" / f"encode-{run_id}"


def set_aside(target: Path) -> None:
    """Shards' encoding made with other settings took days, maybe: it goes where those settings would find it again."""
    run_id = read_run(target)
    if run_id is not None and not work_folder(run_id).exists():
        work_folder(run_id).parent.mkdir(parents=True, exist_ok=True)
        target.rename(work_folder(run_id))
        print(f"an encoding with other settings was moved to {work_folder(run_id)}")


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    require_space(path.parent, 2 * math.prod(shape))
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


if __name__ == "__main__":
    run(main)
