"""`auto` is bfloat16 where there are instructions for it; a machine without them never meets it unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.settings import configured
from ufogen import compose, config
from ufogen.precision import DTYPES, resolve_precision, resolved
from ufogen.training.loop import make_accelerator

ROOT = Path(__file__).parents[1]
GROUPS = [
    f"{group}={path.stem}" for group in ("profile", "data") for path in sorted((ROOT / f"experiments/{group}").glob("*.yaml"))
]


def processor(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    """A machine without a GPU, whose processor has these instructions."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True} | dict.fromkeys(instructions, True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [((), "no"), (("avx512_fp16",), "no"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16"), (("bf16",), "bf16")],
)
def test_auto_is_what_the_processor_has_instructions_for(instructions, expected, monkeypatch):
    processor(monkeypatch, *instructions)
    for device in ("auto", "cpu", torch.device("cpu")):
        assert resolve_precision("auto", device) == expected
    AcceleratorState._reset_state()
    assert make_accelerator("cpu", "auto").mixed_precision == expected
    AcceleratorState._reset_state()


def test_torch_without_kernels_for_it_does_not_count(monkeypatch):
    processor(monkeypatch, "bf16")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_precision("auto", "cpu") == "no"


@pytest.mark.parametrize(("emulated", "expected"), [(False, "bf16"), (True, "no")])
def test_auto_is_what_the_gpu_computes_in_without_emulation(emulated, expected, monkeypatch):
    processor(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or not emulated)
    for device in ("auto", "cuda", torch.device("cuda", 0)):
        assert resolve_precision("auto", device) == expected
    assert resolve_precision("auto", "cpu") == "no"


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_what_is_asked_for_stays(precision, monkeypatch):
    processor(monkeypatch)
    assert resolve_precision(precision, "cpu") == precision


def precisions(tree: dict) -> list[str]:
    """All that stand in a tree."""
    inner = [found for value in tree.values() if isinstance(value, dict) for found in precisions(value)]
    return inner + [value for key, value in tree.items() if key in ("precision", "encode_precision")]


@pytest.mark.parametrize("override", GROUPS)
def test_a_processor_without_bfloat16_computes_in_float32_whatever_the_profile(override, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = config.build(config.Config, compose.parameters([override]))
    assert precisions(config.to_dict(given)).count("auto") >= 3
    processor(monkeypatch)
    assert set(precisions(config.to_dict(resolved(given, "cpu")))) == {"no"}
    processor(monkeypatch, "avx512_bf16")
    assert resolved(given, "cpu").sampler.precision == "bf16"


def test_only_precisions_are_resolved_and_the_rest_is_the_very_same(monkeypatch):
    processor(monkeypatch, "avx512_bf16")
    given = config.load(ROOT / "params.yaml")
    found = resolved(given, "cpu")
    assert found.device == given.device == "auto"
    assert found.objective is given.objective and found.data is given.data
    assert resolved(found, "cpu") is found


def test_settings_of_tests_are_resolved_as_a_stages_are():
    assert set(precisions(config.to_dict(configured()))) <= set(DTYPES)
