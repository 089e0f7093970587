"""What DVC makes of the chains: they parse, no two outputs overlap, and a stage runs again where its source has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.folder_files import save
from tests.shard_files import Pair, write_shard
from ufogen.pipelines.ablations import run as ablation
from ufogen.pipelines.ablations.paths import ARMS, CHAIN
from ufogen.pipelines.comparison import paths as comparison

ROOT = Path(__file__).parents[2]


def test_every_chain_parses_and_all_of_them_make_one_graph():
    with Repo(str(ROOT)) as repo:
        repo.index.check_graph()
        found = {f"{stage.path_in_repo}:{stage.name}" for stage in repo.index.stages}
    for chain, arms in ((CHAIN, ARMS), (comparison.CHAIN, comparison.ARMS)):
        runs = yaml.safe_load((ROOT / arms).read_text())["runs"]
        assert {f"{chain}:run@{name}" for name in runs} <= found
    chains = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipelines").glob("*/dvc.yaml")} | {"dvc.yaml"}
    assert {name.split(":")[0] for name in found} == chains


def test_an_arms_identity_covers_each_file_of_the_code_that_its_stage_names(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    files = ablation.code()
    assert all(path.is_file() and path.suffix == ".py" for path in files) and len(set(files)) == len(files)
    deps = yaml.safe_load(CHAIN.read_text())["stages"]["run"]["do"]["deps"]
    for dep in (Path(dep) for dep in deps if dep.startswith("src/")):
        assert dep in files or set(dep.rglob("*.py")) <= set(files), dep
    assert Path("src/ufogen/diffusion/objective.py") in files


def test_metrics_are_few_numbers():
    """`dvc metrics show` prints every one of them in a row."""
    for chain in [ROOT / "dvc.yaml", *(ROOT / "pipelines").glob("*/dvc.yaml")]:
        for stage in yaml.safe_load(chain.read_text())["stages"].values():
            for entry in stage.get("do", stage).get("metrics", []):
                path = ROOT / next(iter(entry))
                if path.is_file():
                    assert all(isinstance(v, float) for row in json.loads(path.read_text()).values() for v in row.values())


@pytest.mark.pipeline
@pytest.mark.parametrize("source", ["webdataset", "folder"])
def test_another_shard_or_picture_makes_prepare_run_again_and_no_nouns_are_needed(tmp_path: Path, source: str):
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "src", folder / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "given").mkdir()

    def give(name: str, *seeds: int) -> None:
        if source == "webdataset":
            write_shard(folder / "given" / f"{name}.tar", [Pair(seed) for seed in seeds])
        else:
            for seed in seeds:
                save(folder / "given" / f"{seed}.png", seed, "a caption")

    give("a", *range(10))
    with initialize_config_dir(str(ROOT / "experiments"), version_base=None):
        overrides = [f"data={source}", "data.path=given", "data.minimum_side=0", "data.minimum_score=0", "base.tracked=src"]
        overrides += ["data.evaluation_size=4", "data.resolution=16"]
        OmegaConf.save(compose("config", overrides=overrides), folder / "params.yaml", resolve=True)
    dvc(folder, "init", "--no-scm", "-q")
    assert "Running stage 'prepare'" in dvc(folder, "repro", "prepare")
    assert "Running" not in dvc(folder, "repro", "prepare")
    before = json.loads((folder / "artifacts/data/card.json").read_text())["counts"]
    give("b", 10, 11)
    assert "Running stage 'prepare'" in dvc(folder, "repro", "prepare")
    assert json.loads((folder / "artifacts/data/card.json").read_text())["counts"] != before


def dvc(folder: Path, *arguments: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
