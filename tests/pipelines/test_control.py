"""What the stages of control report and when they train again."""

import json

import pytest

from tests.settings import configured
from ufogen.pipelines.applications import control_evaluate, control_train


def test_gain_is_the_difference_to_the_same_method_without_control():
    f1 = {("ufogen", "none"): 0.5, ("ufogen", "controlnet"): 0.7, ("ufogen", "adapter"): 0.6}
    f1 |= {("base", "none"): 0.6, ("base", "controlnet"): 0.9, ("base", "adapter"): 0.6}
    table = [{"method": method, "control": kind, "edge_f1": value} for (method, kind), value in f1.items()]
    found = control_evaluate.gains(table)
    assert found["controlnet"] == pytest.approx({"ufogen": 0.2, "base": 0.3, "share_of_base_gain": 2 / 3})
    assert found["adapter"]["share_of_base_gain"] == 0  # the base gains nothing, so there is no share


def test_every_method_is_measured_without_and_with_each_control():
    rows = control_evaluate.rows(configured())
    assert [(row.method, row.steps) for row in rows[::3]] == [("ufogen", 1), ("base", 25)]
    assert len({row.name for row in rows}) == len(rows) == 6


def test_network_is_trained_again_only_where_its_own_settings_change(tmp_path, monkeypatch):
    monkeypatch.setattr(control_train, "ARTIFACTS", tmp_path)
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded" / "card.json").write_text(json.dumps({"n": 3}))
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "weights.safetensors").write_bytes(b"1")

    def identities(**changes) -> list[str]:
        settings = configured(applications=changes)
        return [control_train.run_identity(settings, kind) for kind in ("controlnet", "adapter")]

    first = identities()
    longer = identities(controlnet={"updates": 7})
    assert longer[0] != first[0] and longer[1] == first[1] != first[0]
    assert identities(samples=5, scale=2.0, checkpoint_every=1) == first
    assert set(identities(timesteps="uniform")).isdisjoint(first)
    (tmp_path / "base" / "unet" / "weights.safetensors").write_bytes(b"2")
    assert set(identities()).isdisjoint(first)
