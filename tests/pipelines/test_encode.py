"""Shards through the stage encode and into training's batches, by one process and by several, and after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.settings import configured
from tests.shard_files import Pair, write_shard
from ufogen import config
from ufogen.base.autoencoder import to_model_range
from ufogen.base.loading import load_base
from ufogen.base.text import encode_text
from ufogen.data.encoded import Encoded
from ufogen.data.training_data import open_training_data
from ufogen.errors import UserError
from ufogen.pipelines.main import encode, train
from ufogen.pipelines.main.prepare import main as prepare
from ufogen.training.trainer import AdversarialTrainer

ROOT = Path(__file__).parents[2]
WORDS = ("a noun", "a noun with red glasses", "the head", "a red noun", "glasses")
SIZE = 4  # pairs a shard


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a base of tiny networks."""
    monkeypatch.chdir(tmp_path)
    tiny.pipeline().save_pretrained("artifacts/base")
    return tmp_path


def settings(place: Path, n: int = 3, broken: bool = False, **changes) -> config.Config:
    """`n` new shards, the second image of each broken or not, and the settings that read them; `changes` go to data."""
    folder = place / "shards"
    folder.mkdir(exist_ok=True)
    for s in range(n):
        pairs = [Pair(100 * s + i, (20 + i, 18), WORDS[(s + i) % 5], broken=broken and i == 1) for i in range(SIZE)]
        write_shard(folder / f"{s:05d}.tar", pairs)
    data = {"source": "webdataset", "path": str(folder), "workers": 1, "encode_batch_size": 3} | changes
    return configured(
        device="cpu", threads=1, data=data, trainer={"batch_size": 4, "precision": "no", "discriminator_first": 0}
    )


def arrays(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.npy"))}


def start(place: Path, c: config.Config, *launcher: str) -> subprocess.Popen:
    """The stage as a command of its own."""
    (place / "params.yaml").write_text(json.dumps(config.to_dict(c)))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, "-m", "ufogen.pipelines.main.encode"], cwd=place, env=environment)


def test_latents_are_drawn_from_the_autoencoder_and_states_come_from_the_text_encoder(place):
    c = settings(place)
    pairs = [Pair(i, caption=WORDS[i % 5]) for i in range(8)]  # 16 x 16, as the base wants them
    write_shard(place / "shards" / "00001.tar", pairs)
    encode.main(c)
    base = load_base("artifacts/base")
    images = np.stack([np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8) for i in range(8)])
    with torch.no_grad():
        posterior = base.vae.encode(to_model_range(images, "cpu")).latent_dist
    latents, prompt_embeds = (
        torch.from_numpy(np.load(f"artifacts/encoded/{kind}-00001.npy")) for kind in ("latents", "prompt_embeds")
    )
    assert latents.dtype == prompt_embeds.dtype == torch.float16
    noise = (latents.float() / base.vae.config.scaling_factor - posterior.mean) / posterior.std
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1  # 2,048 draws
    assert len({row.numpy().tobytes() for row in noise[:, 0, 0]}) == 8
    expected = encode_text([pair.caption for pair in pairs], base.text_encoder, base.tokenizer)
    torch.testing.assert_close(prompt_embeds.float(), expected, rtol=0, atol=2e-3)


def test_broken_images_and_shards_are_left_out_and_counted(place):
    c = settings(place, 3, broken=True)
    path = place / "shards" / "00002.tar"
    path.write_bytes(path.read_bytes()[:2000])
    encode.main(c)
    data = Encoded("artifacts/encoded", 2, seed=0)
    assert len(data) == 2 * (SIZE - 1)
    assert data.card["shards"] == {"-00000": SIZE - 1, "-00001": SIZE - 1}
    assert data.card["counts"]["broken_images"] == 2 and data.card["counts"]["broken_shards"] == 1
    assert len(np.load("artifacts/encoded/prompt_embeds-00001.npy")) == SIZE - 1


def test_finished_encoding_is_kept_and_takes_up_new_shards(place):
    c = settings(place, 2)
    encode.main(c)
    before = arrays("artifacts/encoded")
    written = {path.name: path.stat().st_mtime_ns for path in Path("artifacts/encoded").glob("*.npy")}
    write_shard(place / "shards" / "00007.tar", [Pair(1000 + i, caption="a noun") for i in range(SIZE)])
    encode.main(c)
    after = arrays("artifacts/encoded")
    assert {name: after[name] for name in before} == before and len(after) == 6
    assert all(Path("artifacts/encoded", name).stat().st_mtime_ns == time_ for name, time_ in written.items())
    assert len(Encoded("artifacts/encoded", 2, seed=0)) == 3 * SIZE


def test_shards_that_were_moved_are_the_same_and_others_in_their_place_are_not(place):
    c = settings(place, 2)
    encode.main(c)
    before = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base")).card | {"data": None}
    shutil.move(place / "shards", place / "moved")
    moved = configured(
        device="cpu", threads=1, data=c.data, trainer={"batch_size": 4, "precision": "no", "discriminator_first": 0}
    )
    moved.data.path = str(place / "moved")
    for there in (c, moved):  # gone, or elsewhere
        found = open_training_data(there, Accelerator(cpu=True), load_base("artifacts/base"))
        assert found.card | {"data": None} == before
    written = {path.name: path.stat().st_mtime_ns for path in Path("artifacts/encoded").glob("*.npy")}
    encode.main(moved)
    assert {path.name: path.stat().st_mtime_ns for path in Path("artifacts/encoded").glob("*.npy")} == written
    write_shard(place / "moved" / "00000.tar", [Pair(seed) for seed in range(2)])
    with pytest.raises(UserError, match="other data or settings"):
        open_training_data(moved, Accelerator(cpu=True), load_base("artifacts/base"))


def test_a_run_goes_on_where_something_that_decides_nothing_has_changed(place, monkeypatch):
    """Bytewise as a run that was not stopped; with another learning rate it is refused."""
    few = {
        "precision": "no",
        "discriminator_first": 0,
        "updates": 4,
        "batch_size": 4,
        "warmup": 0,
        "keep": "last",
        "checkpoint_every": 2,
        "log_every": 1,
    }
    c = settings(place, 3)
    encode.main(c)
    straight = configured(device="cpu", threads=1, data=c.data, objective={"generator_init": "base"}, trainer=few)
    train.main(straight)
    weights = Path("artifacts/train/unet/diffusion_pytorch_model.safetensors")
    expected, update = weights.read_bytes(), AdversarialTrainer.update

    def stop(task: AdversarialTrainer, batch, step: int, draws):
        if step == 3:
            raise InterruptedError
        return update(task, batch, step, draws)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(AdversarialTrainer, "update", stop)
        train.main(straight)
    shutil.rmtree("artifacts/train")
    shutil.move(place / "shards", place / "moved")
    with pytest.raises(UserError, match="is of a run with another"):
        train.main(
            configured(
                device="cpu",
                threads=1,
                data=c.data,
                objective={"generator_init": "base"},
                trainer=few | {"generator_learning_rate": 0.1},
            )
        )
    other = {"checkpoint_every": 1, "log_every": 2, "sample_every": 7, "validate_every": 9}
    c.data.path, c.data.workers = str(place / "moved"), 2
    steps = []
    monkeypatch.setattr(AdversarialTrainer, "update", lambda *given: steps.append(given[2]) or update(*given))
    train.main(configured(device="cpu", threads=1, data=c.data, objective={"generator_init": "base"}, trainer=few | other))
    assert steps == [2, 3] and weights.read_bytes() == expected


def test_another_setting_is_not_mixed_in_and_the_first_is_kept_aside(place):
    c, other = settings(place, 2), settings(place, 2, crop="random")
    encode.main(c)
    with pytest.raises(UserError, match="other data or settings"):
        open_training_data(other, Accelerator(cpu=True), load_base("artifacts/base"))
    before = arrays("artifacts/encoded")
    encode.main(other)
    after = arrays("artifacts/encoded")
    assert all((before[name] == after[name]) == name.startswith("prompt_embeds") for name in before)
    open_training_data(other, Accelerator(cpu=True), load_base("artifacts/base"))
    written = {path.name: path.stat().st_mtime_ns for path in Path("artifacts/checkpoints").glob("*/*.npy")}
    encode.main(c)
    assert arrays("artifacts/encoded") == before
    assert {path.name: path.stat().st_mtime_ns for path in Path("artifacts/encoded").glob("*.npy")} == written


def test_without_a_cache_the_stage_says_so_and_keeps_an_older_encoding_aside(place):
    c = settings(place, 1)
    encode.main(c)
    before = arrays("artifacts/encoded")
    encode.main(settings(place, 1, cache=False))
    assert [path.name for path in Path("artifacts/encoded").iterdir()] == ["card.json"]
    (aside,) = Path("artifacts/checkpoints").iterdir()
    assert arrays(aside) == before


@pytest.mark.slow
def test_killed_stage_goes_on_with_two_processes_and_gives_the_same_bytes(place):
    c = settings(place, 24)
    process = start(place, c)
    cards = place / "artifacts" / "checkpoints"
    while not list(cards.glob("encode-*/000*.json")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in cards.glob("encode-*/*.npy") if (path.parent / "00000.json").is_file()}
    finished = [path.stem for path in cards.glob("encode-*/000*.json")]
    assert 0 < len(finished) < 24 and not Path("artifacts/encoded").exists()
    resumed = start(place, c, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert resumed.wait() == 0
    for path, written in done.items():
        if path.stem.split("-")[1] in finished:
            assert Path("artifacts/encoded", path.name).stat().st_mtime_ns == written
    resumed_bytes = arrays("artifacts/encoded")
    shutil.rmtree("artifacts/encoded")
    encode.main(c)
    assert arrays("artifacts/encoded") == resumed_bytes and len(resumed_bytes) == 48
    assert {path.suffix for path in Path("artifacts/encoded").iterdir()} == {".npy", ".json"}
    assert not list(cards.iterdir())


def test_batches_encoded_on_the_fly_are_those_of_the_cache(place):
    c = settings(place, 3, crop="random")
    encode.main(c)
    cached = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))
    c.data.cache = False
    streamed = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))
    assert len(streamed) == len(cached) == 3 * SIZE
    assert streamed.card["run"] == cached.card["run"]
    for step in (0, 1, 2, 5, 0):
        for name in ("latents", "prompt_embeds"):
            found, expected = getattr(streamed(step), name), getattr(cached(step), name)
            assert found.dtype == expected.dtype == torch.float16
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_on_the_fly_batches_skip_broken_images_and_report_them(place):
    c = settings(place, 2, broken=True, cache=False)
    streamed = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))
    first = [streamed(step) for step in range(2)]
    again = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))
    assert all(torch.equal(again(step).latents, first[step].latents) for step in (1, 0))
    assert json.loads(Path("artifacts/shards/broken_images-0.json").read_text()) == ["00000.tar:1", "00001.tar:1"]
    whole = {latent.numpy().tobytes() for batch in first for latent in batch.latents}
    assert len(whole) == 2 * (SIZE - 1)  # the two broken ones are replaced by their successors


@pytest.mark.parametrize("cache", [True, False])
def test_processes_share_the_global_batch(place, cache):
    c = settings(place, 3, cache=cache)
    encode.main(c)
    shares = []
    for rank in (0, 1):
        part = configured(device="cpu", data=c.data, trainer={"batch_size": 2})
        accelerator = SimpleNamespace(process_index=rank, num_processes=2, device="cpu", wait_for_everyone=lambda: None)
        shares.append(open_training_data(part, accelerator, load_base("artifacts/base")))
    whole = open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))
    for step in range(4):
        together = torch.cat([share(step).latents for share in shares])
        expected = whole(step).latents
        order = [int((expected - latent).abs().sum((1, 2, 3)).argmin()) for latent in together]
        assert sorted(order) == [0, 1, 2, 3]
        torch.testing.assert_close(together, expected[order], rtol=2e-3, atol=2e-3)


def test_prepare_writes_what_is_left_of_the_shards(place):
    prepare(settings(place, 2, maximum_aspect_ratio=1.2))
    card = json.loads(Path("artifacts/data/card.json").read_text())
    assert card["counts"] | {"pairs": 8, "oblong": 4, "kept": 4} == card["counts"]  # 18 x 20 and 21 pass, 22 and 23 do not


def test_coco_is_no_training_data(place):
    c = configured(device="cpu", data={"source": "coco"})
    for call in (lambda: encode.main(c), lambda: open_training_data(c, Accelerator(cpu=True), None)):
        with pytest.raises(UserError, match=r"data\.source is coco.*allowed for training: nouns, folder, webdataset"):
            call()


@pytest.mark.parametrize("cache", [True, False])
def test_what_cannot_be_used_is_refused_by_name_where_that_is_asked_for(place, cache):
    c = settings(place, 2, broken=True, cache=cache)
    c.data.broken = "refuse"
    with pytest.raises(UserError, match=r"^pair 1 of shard .*00000\.tar: image .*data\.broken=skip leaves it out$"):
        encode.main(c)
        open_training_data(c, Accelerator(cpu=True), load_base("artifacts/base"))(0)
    write_shard(place / "shards" / "00000.tar", [Pair(0), Pair(1, caption=None)])
    with pytest.raises(UserError, match=r"^pair 1 of shard .*00000\.tar has no caption; data\.broken=skip leaves it out$"):
        prepare(c)
    (place / "shards" / "00000.tar").write_bytes(b"?")
    with pytest.raises(UserError, match=r"^shard .*00000\.tar cannot be read: .*data\.broken=skip leaves it out$"):
        prepare(c)
