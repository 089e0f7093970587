import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.settings import configured
from ufogen import config
from ufogen.data.images import save_image_grid
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs, write_pairs
from ufogen.errors import UserError
from ufogen.pipelines.main import figures
from ufogen.pipelines.release import figures as release_figures

ROOT = Path(__file__).resolve().parents[2]
FIGURES = (
    "base_against_ufogen", "curves", "one_step_samples", "quality_against_openness", "quality_against_steps",
    "quality_against_time", "training_progress",
)  # fmt: skip
METHODS = [("ufogen", "renoise", 1), ("ufogen", "renoise", 2), ("base", "ddim", 1), ("base", "dpm++", 1)]


@pytest.fixture
def settings() -> config.Config:
    return configured(sampler={"grid_prompts": 4})


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The files of a smoke run: three prompts, four methods, one logged update, one sheet of samples."""
    monkeypatch.chdir(tmp_path)
    pairs = make_pairs(Nouns.load(ROOT / "node_modules"), 3, 0, "evaluation")
    for name in ("evaluation", "validation"):
        write_pairs(tmp_path / "artifacts/data" / name, pairs)
    samples = tmp_path / "artifacts/samples"
    (samples / "evaluation").mkdir(parents=True)
    card, table = (
        [],
        [
            "method,sampler,steps,guidance,named,kid_lite0,fd_lite0,residual,open_heads,distinct_open_heads,attribute_accuracy,seconds_per_image"
        ],
    )
    for i, (method, sampler, steps) in enumerate(METHODS):
        np.save(samples / "evaluation" / f"{method}-{sampler}-{steps}.npy", pairs.images)
        card.append({"method": method, "sampler": sampler, "steps": steps, "guidance": 0.0})
        name = f"{method},{sampler},{steps},0.0"
        table.append(f"{name},all,0.{i + 1},{10 * i + 10},{i + 5},9,{i + 3},0.{i + 1},0.0{steps}")
        table += [
            f"{name},{named},0.{i + named},,{i + 10 - named},{4 - named},{(4 - named) // 2},0.{i + 1}," for named in (1, 2, 4)
        ]
    table += ["real,none,0,0.0,all,-0.001,1,0,9,9,0.99,", "real,autoencoder,0,0.0,all,0.01,2,3.5,9,8,0.97,"]
    (samples / "card.json").write_text(json.dumps(card))
    save_image_grid(tmp_path / "artifacts/train/samples/000000.png", pairs.images, columns=4)
    curves = "update,equilibrium,loss_d,loss_g,r1,std_last\n1,1.38629,1.4,0.7,0.1,\n"
    (tmp_path / "artifacts/train/curves.csv").write_text(curves)
    (tmp_path / "artifacts/train/validation.csv").write_text("update,attribute_accuracy,kid_lite0\n0,0.5,1.5\n")
    (tmp_path / "paper/results").mkdir(parents=True)
    (tmp_path / "paper/results/main.csv").write_text("\n".join(table) + "\n")
    return tmp_path


def drawn(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((folder / "paper/figures").iterdir())}


def test_every_figure_is_written_and_again_the_same_bytes(inputs, settings):
    figures.main(settings)
    first = drawn(inputs)
    assert tuple(first) == FIGURES
    for name in FIGURES:
        picture = np.asarray(Image.open(inputs / "paper/figures" / f"{name}.png").convert("RGB"))
        assert min(picture.shape[:2]) > 100 and picture.std() > 5, name
    figures.main(settings)
    assert drawn(inputs) == first


@pytest.mark.parametrize("name, scale", [("one_step_samples", 6), ("base_against_ufogen", 4), ("training_progress", 4)])
def test_pixel_art_is_enlarged_by_whole_pixels(inputs, settings, name, scale):
    figures.main(settings)
    picture = np.asarray(Image.open(inputs / "paper/figures" / f"{name}.png").convert("RGB"))
    image = np.load("artifacts/data/evaluation/images.npy")[0].repeat(scale, axis=0).repeat(scale, axis=1)
    corner = np.argwhere((picture == image[0, 0]).all(axis=-1))[0]  # text is grey, backgrounds are not
    top, left = corner
    found = picture[top : top + len(image), left : left + len(image)]
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    "path, stage",
    [
        ("artifacts/data/evaluation/captions.json", "prepare"),
        ("artifacts/samples/card.json", "sample"),
        ("artifacts/samples/evaluation/ufogen-renoise-1.npy", "sample"),
        ("artifacts/train/curves.csv", "train"),
        ("artifacts/train/validation.csv", "train"),
        ("artifacts/data/validation/captions.json", "prepare"),
        ("artifacts/train/samples/000000.png", "train"),
        ("paper/results/main.csv", "evaluate"),
    ],
)
def test_a_missing_or_damaged_input_is_named_with_its_stage(inputs, settings, path, stage):
    (inputs / path).write_bytes(b"")
    if not path.endswith("captions.json"):  # the folder is named, not the file
        with pytest.raises(UserError, match=f"{path} cannot be read .*run the stage {stage} again"):
            figures.main(settings)
    (inputs / path).unlink()
    named = path.replace("000000", "*").replace("*", r"\*")
    with pytest.raises(UserError, match=f"{named} not found: run the stage {stage} first"):
        figures.main(settings)
    assert not (inputs / "paper/figures").exists()


def test_rows_of_some_captions_change_no_figure_of_all_images(inputs, settings):
    figures.main(settings)
    first = drawn(inputs)
    path = inputs / "paper/results/main.csv"
    table = pd.read_csv(path)
    table.loc[table["named"] != "all", ["kid_lite0", "residual"]] *= 3
    table.to_csv(path, index=False)
    figures.main(settings)
    again = drawn(inputs)
    assert {name for name in first if again[name] != first[name]} == {"quality_against_openness"}


def test_openness_without_kid_has_a_panel_less(inputs, settings):
    figures.main(settings)
    width = Image.open(inputs / "paper/figures/quality_against_openness.png").width
    path = inputs / "paper/results/main.csv"
    table = pd.read_csv(path)
    table.loc[table["named"] != "all", "kid_lite0"] = None
    table.to_csv(path, index=False)
    figures.main(settings)
    assert Image.open(inputs / "paper/figures/quality_against_openness.png").width < 0.75 * width


def test_curves_without_values_are_an_error(inputs, settings):
    (inputs / "artifacts/train/curves.csv").write_text("update,equilibrium\n1,\n")
    (inputs / "artifacts/train/validation.csv").write_text("update,kid_lite0\n1,\n")
    with pytest.raises(UserError, match="curves are empty: run the stage train"):
        figures.main(settings)


@pytest.fixture
def of_release(inputs) -> Path:
    """The same files as a release leaves them, its table with two draws of noise."""
    (inputs / "artifacts/release/samples").mkdir(parents=True)
    (inputs / "artifacts/samples").rename(inputs / "artifacts/release/samples/0")
    (inputs / "artifacts/train").rename(inputs / "artifacts/release/train")
    table = pd.read_csv(inputs / "paper/results/main.csv").assign(n=3)
    table.to_csv(inputs / "paper/results/main.csv", index=False)
    draws = [table.assign(seed=0), table.assign(seed=1, residual=table["residual"] * 2)]
    pd.concat(draws).to_csv(inputs / "paper/results/release.csv", index=False)
    return inputs


def test_the_release_is_drawn_beside_the_main_chain(of_release, settings):
    release_figures.main(settings)
    found = sorted(path.stem for path in (of_release / "paper/release").iterdir())
    assert found == ["base_against_ufogen", "curves", "one_step_samples", "quality_against_openness", "training_progress"]
    main_rows, release = (pd.read_csv(of_release / f"paper/results/{name}.csv") for name in ("main", "release"))
    mean = release_figures.mean_over_noise(release)
    assert len(mean) == len(main_rows)
    np.testing.assert_allclose(mean["residual"], 1.5 * main_rows["residual"])
    both = release_figures.beside(main_rows, mean)
    residual = both[(both["named"] == "all") & (both["steps"] == 1)].set_index("method")["residual"]
    assert residual["further"] == 1.5 * residual["ufogen"]


def test_a_generator_trained_further_has_a_line_of_its_own(inputs, settings):
    figures.main(settings)
    first = drawn(inputs)
    path = inputs / "paper/results/main.csv"
    table = pd.read_csv(path)
    table = pd.concat([table, table[table["method"] == "ufogen"].assign(method="further")])
    table.to_csv(path, index=False)
    figures.main(settings)
    assert drawn(inputs)["quality_against_openness"] != first["quality_against_openness"]
