"""What an update draws and makes of it, against the equations and through the real source of batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.settings import make_objective
from ufogen.data.encoded import Encoded
from ufogen.diffusion import losses
from ufogen.diffusion.batch import Items
from ufogen.diffusion.objective import DiffusionGAN, denoising_step, fakes
from ufogen.randomness import Draws, torch_generator

SCHEDULE = tiny.schedule()
PAIRS, BATCH, SHARE = 2000, 16, 0.25


def draws(step: int = 0) -> Draws:
    return Draws(torch_generator("cpu", 0, "test", step))


def drawn(n: int = 8, step: int = 0, **objective) -> Items:
    """The items of an update whose captions hold their own numbers."""
    caption = {
        "prompt_embeds": torch.arange(n)[:, None, None].expand(n, 3, 5),
        "pooled_prompt_embeds": torch.arange(n)[:, None],
    }
    return DiffusionGAN(SCHEDULE, make_objective(**objective)).draw(tiny.latents(n), caption, draws(step))


def test_the_method_needs_no_accelerate():
    """Nor what follows from it: two screens of equations and their schedule."""
    code = "import sys, ufogen.diffusion.objective; print('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
    assert len(Path(sys.modules[DiffusionGAN.__module__].__file__).read_text().splitlines()) <= 150


# mismatched captions


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Encoded pairs on the disk; each caption holds its own number."""
    folder = tmp_path_factory.mktemp("encoded")
    number = np.arange(PAIRS, dtype=np.float32)
    np.save(folder / "latents.npy", np.broadcast_to(number[:, None, None, None], (PAIRS, 4, 2, 2)))
    np.save(folder / "prompt_embeds.npy", np.broadcast_to(number[:, None, None], (PAIRS, 3, 5)))
    (folder / "card.json").write_text(json.dumps({"n": PAIRS}))
    return folder


@pytest.fixture(scope="module")
def epoch(folder) -> list[Items]:
    """What the updates of an epoch draw from the folder."""
    data, objective = Encoded(folder, BATCH, seed=0), DiffusionGAN(SCHEDULE, make_objective(mismatched_share=SHARE))
    return [objective.draw(*data(step).on("cpu"), draws(step)) for step in range(PAIRS // BATCH)]


def test_mismatched_items_are_spread_evenly_over_the_data(epoch):
    """In each quarter of the data as often as in the others, though a batch comes in the order of the data."""
    assert all((items.x_0[:, 0, 0, 0].diff() > 0).all() for items in epoch)  # else there would be nothing to test
    chosen = torch.cat([items.x_0[items.mismatched, 0, 0, 0] for items in epoch])
    counts = torch.bincount((chosen * 4 / PAIRS).long(), minlength=4)
    assert counts.sum() == round(SHARE * BATCH) * len(epoch) == 500
    assert counts.min() > 125 - 4 * 9.2 and counts.max() < 125 + 4 * 9.2  # four standard deviations


def test_each_update_has_exactly_its_share_and_no_item_its_own_caption(epoch):
    for items in epoch:
        own, fake = (caption["prompt_embeds"][:, 0, 0] for caption in (items.caption, items.caption_fake))
        assert items.mismatched.sum() == SHARE * BATCH
        assert torch.equal(own != fake, items.mismatched)
        assert set(fake.tolist()) <= set(own.tolist())


def test_a_wrong_caption_is_any_other_of_the_batch(epoch):
    """Not its neighbour's in the order of the data: each distance has the same chance, 33 times of 500."""
    distance = []
    for items in epoch:
        own, fake = (caption["prompt_embeds"][:, 0, 0].contiguous() for caption in (items.caption, items.caption_fake))
        distance.append((torch.searchsorted(own, fake) - torch.arange(BATCH))[items.mismatched] % BATCH)
    counts = torch.bincount(torch.cat(distance), minlength=BATCH)
    assert counts[0] == 0
    assert counts[1:].min() > 10 and counts[1:].max() < 60


def test_micro_batches_and_processes_have_mismatched_items_too(folder):
    objective = DiffusionGAN(SCHEDULE, make_objective(mismatched_share=SHARE))
    parts, shares = torch.zeros(4), torch.zeros(2)
    for step in range(100):
        for rank in range(2):
            own = Draws(torch_generator("cpu", 0, "test", step), rank, 2)
            items = objective.draw(*Encoded(folder, BATCH, 0, rank, 2)(step).on("cpu"), own)
            assert items.mismatched.sum() == SHARE * BATCH
            shares[rank] += items.mismatched.nonzero().sum()
            parts += torch.tensor([part.mismatched.sum() for part in items.split(4)])
    assert parts.min() > 150 and parts.sum() == 800
    assert shares.tolist() == pytest.approx([100 * 4 * 7.5] * 2, rel=0.1)  # the mean place is the middle


@pytest.mark.parametrize(("n", "share", "expected"), [(8, 0.0, 0), (8, 0.5, 4), (8, 1.0, 8), (1, 1.0, 0)])
def test_any_share_is_kept_and_every_kind_of_state_goes_with_its_caption(n, share, expected):
    items = drawn(n, mismatched_share=share)
    assert items.mismatched.sum() == expected  # an item alone has no other's caption
    for own, fake in zip(items.caption.values(), items.caption_fake.values(), strict=True):
        assert torch.equal((own != fake).flatten(1).any(dim=1), items.mismatched)
    assert torch.equal(items.caption_fake["prompt_embeds"][:, 0, :1], items.caption_fake["pooled_prompt_embeds"])


def test_the_share_changes_nothing_else_that_is_drawn():
    some, none = drawn(mismatched_share=0.5, step_size_max=500), drawn(mismatched_share=0.0, step_size_max=500)
    for name in ("x_0", "x_s", "x_t", "t", "s", "noise"):
        assert torch.equal(getattr(some, name), getattr(none, name))


def test_mismatched_fakes_are_the_real_samples():
    items, x_s_fake = drawn(mismatched_share=0.5), tiny.latents(8, seed=5)
    found = fakes(items, x_s_fake)
    assert torch.equal(found[items.mismatched], items.x_s[items.mismatched])
    assert torch.equal(found[~items.mismatched], x_s_fake[~items.mismatched])


# items


def test_parts_make_up_the_whole():
    items = drawn(mismatched_share=0.5)
    parts = items.split(4)
    assert [len(part.x_0) for part in parts] == [2] * 4
    for name in ("x_0", "x_s", "x_t", "t", "s", "noise", "mismatched"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(items, name))
    for name in items.caption:
        assert torch.equal(torch.cat([part.caption[name] for part in parts]), items.caption[name])
        assert torch.equal(torch.cat([part.caption_fake[name] for part in parts]), items.caption_fake[name])


def test_items_without_captions_can_be_divided():
    items = DiffusionGAN(SCHEDULE, make_objective()).draw(tiny.latents(4), {}, draws())
    assert [part.caption for part in items.split(2)] == [{}, {}]


# a denoising step and the losses


@pytest.mark.parametrize("parameterization", ["forward", "posterior"])
def test_a_step_to_clean_data_is_the_generators_answer(parameterization):
    x, t, clean = tiny.latents(2), torch.tensor([999, 249]), torch.tensor([-1, -1])
    noise = tiny.latents(2, seed=3)
    x_0, x_s = denoising_step(lambda x_t, t: 0.5 * x_t, x, t, clean, noise, SCHEDULE, parameterization)
    assert torch.equal(x_0, 0.5 * x) and torch.equal(x_s, x_0)


def test_a_step_is_the_forward_process_from_the_prediction_or_the_posterior():
    x, noise, t, s = tiny.latents(2), tiny.latents(2, seed=3), torch.tensor([999, 749]), torch.tensor([749, 499])
    for parameterization, p in (("forward", SCHEDULE.q(2 * x, s)), ("posterior", SCHEDULE.posterior(2 * x, x, t, s))):
        _, x_s = denoising_step(lambda x_t, t, by: by * x_t, x, t, s, noise, SCHEDULE, parameterization, by=2)
        assert torch.equal(x_s, p.sample(noise))


def linear(x_s: torch.Tensor, s: torch.Tensor, x_t: torch.Tensor, **_) -> torch.Tensor:
    """A discriminator whose gradient in x_s is 1 / 4 in every element of an item of 4 x 8 x 8."""
    return x_s.flatten(1).sum(dim=1, keepdim=True) / 4


def test_losses_of_d_are_those_of_its_equation():
    objective = DiffusionGAN(SCHEDULE, make_objective(r1_weight=2.0, r2_weight=3.0, r1_interval=16))
    items, x_s_fake = drawn(), tiny.latents(8, seed=5)
    loss, scalars = objective.discriminator_loss(linear, items, x_s_fake)
    real, fake = linear(items.x_s, items.s, items.x_t), linear(x_s_fake, items.s, items.x_t)
    torch.testing.assert_close(loss, -(real.sigmoid().log() + (1 - fake.double().sigmoid()).log().float()).mean())
    assert scalars["logit_real"] == real.mean() and scalars["logit_fake"] == fake.mean()
    penalty, scalars = objective.penalties(linear, items, x_s_fake)
    assert scalars["r1"].item() == scalars["r2"].item() == pytest.approx(256 / 16 / 2)
    assert penalty.item() == pytest.approx((2 + 3) * 16 * 8)  # the interval is 16


@pytest.mark.parametrize(("reconstruction", "gamma"), [("x_0", "snr"), ("x_0", "constant"), ("x_s", "snr"), ("none", "snr")])
def test_losses_of_g_are_those_of_its_equation(reconstruction, gamma):
    settings = make_objective(reconstruction=reconstruction, gamma=gamma, reconstruction_weight=5.0)
    items, x_0_fake, x_s_fake = drawn(), tiny.latents(8, seed=5), tiny.latents(8, seed=6)
    loss, _ = DiffusionGAN(SCHEDULE, settings).generator_loss(linear, items, x_0_fake, x_s_fake)
    expected = -linear(x_s_fake, items.s, items.x_t).sigmoid().log().mean()
    if reconstruction == "x_0":
        weight = SCHEDULE.snr(items.t) if gamma == "snr" else torch.ones(8)
        expected = expected + 5 * (weight * (items.x_0 - x_0_fake).square().flatten(1).mean(dim=1)).mean()
    elif reconstruction == "x_s":
        weight = losses.forward_kl_weight(items.t, items.s, SCHEDULE)
        expected = expected + 5 * (weight * (items.x_s - x_s_fake).square().flatten(1).mean(dim=1)).mean()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)


def test_penalties_come_at_their_interval():
    assert [step for step in range(9) if DiffusionGAN(SCHEDULE, make_objective(r1_interval=4)).penalized(step)] == [0, 4, 8]
    assert not DiffusionGAN(SCHEDULE, make_objective(r1_weight=0.0)).penalized(0)
