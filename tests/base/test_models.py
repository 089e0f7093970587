"""Layouts of the small base's denoiser."""

from __future__ import annotations

import pytest
import torch

from tests.settings import make_denoiser
from ufogen.base.models import build_denoiser, with_attention
from ufogen.errors import UserError

SMALL = {"channels": [16, 16, 32], "heads": 2}


def answer(unet: torch.nn.Module) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    x, states = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 3, 384, generator=rng)
    with torch.no_grad():
        return unet.eval()(x, torch.tensor([10, 900]), states).sample


def test_further_attention_starts_as_the_identity_and_learns():
    unet = build_denoiser(make_denoiser(**SMALL, attention="lower"))
    wider = with_attention(unet, make_denoiser(**SMALL, attention="all"))
    assert sum(p.numel() for p in wider.parameters()) > sum(p.numel() for p in unet.parameters())
    torch.testing.assert_close(answer(wider), answer(unet))
    rng = torch.Generator().manual_seed(0)
    x, states = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 3, 384, generator=rng)
    wider.train()(x, torch.tensor([10, 900]), states).sample.square().mean().backward()
    new = [p for name, p in wider.named_parameters() if name not in unet.state_dict() and "proj_out.weight" in name]
    assert new and all(p.grad.abs().sum() > 0 for p in new)


def test_a_snapshot_of_another_layout_is_refused():
    unet = build_denoiser(make_denoiser(**SMALL, attention="all"))
    with pytest.raises(UserError, match="other parts than pretrain.denoiser says"):
        with_attention(unet, make_denoiser(**SMALL, attention="lower"))
