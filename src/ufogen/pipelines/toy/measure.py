"""Train and measure every arm of the toy in two dimensions; arms that are finished stay as they are."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ufogen import config
from ufogen.diffusion import batch, losses, objective, schedule
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, write_results
from ufogen.randomness import torch_generator
from ufogen.toy import mixture, networks, train
from ufogen.toy.settings import Method, Toy

NAMES = ("method", "trained_steps", "steps", "seed")
METRICS = ("modes", "box_fraction", "mode_kl", "frechet", "wasserstein_2")
SHOWN = 1500  # samples of the first seed that are kept for the figure
# what a number depends on beside the settings, as it is when this process starts
CODE = b"".join(Path(module.__file__).read_bytes() for module in (batch, losses, objective, schedule, mixture, networks, train))


@dataclass(frozen=True)
class ArmKey:
    method: Method
    steps: int

    @property
    def file(self) -> str:
        return f"{self.method.name}-{self.steps}.json"


def main(c: config.Config) -> None:
    """Write paper/results/toy.csv, a row a seed and their mean, and its card toy.json.

    With another schedule than the cosine one its name is appended to those of files and folders.
    """
    measure_all(c.toy)


def label(settings: Toy) -> str:
    return "toy" if settings.schedule == "cosine" else f"toy_{settings.schedule}"


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
    write_results(RESULTS, {f"{name}.csv": table(rows), f"{name}.json": json.dumps(card, indent=1) + "\n"})


def keys(settings: Toy) -> list[ArmKey]:
    return [ArmKey(method, steps) for method in settings.methods for steps in settings.trained_steps]


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


def samples_of(settings: Toy) -> dict[str, dict[int, dict[int, np.ndarray]]]:
    """[method][trained steps][steps]: samples (n, 2) of the first seed, for the figure. Needs finished arms."""
    records: dict[str, dict[int, dict[int, np.ndarray]]] = {}
    for key in keys(settings):
        samples = json.loads((ARTIFACTS / label(settings) / key.file).read_text())["samples"]
        arm = {int(steps): np.array(points) for steps, points in samples.items()}
        records.setdefault(key.method.name, {})[key.steps] = arm
    return records


def fingerprint(key: ArmKey, settings: Toy, seeds: list[int] | None = None) -> str:
    """Of the settings that this arm depends on and of the code that computes it."""
    own = asdict(settings) | {"methods": asdict(key.method), "trained_steps": key.steps}
    own |= {} if seeds is None else {"seeds": seeds}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode() + CODE).hexdigest()


def reference(settings: Toy) -> torch.Tensor:
    """The points (n, 2) to which every Wasserstein distance is taken."""
    return mixture.balanced(settings.transport_samples, torch_generator("cpu", 0, "laboratory reference"))


def data_rows(settings: Toy) -> list[dict]:
    """Fresh data in place of samples: what a perfect generator would reach."""
    rows = []
    for seed in range(settings.seeds):
        points = mixture.draw(settings.samples, torch_generator("cpu", seed, "laboratory data"))
        name = {"method": "data", "trained_steps": 0, "steps": 0, "seed": seed}
        rows.append(name | mixture.measure(points, reference(settings)))
    return rows


def table(rows: list[dict]) -> str:
    """CSV with the rows of each seed and, after them, their mean, whose seed is called mean."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in NAMES[:-1]), []).append(row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(NAMES + METRICS)
    for name, members in groups.items():
        for row in members:
            writer.writerow([*name, row["seed"], *(f"{row[metric]:.5g}" for metric in METRICS)])
        means = (sum(row[metric] for row in members) / len(members) for metric in METRICS)
        writer.writerow([*name, "mean", *(f"{mean:.5g}" for mean in means)])
    return text.getvalue()


if __name__ == "__main__":
    run(main)
