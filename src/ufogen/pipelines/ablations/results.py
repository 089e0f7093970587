"""Gather the arms of the ablation study: table, claims, figures."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from ufogen import config
from ufogen.data.images import read_image_grid
from ufogen.data.pairs import read_pairs
from ufogen.errors import UserError
from ufogen.evaluation.claims import Claim, decide
from ufogen.evaluation.evaluator import COLUMNS, METRICS
from ufogen.figures import ablations as figures
from ufogen.pipelines.ablations.paths import ARMS, RUNS
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, write_results

CLAIMS = Path("paper/claims.yaml")
FIGURES = Path("paper/ablations")
PAPERS_STEP_SIZE = 250  # at which arms enter at several timesteps
SAMPLES = (
    "ufogen", "ufogen_t_999", "siddm", "posterior", "x_s_chained", "k_250", "k_250_t_300", "k_1000", "no_adversarial",
    "gamma_constant", "scratch_generator",
)  # fmt: skip


def main(c: config.Config) -> None:
    """Write paper/results/ablations.csv, its curves and card, claims.json, and paper/ablations."""
    tree = OmegaConf.to_container(OmegaConf.load(ARMS))
    arms = tree["arms"]
    scheduler = json.loads((ARTIFACTS / "base" / "scheduler" / "scheduler_config.json").read_text())
    cards = [read_run(name) for name in tree["runs"]]
    results = pd.DataFrame(row for card in cards for row in rows_of(card))
    curves = pd.concat([read_curve(card) for card in cards], ignore_index=True)
    tables = {"nouns": results, "gaussians": pd.read_csv(RESULTS / "toy_arms.csv")}
    claims = [Claim(**claim) for claim in OmegaConf.to_container(OmegaConf.load(CLAIMS))]
    verdicts = [decide(claim, tables[claim.study], curves) for claim in claims]
    card = {
        "arms": {name: {key: arm[key] for key in ("description", "objective", "trainer")} for name, arm in arms.items()},
        "settings": config.to_dict(c.ablations),
        "base": sha256(ARTIFACTS / "base" / "unet"),
        "runs": [{key: value for key, value in each.items() if key != "rows"} for each in cards],
        "feature_network": "EfficientNet-Lite0, ImageNet, 1280-d average pool",
        "reference_images": c.data.evaluation_size,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "diffusers", "scipy")},
    }
    write_results(
        RESULTS,
        {
            "ablations.csv": table(results),
            "ablation_curves.csv": curves.to_csv(index=False, lineterminator="\n"),
            "ablations.json": json.dumps(card, indent=1) + "\n",
            "claims.json": json.dumps(verdicts, indent=1) + "\n",
        },
    )
    prompts = read_pairs(ARTIFACTS / "data" / "evaluation").captions
    descriptions = {name: arm["description"] for name, arm in arms.items()}
    rows = len(c.ablations.steps)
    pictures = {
        descriptions[name]: read_image_grid(RUNS / f"{name}-0" / "pictures.png", rows)[0] for name in SAMPLES if name in arms
    }
    with publish(FIGURES) as out:
        figures.quality_by_arm(results, descriptions, out / "arms.png")
        figures.quality_against_sampling_steps(results, out / "sampling_steps.png")
        alike = {name: arm["objective"] for name, arm in arms.items() if arm["trainer"] == arms["ufogen"]["trainer"]}
        figures.quality_against_step_size(results, alike, out / "step_size.png")
        if any(objective["step_size"] == PAPERS_STEP_SIZE for objective in alike.values()):
            figures.quality_against_entry(results, alike, PAPERS_STEP_SIZE, scheduler["num_train_timesteps"], out / "entry.png")
        figures.convergence(curves, out / "convergence.png")
        figures.evidence(pd.read_csv(RESULTS / "evidence.csv"), out / "evidence.png")
        figures.claims(verdicts, out / "claims.png")
        figures.samples_by_arm(pictures, prompts, out / "samples.png")
    for claim in verdicts:
        low, high = claim["interval"]
        print(f"{claim['verdict']:>15}  {claim['effect']:7.3f} ({low:.3f} ... {high:.3f})  {claim['study']}: {claim['id']}")
    print("An effect that the seeds would have found four times in five is `detectable` in claims.json.")


def read_run(name: str) -> dict:
    try:
        return json.loads((RUNS / name / "metrics.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"run {name} has no result: run `make ablations`") from error


def read_curve(card: dict) -> pd.DataFrame:
    curve = pd.read_csv(RUNS / f"{card['arm']}-{card['seed']}" / "curve.csv")
    return curve.assign(arm=card["arm"], seed=card["seed"]).reindex(columns=["arm", "seed", "update", *METRICS])


def rows_of(card: dict) -> list[dict]:
    """The columns of main.csv and what an ablation adds; times and held-out pairs are measured in the main chain alone."""
    shared = {key: card[key] for key in ("arm", "seed", "updates", "unet_evaluations")}
    return [{"method": "ufogen", "sampler": "renoise", "guidance": 0.0, "named": "all"} | shared | row for row in card["rows"]]


def table(results: pd.DataFrame) -> str:
    columns = [*COLUMNS, "arm", "updates", "unet_evaluations"]
    return results.reindex(columns=columns).to_csv(index=False, lineterminator="\n")


if __name__ == "__main__":
    run(main)
