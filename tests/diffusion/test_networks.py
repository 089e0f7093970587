"""Generator and discriminator from one tiny U-Net."""

import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler

from tests import tiny
from tests.settings import make_objective
from ufogen.base.models import SCHEDULE
from ufogen.diffusion.losses import discriminator_loss, r1_penalty
from ufogen.diffusion.networks import Discriminator, Generator, frozen, make_networks


@pytest.fixture
def decided() -> Discriminator:
    """A discriminator whose head is no longer zero."""
    network = Discriminator(tiny.unet())
    torch.nn.init.normal_(network.unet.conv_out.weight)
    return network


def timesteps(n: int, t: int = 499) -> torch.Tensor:
    return torch.full((n,), t)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [249, 999])
def test_generator_is_the_denoisers_prediction_of_x_0(kind, t):
    unet, x_t, prompt_embeds = tiny.unet(), tiny.latents(2), tiny.prompt_embeds(2)
    found = Generator(unet, tiny.schedule(), kind)(x_t, timesteps(2, t), prompt_embeds)
    output = unet(x_t, t, encoder_hidden_states=prompt_embeds).sample
    expected = DDPMScheduler.from_config(SCHEDULE, prediction_type=kind).step(output, t, x_t).pred_original_sample
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-4)


def test_generator_takes_a_timestep_for_each_item():
    generator = Generator(tiny.unet(), tiny.schedule(), "epsilon")
    x_t, prompt_embeds, t = tiny.latents(2), tiny.prompt_embeds(2), torch.tensor([249, 999])
    together = generator(x_t, t, prompt_embeds)
    alone = torch.cat([generator(x_t[i : i + 1], t[i : i + 1], prompt_embeds[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_generator_and_discriminator_heed_the_text(decided):
    x, t = tiny.latents(1), timesteps(1)
    for network in (Generator(tiny.unet(), tiny.schedule(), "epsilon"), decided):
        assert not torch.equal(network(x, t, tiny.prompt_embeds(1, seed=1)), network(x, t, tiny.prompt_embeds(1, seed=2)))


@pytest.mark.parametrize("heads, maps", [("output", 1), ("both", 2)])
def test_discriminator_starts_undecided(heads, maps):
    logits = Discriminator(tiny.unet(), heads=heads)(tiny.latents(3), timesteps(3), tiny.prompt_embeds(3))
    assert torch.equal(logits, torch.zeros(3, maps, 8, 8))
    assert discriminator_loss(logits, logits, "nonsaturating").item() == pytest.approx(2 * math.log(2))


def test_discriminator_learns_from_the_first_update_on():
    network = Discriminator(tiny.unet())
    network(tiny.latents(1), timesteps(1), tiny.prompt_embeds(1)).mean().backward()
    assert network.unet.conv_out.weight.grad.abs().sum() > 0


def test_both_heads_learn_from_the_first_update_on_with_equal_weights():
    network = Discriminator(tiny.unet(), heads="both")
    network(tiny.latents(2), timesteps(2), tiny.prompt_embeds(2)).mean().backward()
    head = network.unet.further_heads["mid_block"][-1]
    assert head.weight.grad.abs().sum() > 0
    assert head.bias.grad.item() == pytest.approx(network.unet.conv_out.bias.grad.item()) == pytest.approx(0.5)


def test_head_at_the_bottleneck_sees_the_whole_item_and_leaves_the_output_head_alone():
    torch.manual_seed(0)
    network = Discriminator(tiny.unet(), heads="both")
    x, t, prompt_embeds = tiny.latents(2), timesteps(2), tiny.prompt_embeds(2)
    torch.nn.init.normal_(network.unet.conv_out.weight)
    alone = network(x, t, prompt_embeds)
    torch.nn.init.normal_(network.unet.further_heads["mid_block"][-1].weight)
    together = network(x, t, prompt_embeds)
    assert torch.equal(alone[:, 1], together[:, 1])
    assert not alone[:, 0].any() and together[:, 0].flatten(1).std(dim=1).min() > 0
    corner = x.clone()
    corner[..., 0, 0] += 1
    assert network(corner, t, prompt_embeds)[:, 0, -1, -1].ne(together[:, 0, -1, -1]).all()
    assert not network.unet.mid_block._forward_hooks  # a pass leaves nothing behind
    copied = copy.deepcopy(network)
    assert torch.equal(copied(x, t, prompt_embeds), together)


def test_penalty_reaches_the_head_at_the_bottleneck():
    network = Discriminator(tiny.unet(), heads="both")
    torch.nn.init.normal_(network.unet.further_heads["mid_block"][-1].weight)
    x = tiny.latents(2).requires_grad_()
    r1_penalty(network(x, timesteps(2), tiny.prompt_embeds(2)), x).backward()
    assert network.unet.further_heads["mid_block"][-1].weight.grad.abs().sum() > 0
    assert network.unet.conv_in.weight.grad.abs().sum() > 0


def test_discriminator_judges_every_position(decided):
    logits = decided(tiny.latents(2), timesteps(2), tiny.prompt_embeds(2))
    assert logits.shape == (2, 1, 8, 8)
    assert logits.flatten(1).std(dim=1).min() > 0


def test_discriminator_heeds_the_noise_level_and_takes_clean_data_for_timestep_0(decided):
    x, prompt_embeds = tiny.latents(1), tiny.prompt_embeds(1)
    clean = decided(x, timesteps(1, -1), prompt_embeds)
    assert torch.equal(clean, decided(x, timesteps(1, 0), prompt_embeds))
    assert not torch.equal(clean, decided(x, timesteps(1, 499), prompt_embeds))


def test_base_is_left_untouched():
    base = tiny.unet()
    before, names = copy.deepcopy(base.state_dict()), set(base.state_dict())
    generator, discriminator = make_networks(base, tiny.schedule(), "epsilon", make_objective())
    for network in (generator, discriminator):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
    assert set(base.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert base.conv_out.out_channels == 4


def test_both_networks_start_as_copies_of_the_base():
    base = tiny.unet().state_dict()
    generator, discriminator = make_networks(tiny.unet(), tiny.schedule(), "epsilon", make_objective())
    assert all(torch.equal(value, base[name]) for name, value in generator.unet.state_dict().items())
    differing = {name for name, value in discriminator.unet.state_dict().items() if not torch.equal(value, base[name])}
    assert differing == {"conv_out.weight", "conv_out.bias"}


def test_frozen_network_takes_no_gradient_and_passes_it_on(decided):
    x = tiny.latents(1).requires_grad_()
    with frozen(decided):
        decided(x, timesteps(1), tiny.prompt_embeds(1)).sum().backward()
    assert all(parameter.grad is None for parameter in decided.parameters())
    assert x.grad.abs().sum() > 0


def test_frozen_is_undone_even_after_an_error(decided):
    with pytest.raises(KeyError), frozen(decided):
        assert not any(parameter.requires_grad for parameter in decided.parameters())
        raise KeyError
    assert all(parameter.requires_grad for parameter in decided.parameters())


def test_r1_differentiates_twice_through_the_whole_discriminator(decided):
    x = tiny.latents(2).requires_grad_()
    penalty = r1_penalty(decided(x, timesteps(2), tiny.prompt_embeds(2)), x)
    penalty.backward()
    without = {name for name, p in decided.named_parameters() if p.grad is None or not p.grad.any()}
    assert penalty.item() > 0
    assert without == {"unet.conv_out.bias"}  # a constant added to the logits is none of R1's business


def test_r1_of_the_discriminator_is_its_measured_slope(decided):
    """The penalty is half the squared slope of D along its own gradient, here by a central difference."""
    decided.double()
    x, s, prompt_embeds = tiny.latents(1).double().requires_grad_(), timesteps(1), tiny.prompt_embeds(1).double()
    evaluate = decided.unet  # the wrapper rounds to float32
    logits = evaluate(x, s, encoder_hidden_states=prompt_embeds).sample
    penalty = r1_penalty(logits, x)
    (gradient,) = torch.autograd.grad(evaluate(x, s, encoder_hidden_states=prompt_embeds).sample.mean(), x)
    step = 1e-5 * gradient / gradient.norm()
    ends = [evaluate(x + sign * step, s, encoder_hidden_states=prompt_embeds).sample.mean() for sign in (1, -1)]
    slope = (ends[0] - ends[1]).item() / 2e-5
    assert penalty.item() == pytest.approx(slope**2 / 2, rel=1e-5)
