"""Every stage on the smoke profile through real `dvc repro`, in a copy of the repository."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ufogen.files import altered

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.pipeline


def command(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if check and done.returncode:
        pytest.fail(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done


def compose_parameters(folder: Path, *overrides: str) -> None:
    with initialize_config_dir(str(folder / "experiments"), version_base=None):
        OmegaConf.save(compose("config", overrides=list(overrides)), folder / "params.yaml", resolve=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "repository"
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "start"], cwd=folder, check=True)
    shutil.copytree(ROOT / "node_modules" / "@nouns", folder / "node_modules" / "@nouns")
    compose_parameters(folder, "profile=smoke", "device=cpu", "threads=1")
    return folder


@pytest.fixture(scope="module")
def reproduced(clone: Path) -> Path:
    command(clone, "dvc", "repro")
    return clone


def test_main_chain_writes_every_result(reproduced: Path):
    with (reproduced / "paper/results/main.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {(row["method"], row["sampler"], row["steps"]) for row in rows}
    assert {("ufogen", "renoise", "1"), ("base", "ddim", "2"), ("real", "none", "0")} <= methods
    whole = [row for row in rows if row["named"] == "all"]
    assert len({(row["method"], row["sampler"], row["steps"]) for row in whole}) == len(whole) < len(rows)
    assert all(np.isfinite(float(row["kid_lite0"])) for row in whole)
    assert all(float(row["seconds_per_image"]) > 0 for row in whole if row["method"] != "real")
    assert all(float(row["residual"]) > 0 for row in rows if row["sampler"] != "none")
    assert all(row["residual"] == "0" and row["attribute_accuracy"] == "1" for row in rows if row["sampler"] == "none")
    summary = json.loads((reproduced / "paper/results/summary.json").read_text())
    assert {"ufogen-renoise-1", "ufogen-renoise-2", "base-ddim-2"} == set(summary)
    card = json.loads((reproduced / "paper/results/main.json").read_text())
    assert {"resize", "versions", "sha256", "training", "definitions"} <= set(card)
    assert all({"accuracy_by_kind", "coverage", "standard_error"} <= set(row) for row in card["rows"])
    assert {path.suffix for path in (reproduced / "paper/figures").iterdir()} == {".png"}


def test_exported_folder_samples_in_stock_diffusers(reproduced: Path):
    pipeline = StableDiffusionPipeline.from_pretrained(reproduced / "artifacts/ufogen", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, pipeline.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = ["a noun with a shark head", "noun with red square glasses"]
    images = pipeline(prompts, num_inference_steps=1, guidance_scale=0, latents=noise, output_type="np").images
    assert images.shape == (2, 32, 32, 3) and np.isfinite(images).all() and images.std() > 0


def test_second_repro_has_nothing_to_do(reproduced: Path):
    assert "up to date" in command(reproduced, "dvc", "repro").stdout


def test_same_seed_gives_the_same_weights(reproduced: Path):
    weights = reproduced / "artifacts/train/unet/diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    command(reproduced, "dvc", "repro", "--force", "--single-item", "train")
    assert weights.read_bytes() == before


def test_a_training_with_another_seed_has_a_table_of_its_own(reproduced: Path):
    command(reproduced, "dvc", "repro", "pipelines/seeds/dvc.yaml")
    tables = {seed: pd.read_csv(reproduced / f"paper/results/seeds/{seed}.csv") for seed in (1, 2)}
    main = pd.read_csv(reproduced / "paper/results/main.csv")
    for seed, found in tables.items():
        assert list(found.columns) == list(main.columns)
        assert set(found.method) == {"ufogen"} and set(found.seed) == {seed}
        assert set(found.steps) == set(main[main.method == "ufogen"].steps)
    cards = [json.loads((reproduced / "artifacts" / f / "card.json").read_text()) for f in ("train", "seeds/1/train")]
    weights = [
        load_file(reproduced / "artifacts" / f / "unet/diffusion_pytorch_model.safetensors") for f in ("train", "seeds/1/train")
    ]
    assert (cards[0]["seed"], cards[1]["seed"]) == (0, 1) and cards[0]["trainer"] == cards[1]["trainer"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_release_is_the_main_chain_at_length_with_several_draws_of_noise(reproduced: Path):
    command(reproduced, "dvc", "repro", "pipelines/release/dvc.yaml")
    main, release = (pd.read_csv(reproduced / f"paper/results/{name}.csv") for name in ("main", "release"))
    assert list(main.columns) == list(release.columns)
    solvers = [(row.sampler, row.steps) for row in release[(release.method == "base") & (release.named == "all")].itertuples()]
    assert set(release.seed) == {0, 1} and solvers == [("dpm++", 2)] * 2
    assert set(release[release.method == "ufogen"].steps) == set(main[main.method == "ufogen"].steps)
    assert (reproduced / "paper/release/quality_against_openness.png").is_file()
    card = json.loads((reproduced / "artifacts/release/train/card.json").read_text())
    assert (card["trainer"]["updates"], card["pairs"]) == (4, 96)  # the main chain has 64
    weights = load_file(reproduced / "models/nouns-ufogen/unet/diffusion_pytorch_model.safetensors")
    trained = load_file(reproduced / "artifacts/release/train/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, trained[name].half()) for name, value in weights.items())
    assert altered(reproduced / "models/nouns-ufogen") == [] == altered(reproduced / "models/nouns-ufogen/discriminator")
    assert card["start"] == "artifacts/train"
    # and a training that goes on from what was released
    command(reproduced, "ufogen.pipelines.release.train", "release.start=models/nouns-ufogen", "release.updates=2", "threads=1")
    card = json.loads((reproduced / "artifacts/release/train/card.json").read_text())
    assert (card["start"], card["trainer"]["updates"]) == ("models/nouns-ufogen", 2)


def test_applications_write_every_result(reproduced: Path):
    command(reproduced, "dvc", "repro", "pipelines/applications/dvc.yaml")
    with (reproduced / "paper/results/control.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = ("none", "controlnet", "adapter")
    expected = {(method, kind) for method in ("ufogen", "base") for kind in kinds} | {("real", "autoencoder")}
    assert {(row["method"], row["control"]) for row in rows} == expected
    assert all(0 <= float(row["edge_f1"]) <= 1 and np.isfinite(float(row["kid_lite0"])) for row in rows)
    with (reproduced / "paper/results/image_to_image.csv").open() as file:
        strengths = [float(row["strength"]) for row in csv.DictReader(file) if row["method"] == "ufogen"]
    assert strengths == [0.0, 0.5, 1.0]
    names = {"control.png", "image_to_image.png", "interpolation.png", "curves.png"}
    assert {path.name for path in (reproduced / "paper/applications").iterdir()} == names
    command(reproduced, "ufogen.pipelines.applications.release")
    command(
        reproduced, "ufogen.app.cli", "control", "paper/applications/control.png", "a noun", "--model", "artifacts/ufogen",
        "--controlnet", "models/nouns-control", "-o", "controlled.png",
    )  # fmt: skip
    assert (reproduced / "controlled.png").is_file()


def test_bad_parameter_is_one_clear_line(reproduced: Path):
    done = command(reproduced, "ufogen.pipelines.main.train", "trainer.updats=3", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown parameter trainer.updats; allowed in trainer")


def test_changed_weights_are_refused(clone: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(clone / "models/nouns-sd", folder)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = command(clone, "ufogen.pipelines.main.initialize", f"base.path={folder}", check=False)
    assert done.returncode == 2
    assert "differ from their recorded hash" in done.stderr


def test_pretraining_recipe_makes_a_base_that_the_main_chain_takes(clone: Path):
    command(clone, "dvc", "repro", "pipelines/pretrain/dvc.yaml")
    assert (clone / "artifacts/pretrain/base/sha256.json").is_file()
    arguments = ("base.source=pretrained", "base.path=artifacts/pretrain/base")
    command(clone, "ufogen.pipelines.main.initialize", *arguments)
    pipeline = StableDiffusionPipeline.from_pretrained(clone / "artifacts/base", local_files_only=True)
    assert pipeline.unet.config.cross_attention_dim == 384


def test_an_arm_of_the_ablation_study_is_one_yaml_file(reproduced: Path):
    """Two arms with two seeds and one that a user adds, through the same DVC file as the whole study."""
    folder = reproduced / "experiments/ablation"
    for path in folder.glob("*.yaml"):
        if path.stem not in ("ufogen", "posterior"):
            path.unlink()
        else:
            path.write_text(path.read_text().replace("seeds: 5", "seeds: 2"))
    mine = {"defaults": ["ufogen", "_self_"], "ablation": {"description": "mine", "seeds": 1}, "objective": {"step_size": 50}}
    (folder / "mine.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(mine))
    claims = OmegaConf.load(reproduced / "paper/claims.yaml")
    OmegaConf.save(claims[:1], reproduced / "paper/claims.yaml")
    command(reproduced, "ufogen.compose", "profile=smoke", "device=cpu", "threads=1")
    command(reproduced, "dvc", "repro", "pipelines/ablations/dvc.yaml")

    with (reproduced / "paper/results/ablations.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = {("ufogen", "0"), ("ufogen", "1"), ("posterior", "0"), ("posterior", "1"), ("mine", "0")}
    assert {(row["arm"], row["seed"]) for row in rows} == runs
    assert all({"1", "2"} == {row["steps"] for row in rows if (row["arm"], row["seed"]) == run} for run in runs)
    assert len({row["unet_evaluations"] for row in rows}) == 1
    assert all(row["named"] == "all" and float(row["residual"]) > 0 for row in rows)
    (verdict,) = json.loads((reproduced / "paper/results/claims.json").read_text())
    assert verdict["id"] == "forward_beats_posterior" and verdict["seeds"] == 2
    assert len(list((reproduced / "paper/ablations").glob("*.png"))) == 7
    done = command(reproduced, "dvc", "repro", "pipelines/ablations/dvc.yaml")
    assert "up to date" in done.stdout
    again = command(reproduced, "ufogen.pipelines.ablations.run", "ablations.arm=mine")
    assert "already there" in again.stdout


def test_a_method_of_the_comparison_is_one_yaml_file_and_finished_ones_stand(reproduced: Path):
    """Every method with one seed through the same DVC file as the whole comparison, then another arm beside them."""
    folder = reproduced / "experiments/distillation"
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace("seeds: 3", "seeds: 1"))
    command(reproduced, "ufogen.compose", "profile=smoke", "device=cpu", "threads=1")
    command(reproduced, "ufogen.pipelines.comparison.run_all", "processes=1")
    command(reproduced, "dvc", "repro", "pipelines/comparison/dvc.yaml")

    with (reproduced / "paper/results/comparison.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["named"] == "all"]
    trained = {row["method"]: row for row in rows if row["training_unet_evaluations"]}
    assert set(trained) == {path.stem for path in folder.glob("*.yaml")}
    assert all(0.8 * 240 < int(row["training_unet_evaluations"]) <= 240 for row in trained.values())
    assert all(float(row["training_seconds"]) > 0 and int(row["peak_memory_mib"]) > 100 for row in trained.values())
    assert all(np.isfinite(float(row["kid_lite0"])) and float(row["residual"]) > 0 for row in rows)
    assert all(float(row["seconds_per_image"]) > 0 for row in rows if row["method"] != "real")
    assert {row["steps"] for row in rows if row["method"] == "progressive"} == {"1", "2", "4"}
    assert len(list((reproduced / "paper/comparison").glob("*.png"))) == 2
    assert "up to date" in command(reproduced, "dvc", "repro", "pipelines/comparison/dvc.yaml").stdout

    text = (folder / "consistency.yaml").read_text()
    (folder / "longer.yaml").write_text(text.replace("skipping_step: 20", "skipping_step: 50"))
    command(reproduced, "ufogen.compose", "profile=smoke", "device=cpu", "threads=1")
    done = command(reproduced, "dvc", "repro", "pipelines/comparison/dvc.yaml").stdout
    assert "run@longer-0" in done and "run@dmd2-0' didn't change, skipping" in done
