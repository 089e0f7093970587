"""Train and measure every arm of the toy in two dimensions; arms that are finished stay as they are."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from ufogen import config
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, table, write_results
from ufogen.randomness import torch_generator
from ufogen.toy import mixture, train
from ufogen.toy.records import METRICS, ArmKey, fingerprint, keys, label, reference
from ufogen.toy.settings import Toy

NAMES = ("method", "trained_steps", "steps", "seed")
SHOWN = 1500  # samples of the first seed that are kept for the figure


def main(c: config.Config) -> None:
    """Write paper/results/toy.csv, a row a seed and their mean, and its card toy.json.

    With another schedule than the cosine one its name is appended to those of files and folders.
    """
    measure_all(c.toy)


def measure_all(settings: Toy) -> None:
    """All arms in turn. An arm is the unit of resumption: what is finished is read from artifacts/toy."""
    arms = [measured(key, settings) for key in keys(settings)]
    rows = data_rows(settings) + [row for arm in arms for row in arm["rows"]]
    card = {
        "settings": asdict(settings),
        "definitions": mixture.DEFINITIONS,
        "seconds": {arm["name"]: arm["seconds"] for arm in arms},
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "scipy")},
    }
    name = label(settings)
    text = table(with_means(rows), (*NAMES, *METRICS), digits=5)
    write_results(RESULTS, {f"{name}.csv": text, f"{name}.json": json.dumps(card, indent=1) + "\n"})


def measured(key: ArmKey, settings: Toy) -> dict:
    """The arm's record in artifacts/toy: trained and measured now unless it is of these settings and this code."""
    wanted = fingerprint(key, settings)
    try:
        record = json.loads((ARTIFACTS / label(settings) / key.file).read_text())
        if record["fingerprint"] == wanted:
            return record
    except (OSError, ValueError, KeyError):
        pass  # absent or damaged: it is made again
    start = time.perf_counter()
    arm = train.Arm(key.method, key.steps, settings, list(range(settings.seeds)))
    arm.train()
    rows, shown = [], {}
    for steps in range(1, key.steps + 1):
        samples = arm.sample(steps, settings.samples)
        shown[steps] = [[round(v, 3) for v in point] for point in samples[0, :SHOWN].tolist()]
        for seed, points in zip(arm.seeds, samples, strict=True):
            name = {"method": key.method.name, "trained_steps": key.steps, "steps": steps, "seed": seed}
            rows.append(name | mixture.measure(points, reference(settings)))
    seconds = round(time.perf_counter() - start, 1)
    record = {"fingerprint": wanted, "name": Path(key.file).stem, "seconds": seconds, "rows": rows, "samples": shown}
    write_results(ARTIFACTS / label(settings), {key.file: json.dumps(record)})
    print(f"{record['name']}: {seconds} s", flush=True)
    return record


def data_rows(settings: Toy) -> list[dict]:
    """Fresh data in place of samples: what a perfect generator would reach."""
    rows = []
    for seed in range(settings.seeds):
        points = mixture.draw(settings.samples, torch_generator("cpu", seed, "laboratory data"))
        name = {"method": "data", "trained_steps": 0, "steps": 0, "seed": seed}
        rows.append(name | mixture.measure(points, reference(settings)))
    return rows


def with_means(rows: list[dict]) -> list[dict]:
    """The rows of each seed and, after them, their mean, whose seed is called mean."""
    found = []
    for name, group in pd.DataFrame(rows).groupby(list(NAMES[:-1]), sort=False):
        mean = dict(zip(NAMES, (*name, "mean"), strict=True)) | group[list(METRICS)].mean().to_dict()
        found += [*group.to_dict("records"), mean]
    return found


if __name__ == "__main__":
    run(main)
