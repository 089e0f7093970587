import pytest

from ufogen.errors import UserError
from ufogen.evaluation import latency
from ufogen.evaluation.latency import seconds_per_image


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it: `clock[0]` in seconds."""
    now = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    return now


def test_warmup_is_left_out_and_time_is_an_image(clock):
    durations = iter([100, 4, 2, 7])

    def generate(batch_size):
        assert batch_size == 2
        clock[0] += next(durations)

    assert seconds_per_image(generate, 2, repeats=3, warmup=1) == {"median": 2, "min": 1, "n": 3}
    assert next(durations, None) is None


def test_waits_for_the_gpu(clock, monkeypatch):
    pending = [0.0]

    def synchronize():
        clock[0] += pending[0]
        pending[0] = 0.0

    def generate(batch_size):
        pending[0] += 3  # seconds of work left to the GPU

    monkeypatch.setattr(latency.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(latency.torch.cuda, "synchronize", synchronize)
    assert seconds_per_image(generate, 1, repeats=2, warmup=2) == {"median": 3, "min": 3, "n": 2}


@pytest.mark.parametrize(
    "name, value",
    [("batch_size", 0), ("repeats", 0), ("warmup", -1)],
    ids=["batch_size", "repeats", "warmup"],
)
def test_bad_input_is_named(name, value):
    arguments = {"batch_size": 1, "repeats": 1, "warmup": 0} | {name: value}
    with pytest.raises(UserError, match=f"{name}: must be at least"):
        seconds_per_image(lambda batch_size: None, **arguments)
