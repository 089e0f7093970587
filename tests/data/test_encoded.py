"""Encoded pairs on disk, cut into batches."""

import json

import numpy as np
import pytest
import torch

from ufogen.data import encoded
from ufogen.data.encoded import Encoded
from ufogen.errors import UserError

N = 22


@pytest.fixture
def folder(tmp_path):
    """`N` encoded pairs; each holds its own number."""
    number = np.arange(N, dtype=np.float16)
    np.save(tmp_path / "latents.npy", np.broadcast_to(number[:, None, None, None], (N, 4, 2, 2)))
    np.save(tmp_path / "prompt_embeds.npy", np.broadcast_to(number[:, None, None], (N, 3, 5)))
    (tmp_path / "card.json").write_text(json.dumps({"n": N}))
    return tmp_path


def numbers(data: Encoded, step: int) -> list[int]:
    return data(step).latents[:, 0, 0, 0].int().tolist()


def test_batch_holds_latents_with_their_own_states(folder):
    batch = Encoded(folder, 4, seed=0)(0)
    assert batch.latents.shape == (4, 4, 2, 2)
    assert batch.prompt_embeds.shape == (4, 3, 5)
    assert batch.latents.dtype == batch.prompt_embeds.dtype == torch.float16
    assert torch.equal(batch.latents[:, 0, 0, 0], batch.prompt_embeds[:, 0, 0])


def test_every_pair_comes_once_an_epoch(folder):
    data = Encoded(folder, 11, seed=0)
    for epoch in range(3):
        seen = numbers(data, 2 * epoch) + numbers(data, 2 * epoch + 1)
        assert sorted(seen) == list(range(N))


def test_no_pair_comes_twice_in_an_epoch_that_leaves_a_remainder(folder):
    data = Encoded(folder, 5, seed=0)
    for epoch in range(3):
        seen = [number for step in range(4) for number in numbers(data, 4 * epoch + step)]
        assert len(set(seen)) == len(seen) == 20


def test_each_epoch_has_an_order_of_its_own(folder):
    data = Encoded(folder, 11, seed=0)
    assert len({tuple(numbers(data, 2 * epoch)) for epoch in range(5)}) == 5


def test_batch_depends_on_seed_and_step_alone(folder):
    forth, back = Encoded(folder, 5, seed=0), Encoded(folder, 5, seed=0)
    steps = range(10)
    in_order = {step: numbers(forth, step) for step in steps}
    assert in_order == {step: numbers(back, step) for step in reversed(steps)}
    other = Encoded(folder, 5, seed=1)
    assert in_order != {step: numbers(other, step) for step in steps}


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_the_processes_make_up_the_global_batch(folder, world_size):
    whole = Encoded(folder, 2 * world_size, seed=0)
    shares = [Encoded(folder, 2, 0, rank, world_size) for rank in range(world_size)]
    for step in range(8):
        together = [number for share in shares for number in numbers(share, step)]
        assert sorted(together) == sorted(numbers(whole, step))


def test_batch_of_more_pairs_than_there_are_is_a_user_error(folder):
    Encoded(folder, 11, 0, rank=0, world_size=2)
    with pytest.raises(UserError, match=r"trainer\.batch_size is 12 on 2 processes; allowed: .* 22 together"):
        Encoded(folder, 12, 0, rank=0, world_size=2)


@pytest.mark.parametrize("name", ["card.json", "latents.npy", "prompt_embeds.npy"])
def test_missing_file_is_a_user_error_with_a_remedy(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match="dvc repro encode"):
        Encoded(folder, 4, seed=0)


@pytest.mark.parametrize("name", ["card.json", "latents.npy", "prompt_embeds.npy"])
def test_damaged_file_is_a_user_error_with_a_remedy(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="dvc repro encode"):
        Encoded(folder, 4, seed=0)


def test_fewer_states_than_latents_is_a_user_error_with_a_remedy(folder):
    np.save(folder / "prompt_embeds.npy", np.zeros((N - 1, 3, 5), np.float16))
    with pytest.raises(UserError, match="incomplete: run `dvc repro encode`"):
        Encoded(folder, 4, seed=0)


@pytest.fixture
def shards(tmp_path_factory):
    """The same `N` pairs in shards of 7, 12 and 3."""
    tmp_path = tmp_path_factory.mktemp("shards")
    sizes, start = {"-00000": 7, "-00003": 12, "-b": 3}, 0
    for name, n in sizes.items():
        number = np.arange(start, start + n, dtype=np.float16)
        np.save(tmp_path / f"latents{name}.npy", np.broadcast_to(number[:, None, None, None], (n, 4, 2, 2)))
        np.save(tmp_path / f"prompt_embeds{name}.npy", np.broadcast_to(number[:, None, None], (n, 3, 5)))
        start += n
    (tmp_path / "card.json").write_text(json.dumps({"n": N, "shards": sizes}))
    return tmp_path


@pytest.mark.parametrize("maps", [1, 128])
def test_shards_give_the_batches_of_one_file(folder, shards, maps, monkeypatch):
    one = Encoded(folder, 5, 0, rank=1, world_size=2)
    monkeypatch.setattr(encoded, "OPEN", maps)
    many = Encoded(shards, 5, 0, rank=1, world_size=2)
    for step in (0, 1, 2, 7, 3):
        assert torch.equal(many(step).latents, one(step).latents)
        assert torch.equal(many(step).prompt_embeds, one(step).prompt_embeds)


@pytest.mark.parametrize("name", ["latents-00003.npy", "prompt_embeds-b.npy"])
def test_missing_or_short_shard_is_a_user_error_with_a_remedy(shards, name):
    np.save(shards / name, np.load(shards / name)[1:])
    with pytest.raises(UserError, match="incomplete: run `dvc repro encode`"):
        Encoded(shards, 4, seed=0)
    (shards / name).unlink()
    with pytest.raises(UserError, match=f"{name}.*: run `dvc repro encode`"):
        Encoded(shards, 4, seed=0)
