"""The table of published numbers and its figure."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ufogen.errors import UserError
from ufogen.figures import published
from ufogen.pipelines.coco.figure import comparable

TABLE = Path(__file__).resolve().parents[2] / "paper/published.yaml"
RANGES = {"FID": (1, 400), "CLIP": (0.2, 0.4), "seconds": (0.05, 1)}


def test_every_row_has_every_key_and_a_value_in_the_metric_s_range():
    rows = yaml.safe_load(TABLE.read_text())["rows"]
    for row in rows:
        assert set(published.KEYS) <= set(row) <= {*published.KEYS, "note"}, row
        low, high = RANGES[row["metric"]]
        assert low < row["value"] < high, row
        assert row["dataset"] in ("COCO-2017 5k", "COCO-2014 30k", "COCO 5k", "COCO 10k", "MJHQ-30k", "CIFAR-10")
        assert row["certainty"] in ("confirmed", "single", "ambiguous", "doubtful") and row["source"]
        assert row["steps"] is None or row["steps"] >= 1
    assert len(published.read(TABLE)) == len(rows)


def test_no_row_stands_twice_and_the_figure_leaves_none_out():
    rows = published.read(TABLE)
    assert {row.method for row in rows if row.dataset == published.DATASET} == set(published.LOOKS)
    assert max(Counter((r.method, r.steps, r.dataset, r.metric, r.value) for r in rows).values()) == 1


def test_paper_s_own_rows_are_there():
    ours = {(r.dataset, r.steps, r.metric): (r.value, r.certainty) for r in published.read(TABLE) if r.method == "UFOGen"}
    assert ours == {
        ("COCO-2017 5k", 1, "FID"): (22.5, "confirmed"),
        ("COCO-2017 5k", 1, "CLIP"): (0.311, "confirmed"),
        ("COCO-2017 5k", 1, "seconds"): (0.09, "confirmed"),
        ("COCO-2017 5k", 4, "FID"): (22.1, "confirmed"),
        ("COCO-2017 5k", 4, "CLIP"): (0.307, "confirmed"),
        ("COCO-2014 30k", 1, "FID"): (12.78, "confirmed"),
        ("COCO-2014 30k", 1, "CLIP"): (0.317, "single"),
    }


def test_row_without_a_key_or_with_an_unknown_source_is_a_user_error(tmp_path):
    path = tmp_path / "published.yaml"
    row = {"method": "X", "steps": 1, "dataset": "d", "metric": "FID", "value": 1.0, "source": ["A"], "certainty": "single"}
    path.write_text(yaml.safe_dump({"sources": {"B": "b"}, "rows": [row]}))
    with pytest.raises(UserError, match="names the source A, which is not in sources"):
        published.read(path)
    del row["certainty"]
    path.write_text(yaml.safe_dump({"sources": {"A": "a"}, "rows": [row]}))
    with pytest.raises(UserError, match="each row needs .*certainty"):
        published.read(path)


def test_ours_change_the_figure_only_where_they_exist(tmp_path):
    rows = published.read(TABLE)
    made = {"method": ["ufogen"], "sampler": ["renoise"], "steps": [1], "fid": [30.0], "seconds_per_image": [0.1]}
    for name, ours in (("a", None), ("b", None), ("c", pd.DataFrame(made))):
        published.fid_against_steps_and_time(rows, ours, tmp_path / f"{name}.png")
    first, again, with_ours = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != with_ours
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).std() > 5


@pytest.mark.parametrize("prompts, weights, drawn", [(5000, True, True), (5000, False, False), (100, True, False)])
def test_only_comparable_results_stand_beside_published_ones(tmp_path, prompts, weights, drawn):
    path = tmp_path / "coco_val2017.json"
    assert comparable(path) is None
    rows = [{"method": "ufogen", "sampler": "renoise", "steps": 1, "fid": 30.0, "seconds_per_image": 0.1}]
    path.write_text(json.dumps({"dataset": {"prompts": prompts}, "fid": {"published_weights": weights}, "rows": rows}))
    assert (comparable(path) is not None) == drawn
