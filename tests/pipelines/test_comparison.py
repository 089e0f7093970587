"""The comparison: equal budgets, one way of sampling for all, and what makes a finished arm's result another."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests import tiny
from tests.settings import configured
from ufogen.data.images import save_image_grid
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs, write_pairs
from ufogen.distillation.methods import METHODS
from ufogen.errors import UserError
from ufogen.evaluation.evaluator import COLUMNS
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.comparison import arm, results, run
from ufogen.pipelines.comparison.paths import ARMS, CHAIN
from ufogen.randomness import Draws
from ufogen.training.loop import make_accelerator

ROOT = Path(__file__).parents[2]
ARMS_TREE = yaml.safe_load((ROOT / ARMS).read_text())["arms"]
every_arm = pytest.mark.parametrize("name", ARMS_TREE)


def settings(name: str) -> dict:
    made = ARMS_TREE[name]
    return made | {"trainer": made["trainer"] | {"batch_size": 4, "warmup": 0, "discriminator_first": 0, "precision": "no"}}


def made(name: str, budget: int = 400) -> arm.Arm:
    torch.manual_seed(0)
    return arm.make_arm(name, settings(name), tiny.pipeline(), guidance=2.0, budget=budget)


@every_arm
def test_every_arm_gets_as_many_updates_as_its_budget_holds(name):
    task = made(name).task
    updates = task.settings.updates
    assert task.unet_evaluations(updates) <= 400 < task.unet_evaluations(updates + 1)


@every_arm
def test_every_arm_trains_and_is_sampled_in_its_steps(name):
    """The whole way from an update to latents, on one seed's noise."""
    made_ = made(name, budget=120 if name != "progressive" else 400)
    made_.task.prepare(make_accelerator("cpu", "no"))
    for step in range(made_.task.settings.updates):
        made_.task.update(tiny.batch(step), step, Draws(torch.Generator().manual_seed(step)))
    sampler = Sampler(tiny.pipeline(), torch.device("cpu"), parameterization=made_.parameterization, timesteps=made_.timesteps)
    text, noise = sampler.encode(["a noun", "red glasses"]), sampler.noise(2, 0, "test")
    for steps in ARMS_TREE[name]["steps"]:
        with made_.network(steps) as network:
            method = Method(name, made_.sampler, steps)
            found = sampler.latents(method, noise, text, torch.Generator().manual_seed(0), network)
        assert found.shape == noise.shape and torch.isfinite(found).all()
    assert made_.sampler == arm.sampler_of(ARMS_TREE[name])


@every_arm
def test_a_budget_too_small_for_an_update_is_one_line(name):
    with pytest.raises(UserError, match=rf"parameter comparison.unet_evaluations is 3; allowed for {name}: \d+ or greater"):
        made(name, budget=3)


@pytest.mark.parametrize(("budget", "updates"), [(0, 0), (2, 0), (3, 1), (5, 1), (6, 2), (300, 100)])
def test_most_updates_are_within_the_budget(budget, updates):
    assert arm.most_updates(lambda n: 3 * n, budget) == updates


def test_an_unknown_arm_names_those_that_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="arm 'nosuch' is not in pipelines/comparison/arms.yaml; allowed: consistency, dmd2"):
        arm.arm_settings("nosuch")


def test_an_arms_identity_covers_its_own_method_and_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    folder = Path("src/ufogen/distillation")
    for name, each in ARMS_TREE.items():
        files, own = run.code(each), each.get("distillation", {}).get("method")
        assert {file.stem for file in files if file.parent == folder} & {"methods", *METHODS} == ({own} if own else set()), name
        assert {folder / "teacher.py", folder / "boundary.py", Path("src/ufogen/training/distiller.py")} <= set(files)
    deps = yaml.safe_load(CHAIN.read_text())["stages"]["run"]["do"]["deps"]
    assert all(Path(dep).exists() for dep in deps if dep.startswith("src/"))


def test_no_method_imports_another():
    for name in METHODS:
        tree = ast.parse((ROOT / f"src/ufogen/distillation/{name}.py").read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & {f"ufogen.distillation.{other}" for other in ("methods", *METHODS)}, name


def test_the_clock_goes_on_where_a_stopped_run_was(tmp_path, monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 1.0, 11.0, 21.0, 100.0, 105.0])
    monkeypatch.setattr(run.time, "perf_counter", lambda: next(now))
    clock = run.Clock(tmp_path, False)
    for step in (0, 2, 4):
        clock(step)
    assert clock.seconds == 21
    again = run.Clock(tmp_path, True)  # stopped before the state of update 4 was whole: from 2 on
    again(4)
    assert again.seconds == 11 + 5


@pytest.fixture
def outcome(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What two arms, the base and the clock leave."""
    monkeypatch.chdir(tmp_path)
    pairs = make_pairs(Nouns.load(ROOT / "node_modules"), 3, 0, "evaluation")
    write_pairs(tmp_path / "artifacts/data/evaluation", pairs)
    (tmp_path / "artifacts/base/unet").mkdir(parents=True)
    arms = {name: {"description": name.upper(), "seeds": 1, "steps": [1, 4]} for name in ("ufogen", "progressive")}
    runs = {f"{name}-0": {"arm": name, "seed": 0} for name in arms}
    (tmp_path / "pipelines/comparison").mkdir(parents=True)
    (tmp_path / ARMS).write_text(yaml.safe_dump({"arms": arms, "runs": runs}))
    measured = {"seed": 0, "named": "all", "n": 3, "kid_lite0": 0.5, "residual": 12.0, "coverage": {"head": {"open": 3}}}
    rows = []
    for name in arms:
        sampler = "ddim" if name == "progressive" else "renoise"
        some = [{"method": name, "sampler": sampler, "steps": steps, "guidance": 0.0} | measured for steps in (1, 4)]
        folder = tmp_path / f"paper/runs/comparison/{name}-0"
        folder.mkdir(parents=True)
        rows = [row | {"network_evaluations": row["steps"], "training_unet_evaluations": 400} for row in some]
        rows.append(rows[0] | {"named": "2"})
        (folder / "metrics.json").write_text(json.dumps({"rows": rows}))
        save_image_grid(folder / "pictures.png", np.concatenate([pairs.images, pairs.images]), columns=3)
    folder = tmp_path / "artifacts/comparison/base"
    folder.mkdir(parents=True)
    base = [
        {"method": "base", "sampler": "dpm++", "steps": n, "guidance": 2.0, "network_evaluations": 2 * n} | measured
        for n in (1, 25)
    ]
    base.append({"method": "real", "sampler": "autoencoder", "steps": 0, "guidance": 0.0} | measured)
    (folder / "metrics.json").write_text(json.dumps({"rows": base}))
    np.savez(folder / "pictures.npz", **{"dpm++-1": pairs.images, "dpm++-25": pairs.images})
    ways = [("renoise", 1, 0.0), ("renoise", 4, 0.0), ("ddim", 1, 0.0), ("ddim", 4, 0.0), ("dpm++", 1, 2.0), ("dpm++", 25, 2.0)]
    keys = ("sampler", "steps", "guidance")
    latency = [dict(zip(keys, way, strict=True)) | {"seconds_per_image": 0.01 * way[1]} for way in ways]
    (tmp_path / "artifacts/comparison/latency.json").write_text(json.dumps({"device": "CPU", "rows": latency}))
    return tmp_path


def test_results_are_one_table_with_the_time_of_each_way_of_sampling(outcome):
    results.main(configured())
    table = pd.read_csv(outcome / "paper/results/comparison.csv")
    assert list(table) == [*COLUMNS, *results.ADDED]
    whole = table[table["named"] == "all"].set_index(["method", "sampler", "steps"])
    assert len(whole) == 7 and len(table) == 9
    assert whole["seconds_per_image"].to_dict() == pytest.approx(
        {key: 0.01 * key[2] if key[0] != "real" else float("nan") for key in whole.index}, nan_ok=True
    )
    assert whole.loc[("base", "dpm++", 25), "network_evaluations"] == 50
    card = json.loads((outcome / "paper/results/comparison.json").read_text())
    assert set(card["definitions"]) <= {*COLUMNS, *results.ADDED}
    assert {path.name for path in (outcome / "paper/comparison").iterdir()} == {"quality_against_latency.png", "samples.png"}


def test_a_missing_run_says_what_makes_it(outcome):
    (outcome / "paper/runs/comparison/ufogen-0/metrics.json").unlink()
    with pytest.raises(UserError, match="ufogen-0/metrics.json not found: run `make comparison`"):
        results.main(configured())
