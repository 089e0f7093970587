"""The COCO evaluation from end to end on tiny networks: resumed and divided runs, the numbers, and early errors."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch.multiprocessing import ProcessExitedException, start_processes

from tests import tiny, tiny_coco
from tests.settings import configured
from ufogen import config, files
from ufogen.data.coco import reference_files
from ufogen.errors import UserError
from ufogen.evaluation import clip_score, coco, inception, shards
from ufogen.pipelines.coco import evaluate as coco_evaluate
from ufogen.pipelines.coco import prompts as coco_prompts
from ufogen.pipelines.coco import sample as coco_sample

ROOT = Path(__file__).resolve().parents[2]
N = 7  # in shards of two, the last of one
METHODS = ("ufogen-renoise-1", "ufogen-renoise-2", "base-ddim-2")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny_coco.coco_folder(folder / "coco", N)
    tiny_coco.inception_weights(folder)
    tiny_coco.clip_folder(folder / "clip")
    tiny_coco.models(folder)
    return folder


@pytest.fixture
def settings(parts, tmp_path, monkeypatch) -> config.Config:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inception, "LAYER", "64")  # the covariance of 2048 features takes minutes to decompose
    coco = {
        "folder": str(parts / "coco"), "size": {"val2017": N}, "base": str(parts / "base"), "batch_size": 2,
        "generator": str(parts / "generator"), "methods": ["ufogen", "ddim"], "ufogen_steps": [1, 2], "base_steps": [2],
        "inception_weights": str(parts / "inception.pth"), "clip": [str(parts / "clip")],
    }  # fmt: skip
    few = {"kid_subset_size": 4, "kid_subsets": 3, "latency_batch_size": 2, "latency_repeats": 1}
    return configured(device="cpu", threads=1, coco=coco, evaluation=few)


@pytest.fixture
def sampled(settings) -> config.Config:
    coco_prompts.main(settings)
    coco_sample.main(settings)
    return settings


def contents() -> dict[str, bytes]:
    """Every file that sampling has finished."""
    folder = Path("artifacts/coco/val2017/samples")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


def images(method: str) -> np.ndarray:
    return np.concatenate([shards.read(path) for path in sorted(Path("artifacts/coco/val2017/samples", method).iterdir())])


def test_every_method_has_a_sample_for_every_prompt(sampled):
    prompts = coco.prompts(sampled)
    assert sorted(contents()) == sorted(f"{method}/0000{i}.tar" for method in METHODS for i in range(4))
    for method in METHODS:
        found = images(method)
        assert found.shape == (N, 16, 16, 3) and len(np.unique(found.reshape(N, -1), axis=0)) == N
    one, two, base = map(images, METHODS)
    assert (one != two).any() and (one != base).any()
    methods = coco.compared(sampled)
    again = coco.open_sampler(sampled, methods, torch.device("cpu"))
    whole, part = (coco.noise(again, block, sampled.seed) for block in (range(7), range(3, 5)))
    assert torch.equal(part, whole[3:5])  # by the prompt's number alone
    assert (coco.images(again, methods[0], prompts.captions[2:4], range(2, 4), sampled.seed) == one[2:4]).all()


def in_two_processes(work: Callable[[config.Config], None], settings: config.Config) -> None:
    """What torchrun does: two processes that find each other by the environment, and end when one dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(as_process, (port, work, settings), 2, start_method="fork")


def as_process(rank: int, port: int, work: Callable[[config.Config], None], settings: config.Config) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"})
    AcceleratorState._reset_state(reset_partial_state=True)  # the fork has that of its parent
    work(settings)


def die_in_the_second_shard(settings: config.Config) -> None:
    """Sample, but as the second process be killed when a whole file is about to get its name."""
    if os.environ["RANK"] == "1":
        rename, calls = os.replace, []

        def replace(*paths) -> None:
            calls.append(paths)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths)

        files.os.replace = replace
    coco_sample.main(settings)


def test_two_processes_one_killed_and_resumed_give_what_one_process_gives(sampled):
    expected = contents()
    shutil.rmtree("artifacts/coco/val2017/samples")
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_two_processes(die_in_the_second_shard, sampled)
    partial = contents()
    assert METHODS[0] + "/00001.tar" in partial and METHODS[0] + "/00003.tar" not in partial
    folder = Path("artifacts/coco/val2017/samples")
    assert [path.name for path in folder.rglob(".*.partial")]
    with pytest.raises(UserError, match=r"samples/ufogen-renoise-1 has \d of 4 shards of this run: run the stage sample again"):
        coco_evaluate.main(sampled)
    before = {name: (folder / name).stat().st_mtime_ns for name in partial}
    in_two_processes(coco_sample.main, sampled)
    assert contents() == expected
    assert {name: (folder / name).stat().st_mtime_ns for name in partial} == before
    assert not list(folder.rglob(".*.partial"))


def test_only_what_changed_is_sampled_again(sampled, parts, tmp_path):
    before = contents()
    tiny.unet(seed=2).save_pretrained(tmp_path / "other" / "unet")
    sampled.coco.generator = str(tmp_path / "other")
    coco_sample.main(sampled)
    changed = {name for name, content in contents().items() if content != before[name]}
    assert {name.split("/")[0] for name in changed} == set(METHODS[:2])
    sampled.coco.generator, sampled.coco.size.val2017 = str(parts / "generator"), 5
    coco_prompts.main(sampled)
    folder = Path("artifacts/coco/val2017/samples")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tar")}
    coco_sample.main(sampled)
    base = folder / METHODS[2]
    renewed = {path.name for path in base.iterdir() if path.stat().st_mtime_ns != times[path]}
    assert renewed == {"00002.tar"}  # the last one has one prompt fewer


def test_results_are_those_of_the_libraries_and_the_card_says_of_what(sampled, parts):
    coco_evaluate.main(sampled)
    with Path("paper/results/coco_val2017.csv").open() as file:
        rows = list(csv.DictReader(file))
    card = json.loads(Path("paper/results/coco_val2017.json").read_text())
    assert [(row["method"], row["steps"], row["n"], row["reference_n"]) for row in rows] == [
        ("ufogen", "1", "7", "7"), ("ufogen", "2", "7", "7"), ("base", "2", "7", "7"),
    ]  # fmt: skip
    network = inception.load(parts / "inception.pth")
    squares = [
        Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS, (5, 0, 35, 30))
        for path in sorted((parts / "coco/val2017").iterdir())
    ]
    reference = inception.extract([np.stack([np.array(image) for image in squares])], network)
    model, processor = clip_score.load(str(parts / "clip"))
    captions = coco.prompts(sampled).captions
    for row, method in zip(rows, METHODS, strict=True):
        features = inception.extract([images(method)], network)
        expected = inception.distances(features, reference, seed=0, kid_subsets=3, kid_subset_size=4)
        for name in ("fid", "kid", "kid_std"):
            assert float(row[name]) == pytest.approx(expected[name], rel=1e-3, abs=1e-7), name
        score = clip_score.cosines(images(method), captions, model, processor).mean()
        assert float(row["clip clip"]) == pytest.approx(score, abs=1e-5)
        assert float(row["seconds_per_image"]) > 0
    assert card["dataset"]["name"] == "COCO val2017" and card["dataset"]["prompts"] == N and card["dataset"]["seed"] == 0
    assert card["fid"]["published_weights"] is False and card["fid"]["reference_images"] == N
    assert card["fid"]["weights_sha256"] == files.sha256(parts / "inception.pth")
    assert "256 x 256" in card["fid"]["resize"] and "299" in card["fid"]["resize"]
    assert card["clip"]["networks"] == [{"name": "clip", "weights_sha256": clip_score.weights_sha256(model)}]
    assert card["sampling"]["weights_sha256"]["generator"] == files.sha256(parts / "generator/unet")
    assert {"torch", "torch-fidelity", "transformers", "diffusers", "pillow"} <= set(card["versions"])


def wrong_unet(parts: Path, tmp_path: Path) -> dict:
    unet = tiny.unet()
    unet.register_to_config(sample_size=4)
    unet.save_pretrained(tmp_path / "wrong" / "unet")
    return {"generator": str(tmp_path / "wrong")}


def wrong_inception(parts: Path, tmp_path: Path) -> dict:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    return {"inception_weights": str(tmp_path / "other.pth")}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": config.CocoSize(val2017=N + 1, val2014=N)}, "8 COCO prompts wanted; allowed: at most the 7 images"),
        ({"split": "val2014"}, r"captions_val2014\.json cannot be read: .*unpack annotations"),
        ({"methods": ["ufogen", "euler"]}, "parameter coco.methods has 'euler'; allowed: ufogen, ddim, dpm"),
        ({"base": "absent"}, "parameter coco.base: absent is not a diffusers folder"),
        ({"generator": "absent"}, "parameter coco.generator: absent cannot be loaded: absent/unet is not a folder"),
        (wrong_unet, "was not trained from coco.base: sample_size 4 for 8"),
        ({"inception_weights": "absent.pth"}, "parameter coco.inception_weights is 'absent.pth', which is no file"),
        (wrong_inception, r"other\.pth are of another architecture"),
        ({"clip": ["absent/clip"]}, "CLIP absent/clip cannot be loaded"),
    ],
)
def test_whatever_is_missing_is_said_before_anything_is_sampled(settings, parts, tmp_path, change, message):
    for name, value in (change if isinstance(change, dict) else change(parts, tmp_path)).items():
        setattr(settings.coco, name, value)
    with pytest.raises(UserError, match=message) as error:
        coco_prompts.main(settings)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="run the stage prompts of pipelines/coco/dvc.yaml first"):
        coco_sample.main(settings)
    assert not Path("artifacts/coco").exists()


def test_a_picture_that_evaluation_could_not_read_is_named_before_anything_is_sampled(settings, parts, tmp_path):
    shutil.copytree(parts / "coco", tmp_path / "coco")
    settings.coco.folder = str(tmp_path / "coco")
    (tmp_path / "coco/val2017/._000000000000.png").write_bytes(b"macOS")  # is no picture
    coco_prompts.main(settings)
    uncaptioned = tmp_path / "coco/val2017/000000000099.png"
    uncaptioned.write_bytes((tmp_path / "coco/val2017/000000000000.png").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"^image .*/000000000099.png cannot be read"):
        coco_prompts.main(settings)


def test_what_macos_leaves_beside_the_pictures_is_no_reference(settings, parts, tmp_path):
    shutil.copytree(parts / "coco", tmp_path / "coco")
    (tmp_path / "coco/val2017/._x.png").write_bytes(b"macOS")
    assert len(reference_files(tmp_path / "coco", "val2017")) == N


def test_prompts_of_other_parameters_are_refused(settings):
    coco_prompts.main(settings)
    settings.seed = 1
    with pytest.raises(UserError, match="holds 7 prompts of val2017, seed 0; wanted are 7 of val2017, seed 1"):
        coco_sample.main(settings)
