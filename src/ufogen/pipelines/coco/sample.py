"""Sample every method for the fixed COCO prompts, in shards; what a stopped run has finished stays.

Several processes: `python -m ufogen.launch --standalone --nproc_per_node 8 -m ufogen.pipelines.coco.sample`. They share
nothing but the disk: each takes every n-th shard, and a shard depends on its prompts' numbers alone, not on who samples it.
"""

from __future__ import annotations

from tqdm import tqdm

from ufogen import config
from ufogen.evaluation import coco, shards
from ufogen.pipelines.stage import run
from ufogen.training.loop import make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/coco/SPLIT/samples: for each method tar files of images and captions."""
    accelerator = make_accelerator(c.device, c.coco.precision)
    prompts, wanted = coco.prompts(c), coco.compared(c)
    sampler = coco.open_sampler(c, wanted, accelerator.device)
    hashes = coco.weights(c, sampler)
    mine = coco.blocks(c)[accelerator.process_index :: accelerator.num_processes]
    for method in wanted:
        for block in tqdm(mine, desc=method.name, disable=not accelerator.is_local_main_process, mininterval=5):
            captions = prompts.captions[block.start : block.stop]
            path, name = coco.shard(c, method, block), coco.run_id(c, sampler, hashes, method, captions, block)
            if not shards.is_of(path, name):
                images = coco.images(sampler, method, captions, block, c.seed)
                shards.write(path, images, captions, block.start, name)


if __name__ == "__main__":
    run(main)
