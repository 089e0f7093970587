"""Muon: its matrices are orthogonal, its vectors are Adam's, and it goes on where it was stopped."""

import copy
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from torch import nn

from ufogen.base.muon import Muon, _shares, make_optimizer, orthogonalised


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(32, 4))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    x = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    loss = (model(x) - x[:, :1].flatten(1)[:, :4]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("shape", [(2, 8, 20), (3, 20, 8), (1, 6, 6)])
def test_singular_values_are_about_one_and_directions_stay(shape: tuple[int, int, int]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices).float()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    exact = u @ v
    assert found.shape == matrices.shape
    values = torch.linalg.svdvals(found)
    assert (values > 0.5).all() and (values < 1.3).all()
    assert torch.cosine_similarity(found.flatten(1), exact.flatten(1)).min() > 0.9


def test_step_has_the_stated_size_whatever_the_gradient():
    for scale in (1.0, 1e-3):
        model = network()
        before = copy.deepcopy(model.state_dict())
        optimizer = Muon(model.parameters(), lr=0.01)
        for p in model.parameters():
            p.grad = scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        for name in ("0.weight", "3.weight"):
            moved = (model.state_dict()[name] - before[name]).square().mean().sqrt()
            assert moved == pytest.approx(0.2 * 0.01, rel=0.3)


def test_decay_shrinks_matrices_alone():
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = Muon(model.parameters(), lr=0.01, decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] * (1 - 0.005 if value.ndim > 1 else 1))


def test_vectors_step_as_adams():
    ours, theirs = network(), network()
    muon = Muon(ours.parameters(), lr=0.01)
    adam = torch.optim.Adam([p for p in theirs.parameters() if p.ndim < 2], lr=0.01, betas=(0.9, 0.99))
    for seed in range(3):
        step(ours, muon, seed)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.grad = p.grad.clone()
        adam.step()
    assert torch.allclose(ours[0].bias, theirs[0].bias, atol=1e-6)


def test_it_learns_and_continues_from_its_state():
    model = network()
    optimizer = make_optimizer("muon", model.parameters(), 0.02)
    losses = [step(model, optimizer, seed) for seed in range(60)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    other = copy.deepcopy(model)
    continued = make_optimizer("muon", other.parameters(), 0.02)
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert step(model, optimizer, 99) == step(other, continued, 99)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def _forked(path: Path) -> None:
    torch.set_num_threads(1)
    model = network()
    optimizer = Muon(model.parameters(), lr=0.01)
    for seed in range(3):
        step(model, optimizer, seed)
    if torch.distributed.get_rank() == 1:  # which made a part of the directions alone, and got the others
        torch.save(model.state_dict(), path)


def test_processes_that_divide_the_matrices_step_as_one_does(tmp_path: Path):
    debug_launcher(_forked, args=(tmp_path / "weights.pt",), num_processes=2)
    alone = network()
    optimizer = Muon(alone.parameters(), lr=0.01)
    for seed in range(3):
        step(alone, optimizer, seed)
    for name, value in torch.load(tmp_path / "weights.pt").items():
        torch.testing.assert_close(value, alone.state_dict()[name])


def test_shares_are_even_and_whole():
    matrices = [torch.empty(shape) for shape in ((64, 576), (128, 128), (128, 1152), (64, 64), (512, 128))]
    shares = _shares(matrices, 2)
    assert sorted(sum(shares, [])) == list(range(5))
    loads = [sum(matrices[i].numel() * min(matrices[i].shape) for i in share) for share in shares]
    assert max(loads) <= 0.65 * sum(loads)
