"""README and docs/ name files, commands and numbers that are there."""

from __future__ import annotations

import csv
import json
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ufogen.app import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "models").glob("*/README.md"))
MADE = ("artifacts/", "paper/runs/", "datasets/", "annotations/", "val2017/")  # folders that a run makes or the user brings
EXAMPLES = {"k_333.yaml"}  # what the reader is told to write
FILE = re.compile(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+\.(md|py|ya?ml|toml|json|csv|png|ipynb|cff|lock)")
COMMAND = re.compile(r"\s*(make|dvc|python|torchrun|accelerate|ufogen)\s")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> list[str]:
    """Fenced code that is shell (no language is named)."""
    return re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S)


def spans(page: Path) -> list[str]:
    """Code between single backquotes outside of fenced code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S))


def commands(page: Path) -> list[list[str]]:
    """Every command of a page, word by word, without its comment."""
    lines = [line for block in blocks(page) for line in block.splitlines()] + spans(page)
    return [shlex.split(line, comments=True) for line in lines if COMMAND.match(line + " ")]


def all_commands(name: str) -> list:
    """The commands of all pages that call `name`, each with its page."""
    found = [(page, words) for page in PAGES for words in commands(page) if words[0] == name]
    assert found, f"no page names a command of {name}: the pattern has gone stale"
    return [pytest.param(page, words, id=f"{page.stem}: {' '.join(words)}") for page, words in found]


@cache
def stages(file: Path) -> set[str]:
    """The names of a dvc.yaml's stages; one of a foreach also as NAME@KEY, with keys of the file itself or of params.yaml."""
    names = set()
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in yaml.safe_load(file.read_text())["stages"].items():
        names.add(name)
        keys = stage.get("foreach", stage.get("matrix", ()))
        if isinstance(keys, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", keys)):
            keys = parameters
            for part in reference[1].split("."):
                keys = keys.get(part, {}) if isinstance(keys, dict) else {}
        names |= {f"{name}@{key}" for key in keys}
    return names


def test_pages_are_found():
    assert {"README.md", "ablations.md", "trials.md", "toy.md", "scaling.md", "troubleshooting.md"} <= {p.name for p in PAGES}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9216


@every_page
def test_relative_links_lead_somewhere(page):
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://|#|mailto:", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{text}: {target}"


@every_page
def test_files_named_exist(page):
    """A path in code, from the root of the repository or from the page; not one that a run makes, nor an example's own."""
    for span in spans(page):
        if FILE.fullmatch(span) and not span.startswith(MADE) and Path(span).name not in EXAMPLES:
            assert (ROOT / span).exists() or (page.parent / span).exists() or named_in_package(span), span


def named_in_package(span: str) -> bool:
    """`data/` in a list of folders of the package, or `claims.yaml` in one of paper/."""
    return any((ROOT / folder / span).exists() for folder in ("src/ufogen", "paper", "experiments/accelerate"))


@pytest.mark.parametrize("page, words", all_commands("make"))
def test_make_targets_exist(page, words):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert words[1] in targets


@pytest.mark.parametrize("page, words", all_commands("dvc"))
def test_dvc_commands_name_stages_and_parameters(page, words):
    if tuple(words[1:3]) in {
        ("exp", "show"),
        ("metrics", "diff"),
        ("plots", "show"),
        ("cache", "dir"),
        ("config", "cache.type"),
    }:
        return
    assert words[1] == "repro" or words[1:3] == ["exp", "run"]
    arguments = words[2:] if words[1] == "repro" else words[3:]
    while arguments:
        first, *arguments = arguments
        if first == "-S":
            check_override(arguments.pop(0))
        elif not first.startswith("-"):
            check_target(first)


def check_target(target: str) -> None:
    """STAGE, FILE or FILE:STAGE."""
    file, _, stage = (
        target.rpartition(":") if ":" in target else (target, "", "") if "/" in target else ("dvc.yaml", "", target)
    )
    assert (ROOT / file).is_file(), target
    assert not stage or stage in stages(ROOT / file), target


def check_override(override: str) -> None:
    """GROUP=FILE of experiments/, or KEY=VALUE of the parameters of any of its compositions."""
    key, value = override.split("=", 1)
    if (ROOT / "experiments" / key).is_dir():
        assert (ROOT / "experiments" / key / f"{value}.yaml").is_file(), override
        return
    node = yaml.safe_load((ROOT / "params.yaml").read_text())
    for part in key.split("."):
        assert part in node, override
        node = node[part]


@every_page
def test_modules_named_can_be_imported(page):
    for words in commands(page):
        for flag, module in zip(words, words[1:], strict=False):
            if flag == "-m" and words[0] != "make":
                assert find_spec(module), module
            if flag == "--config_file":
                assert (ROOT / module).is_file(), module


@pytest.mark.parametrize("page, words", all_commands("ufogen"))
def test_command_line_knows_the_command_and_its_options(page, words, capsys):
    subcommand = [word for word in words[1:2] if not word.startswith("-")]
    with pytest.raises(SystemExit) as end:
        cli.main([*subcommand, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in words[1:]:
        if option.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(option)}\b", text), option


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_the_base_is_called_base_model(page):
    assert not re.search("teacher", page.read_text(), re.I)


ROWS = {
    "trained further": ("trained further",),
    "UFOGen": ("ufogen", "renoise"),
    "base model": ("base", "dpm++"),
    "real images through the autoencoder": ("real", "autoencoder"),
}
COLUMNS = {  # of the README's table: column of main.csv, unit, format
    "KID-Lite0": ("kid_lite0", 1, ".3f"),
    "recall": ("recall", 1, ".3f"),
    "residual": ("residual", 1, ".1f"),
    "open heads": ("distinct_open_heads", 1, ".0f"),
    "attributes": ("attribute_accuracy", 1, ".3f"),
    "ms per image": ("seconds_per_image", 1000, ".1f"),
}


def test_readme_shows_the_measured_numbers():
    """Each row of its table is a row of main.csv, or the mean of those of release.csv, rounded."""
    with (ROOT / "paper/results/main.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("named", "all") == "all"]
    results = {(row["method"], row["sampler"], int(row["steps"])): row for row in rows}
    further = pd.read_csv(ROOT / "paper/results/release.csv").query("named == 'all' and method == 'ufogen'")
    for steps, row in further.groupby("steps").mean(numeric_only=True).iterrows():
        results["trained further", steps] = row.to_dict() | {"seconds_per_image": ""}  # of another processor
    section = (ROOT / "README.md").read_text().split("## Results")[1].split("\n## ")[0]
    header, _, *lines = [
        [cell.strip(" ↑↓") for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
    ]
    assert len(lines) == 9
    for first, *cells in lines:
        name, _, steps = first.partition(", ")
        row = results[(*ROWS[name], int(steps or 0))]
        for column, cell in zip(header[1:], cells, strict=True):
            key, unit, form = COLUMNS[column]
            assert cell == (format(unit * float(row[key]), form) if row[key] else ""), (first, column)


@pytest.mark.parametrize("claim", json.loads((ROOT / "paper/results/claims.json").read_text()), ids=lambda claim: claim["id"])
def test_ablations_page_shows_the_computed_verdicts(claim):
    digits = 2 if claim["study"] == "nouns" else 3
    effect, low, high = (f"{value:+.{digits}f}" for value in (claim["effect"], *claim["interval"]))
    verdict = claim["verdict"] if claim["verdict"] == "inconclusive" else f"**{claim['verdict']}**"
    row = f"| {claim['statement']} ({claim['certainty']}) | {effect} ({low} ... {high}) | {claim['seeds']} | {verdict} |"
    assert row in (ROOT / "docs/ablations.md").read_text()
