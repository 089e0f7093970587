"""A training that goes on from a released generator and its discriminator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.settings import configured, make_objective
from ufogen.diffusion.networks import make_networks
from ufogen.errors import UserError
from ufogen.files import DISCRIMINATOR, HASHES, sha256
from ufogen.pipelines.main.train import go_on
from ufogen.pipelines.release import encode
from ufogen.pipelines.release.paths import ENCODED, released, seeds


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """What a training of tiny networks left, in half precision with the hash of the discriminator."""
    generator, discriminator = make_networks(tiny.unet(1), tiny.schedule(), "epsilon", make_objective())
    generator.unet.half().save_pretrained(tmp_path / "unet")
    (tmp_path / DISCRIMINATOR).parent.mkdir()
    torch.nn.init.ones_(discriminator.unet.conv_out.bias)
    save_file({name: value.half() for name, value in discriminator.state_dict().items()}, tmp_path / DISCRIMINATOR)
    recorded = {DISCRIMINATOR.name: sha256(tmp_path / DISCRIMINATOR)}
    (tmp_path / DISCRIMINATOR.parent / HASHES).write_text(json.dumps(recorded))
    return tmp_path


def networks(**changes):
    return make_networks(tiny.unet(0), tiny.schedule(), "epsilon", make_objective(**changes))


def test_both_networks_go_on_in_full_precision(start: Path):
    generator, discriminator = networks()
    assert go_on(generator, discriminator, start) == [start / "unet", start / DISCRIMINATOR]
    kept = load_file(start / "unet/diffusion_pytorch_model.safetensors"), load_file(start / DISCRIMINATOR)
    for network, weights in zip((generator.unet, discriminator), kept, strict=True):
        state = network.state_dict()
        assert all(torch.equal(state[name], value.float()) for name, value in weights.items())
    assert discriminator.unet.conv_out.bias.item() == 1


def test_a_generator_alone_goes_on_beside_a_new_discriminator(start: Path):
    (start / DISCRIMINATOR).unlink()
    (start / DISCRIMINATOR.parent / HASHES).unlink()
    (start / DISCRIMINATOR.parent).rmdir()
    generator, discriminator = networks()
    before = discriminator.unet.conv_in.weight.clone()
    assert go_on(generator, discriminator, start) == [start / "unet"]
    assert torch.equal(discriminator.unet.conv_in.weight, before)


def test_a_damaged_discriminator_is_named(start: Path):
    content = bytearray((start / DISCRIMINATOR).read_bytes())
    content[-1] ^= 1
    (start / DISCRIMINATOR).write_bytes(content)
    with pytest.raises(UserError, match="differs from its recorded hash"):
        go_on(*networks(), start)


def test_a_record_of_hashes_that_cannot_be_read_is_one_line(start: Path):
    (start / DISCRIMINATOR.parent / HASHES).write_text("no record")
    with pytest.raises(UserError, match="^[^\\n]*discriminator.safetensors does not fit[^\\n]*$"):
        go_on(*networks(), start)


def test_a_discriminator_of_other_settings_is_named(start: Path):
    with pytest.raises(UserError, match="discriminator.safetensors does not fit the networks of these settings"):
        go_on(*networks(discriminator_heads="levels"), start)


def test_a_generator_of_another_width_is_named(start: Path):
    narrow = tiny.unet(0)
    narrow.conv_in = torch.nn.Conv2d(tiny.CHANNELS, 2, 3)
    narrow.save_pretrained(start / "unet")
    with pytest.raises(UserError, match="the generator to go on with|unet does not fit the networks"):
        go_on(*networks(), start)


def test_a_folder_without_a_generator_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="the generator to go on with cannot be loaded"):
        go_on(*networks(), tmp_path / "nothing")


def test_own_pictures_are_trained_on_as_the_main_chain_encoded_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts/encoded").mkdir(parents=True)
    (tmp_path / "artifacts/encoded/latents.npy").write_bytes(b"latents")
    encode.main(configured(data={"source": "folder", "path": "pictures"}))
    assert (tmp_path / ENCODED / "latents.npy").read_bytes() == b"latents"


def test_a_least_timestep_above_the_entry_is_refused():
    with pytest.raises(UserError, match=r"^parameter release.minimum_timestep is 801; allowed: 0 ... 800$"):
        released(configured(objective={"entry_timestep": 800}, release={"minimum_timestep": 801}))


def test_the_release_has_its_own_length_and_solvers():
    c = configured()
    trainer, release = released(c).trainer, c.release
    assert (trainer.updates, trainer.decay, trainer.ema_decay) == (release.updates, release.decay, release.ema_decay)
    assert trainer.batch_size == c.trainer.batch_size
    own = {"entry_share": release.entry_share, "minimum_timestep": release.minimum_timestep}
    assert released(c).objective == replace(c.objective, **own) != c.objective
    of_seeds = seeds(c)
    assert [each.seed for each in of_seeds] == [c.seed + i for i in range(release.noise_seeds)]
    assert {tuple(each.sampler.base_steps) for each in of_seeds} == {tuple(release.base_steps)}
