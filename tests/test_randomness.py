"""Random numbers are keyed by their purpose and do not depend on the number of processes."""

import numpy as np
import pytest
import torch

from ufogen.randomness import Draws, numpy_generator, torch_generator

KEYS = [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1), (0, "train"), (0, "train", 0, 0)]


def draws(rank: int = 0, world_size: int = 1) -> Draws:
    return Draws(torch_generator("cpu", 0, "draws"), rank, world_size)


def sequence(source: Draws, n: int) -> list[torch.Tensor]:
    """What an update draws: normal numbers, integers, uniform numbers, and normal numbers again."""
    like = torch.empty(n, 4, 2, 2)
    return [source.normal(like), source.integers(5, 900, n), source.uniform(n), source.normal(like)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_the_processes_are_the_draws_of_one(world_size):
    whole = sequence(draws(), 6)
    shares = [sequence(draws(rank, world_size), 6 // world_size) for rank in range(world_size)]
    together = [torch.cat(parts) for parts in zip(*shares, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(whole, together, strict=True))


def test_draws_have_their_laws():
    normal, integers, uniform, again = sequence(draws(), 20_000)
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (integers.min().item(), integers.max().item()) == (5, 899)
    assert 0 <= uniform.min() < 0.001 < 0.999 < uniform.max() < 1
    assert not torch.equal(normal, again)
    assert [x.dtype for x in (normal, integers, uniform)] == [torch.float32, torch.int64, torch.float32]


def test_generator_depends_on_seed_purpose_and_key():
    assert len({numpy_generator(*key).integers(1 << 60) for key in KEYS[:4]}) == 4
    assert len({torch.rand(1, generator=torch_generator("cpu", *key)).item() for key in KEYS[:4]}) == 4


def test_generator_repeats_itself():
    for key in KEYS:
        assert np.array_equal(numpy_generator(*key).random(3), numpy_generator(*key).random(3))
        first, second = (torch.rand(3, generator=torch_generator("cpu", *key)) for _ in range(2))
        assert torch.equal(first, second)


def test_generators_are_left_alone_by_the_global_seed():
    torch.manual_seed(1)
    first = torch.rand(3, generator=torch_generator("cpu", 0, "train"))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(3, generator=torch_generator("cpu", 0, "train")))
