"""Adapters: what is trained, and that the two forms of the result are one model."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from tests import tiny
from tests.settings import make_objective
from ufogen.diffusion.networks import trainable
from ufogen.inference.export import export_pipeline
from ufogen.randomness import Draws, torch_generator
from ufogen.training.loop import make_accelerator
from ufogen.training.lora import save_generator
from ufogen.training.trainer import AdversarialTrainer


def trained(lora: tuple[int, int] = (2, 2), updates: int = 3, **objective) -> AdversarialTrainer:
    task = tiny.task(make_objective(r1_interval=2, **objective), lora=lora)
    task.prepare(make_accelerator("cpu", "no"))
    for step in range(updates):
        task.update(tiny.batch(step), step, Draws(torch_generator("cpu", 0, "test", step)))
    return task


def base_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights under the names that they have without adapters."""
    return {name.replace(".base_layer", ""): x for name, x in network.unet.state_dict().items() if ".lora_" not in name}


def adapters(network: torch.nn.Module) -> list[torch.Tensor]:
    return [x for name, x in network.unet.named_parameters() if ".lora_B" in name]


def test_adapters_learn_and_the_bases_weights_stay_bit_equal():
    task, base = trained(), tiny.unet().state_dict()
    for network in (task.generator, task.discriminator):
        assert adapters(network) and all(x.any() for x in adapters(network))  # zero at the start
        changed = {name for name, x in base_weights(network).items() if not torch.equal(x, base.get(name, x))}
        assert changed <= {"conv_out.weight", "conv_out.bias"}
    assert all(torch.equal(x, base[name]) for name, x in base_weights(task.generator).items())
    assert task.discriminator.unet.conv_out.weight.any()


@pytest.mark.parametrize(("lora", "position"), [((2, 0), 0), ((0, 2), 1)])
def test_each_network_can_have_adapters_alone(lora, position):
    task = trained(lora, updates=1)
    fewer = [len(trainable(n)) < len(list(n.parameters())) for n in (task.generator, task.discriminator)]
    assert fewer == [position == 0, position == 1]


def test_new_input_of_a_joint_discriminator_trains_in_full():
    task = trained(discriminator_input="joint")
    assert task.discriminator.unet.conv_in.weight[:, tiny.CHANNELS :].any()


def test_average_holds_the_trained_weights_alone():
    task = trained(updates=1)
    assert [x.shape for x in task.ema.shadow_params] == [x.shape for x in trainable(task.generator)]
    names = [name for name, x in task.generator.named_parameters() if x.requires_grad]
    assert all(".lora_" in name for name in names)


def test_lora_file_and_merged_weights_make_the_same_picture_in_stock_diffusers(tmp_path):
    pipeline = tiny.pipeline()
    task = trained(updates=4)
    with task.averaged() as generator:
        save_generator(generator.unet, tmp_path)
    merged = UNet2DConditionModel.from_pretrained(tmp_path / "unet", local_files_only=True)
    assert set(merged.state_dict()) == set(pipeline.unet.state_dict())

    def picture(folder, lora=None) -> torch.Tensor:
        stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        stock.set_progress_bar_config(disable=True)
        if lora:
            stock.load_lora_weights(lora, local_files_only=True)
        settings = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "pt", "latents": tiny.latents(1)}
        return stock("a noun with red glasses", **settings).images

    export_pipeline(pipeline, merged, tmp_path / "merged")
    export_pipeline(pipeline, pipeline.unet, tmp_path / "base")
    expected = picture(tmp_path / "merged")
    torch.testing.assert_close(picture(tmp_path / "base", tmp_path / "lora"), expected, rtol=1e-4, atol=1e-5)
    assert (picture(tmp_path / "base") - expected).abs().max() > 1e-3


def test_full_training_writes_no_lora_file(tmp_path):
    save_generator(tiny.unet(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["unet"]
