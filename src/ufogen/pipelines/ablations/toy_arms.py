"""The claims' arms in two dimensions: UFOGen and what differs from it in one choice, with seeds of their own.

The seeds are not those of the toy's tables, which were looked at before the claims' tests were written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from ufogen import config
from ufogen.errors import UserError
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, table, write_results
from ufogen.toy import mixture
from ufogen.toy.records import METRICS, ArmKey, fingerprint, reference
from ufogen.toy.settings import Method, Toy
from ufogen.toy.train import Arm

WEIGHTS = {"lambda_10": 10.0}  # of the reconstruction, times the toy's
RECORDS = ARTIFACTS / "ablations" / "toy"
FIRST_SEED = 100
FURTHER_SEED = 200
FURTHER = ("siddm", "ufogen")  # with twice as many further seeds: a claim whose mean one diverging run left open


def main(c: config.Config) -> None:
    """Write paper/results/toy_arms.csv: a row for each arm, number of sampling steps (1 and T) and seed.

    An arm is the unit of resumption: what is finished is read from artifacts/ablations/toy.
    """
    n = c.ablations.toy_seeds
    runs = [(name, range(FIRST_SEED, FIRST_SEED + n)) for name in arms(c.toy)]
    runs += [(name, range(FURTHER_SEED, FURTHER_SEED + 2 * n)) for name in FURTHER]
    rows = [row for run in tqdm(runs, desc="arms in two dimensions") for row in measured(*run, c.toy)]
    write_results(RESULTS, {"toy_arms.csv": table(rows)})


def arms(settings: Toy) -> dict[str, tuple[Method, int]]:
    """{name: method, trained denoising steps T = 1000 / k}. Raises `UserError` where toy.methods lacks one of the papers'."""
    found = {method.name: method for method in settings.methods}
    if missing := {"ufogen", "siddm"} - set(found):
        raise UserError(f"parameter toy.methods has the names {', '.join(found)}; missing: {', '.join(sorted(missing))}")
    ufogen = found["ufogen"]
    return {
        "lambda_10": (replace(ufogen, name="lambda_10"), 4),
        "ufogen": (ufogen, 4),
        "posterior": (replace(ufogen, name="posterior", parameterization="posterior"), 4),
        "siddm": (found["siddm"], 4),
        "x_s_chained": (replace(ufogen, name="x_s_chained", reconstruction="x_s", coupling="chained"), 4),
        "k_125": (ufogen, 8),
        "k_1000": (ufogen, 1),
    }


def measured(name: str, seeds: Sequence[int], settings: Toy) -> list[dict]:
    """The arm's rows: those on the disk where they are of these settings and this code, else trained and measured now."""
    seeds, (method, trained) = list(seeds), arms(settings)[name]
    weight = settings.reconstruction_weight * WEIGHTS.get(name, 1.0)
    settings = replace(settings, reconstruction_weight=weight)
    identity = fingerprint(ArmKey(method, trained), settings, seeds)
    path = RECORDS / (f"{name}.json" if seeds[0] == FIRST_SEED else f"{name}-{seeds[0]}.json")
    if path.is_file() and (record := json.loads(path.read_text()))["identity"] == identity:
        return record["rows"]
    arm = Arm(method, trained, settings, seeds)
    arm.train()
    rows = []
    for steps in sorted({1, trained}):
        for seed, points in zip(seeds, arm.sample(steps, settings.samples), strict=True):
            found = mixture.measure(points, reference(settings))
            row = {"arm": name, "trained_steps": trained, "steps": steps, "seed": seed}
            rows.append(row | {metric: f"{found[metric]:.5g}" for metric in METRICS})
    write_results(RECORDS, {path.name: json.dumps({"identity": identity, "rows": rows})})
    return rows


if __name__ == "__main__":
    run(main)
