"""Put the trained ControlNet into models/, in half precision with its hash and card, as it is released."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import ControlNetModel

from ufogen import config
from ufogen.base.loading import load_part
from ufogen.errors import UserError
from ufogen.files import record_hashes
from ufogen.pipelines.applications.paths import CONTROL
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256

FOLDER = Path("models/nouns-control")
WEIGHTS = "diffusion_pytorch_model.safetensors"
CARD = """---
license: apache-2.0
library_name: diffusers
tags: [controlnet, ufogen]
---

# Edges for nouns-sd and nouns-ufogen

A `ControlNetModel` that was trained on the base `nouns-sd` alone, {updates} updates of batch {batch_size}, and steers the
one-step model made from it. It reads white lines on black at the picture's size: the pixels that differ from their right or
lower neighbour by {threshold} or more of 255 in a channel (`ufogen.applications.edges.edge_map`).

```
ufogen control noun.png "a noun with a shark head" -o controlled.png
```

Agreement (F1) of the {n} pictures' edges with those asked for, from `paper/results/control.csv`:

| | without control | with it |
| --- | --- | --- |
| UFOGen, 1 step | {ufogen[0]:.3f} | {ufogen[1]:.3f} |
| base, {steps} steps | {base[0]:.3f} | {base[1]:.3f} |
"""


def main(c: config.Config) -> None:
    """Write models/nouns-control. Raises `UserError` where the results are not of the weights."""
    results, trained = (
        json.loads(path.read_text()) for path in (RESULTS / "control.json", CONTROL / "controlnet" / "card.json")
    )
    if results["sha256"]["controlnet"] != sha256(CONTROL / "controlnet"):
        raise UserError(
            f"{RESULTS}/control.json is of another ControlNet: run `dvc repro pipelines/applications/dvc.yaml` first"
        )
    rows = {(row["method"], row["control"]): row for row in results["rows"]}
    agreement = {m: [rows[m, kind]["edge_f1"] for kind in ("none", "controlnet")] for m in ("ufogen", "base")}
    settings = trained["applications"]
    control = load_part(ControlNetModel, CONTROL / "controlnet", "the trained controlnet", torch.float16)
    with publish(FOLDER) as out:
        control.save_pretrained(out)
        record_hashes(out, WEIGHTS, elsewhere={"base/unet": ARTIFACTS / "base" / "unet"})
        (out / "README.md").write_text(CARD.format(
            updates=settings["controlnet"]["updates"], batch_size=settings["batch_size"], threshold=trained["threshold"],
            n=rows["ufogen", "controlnet"]["n"], steps=rows["base", "controlnet"]["steps"], **agreement,
        ))  # fmt: skip


if __name__ == "__main__":
    run(main)
