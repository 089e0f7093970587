"""The house keeps its shape: one direction of imports, pipelines apart, small modules, and DVC deps that cover the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
# each room imports from itself and from those before it
ROOMS = (
    "errors", "signals", "launch", "files", "randomness", "precision", "schema", "config", "compose", "diffusion",
    "distillation", "training", "base", "data", "evaluation", "applications", "toy", "figures", "inference", "planning",
    "app", "pipelines",
)  # fmt: skip
LONGEST = 300
LONG = {"ufogen.inference.api": "the public class: one method a thing that a user can ask for, most of it documentation"}
# no dep of any stage: they change no result, so that nothing is made again when they change
WITHOUT_EFFECT = {
    "ufogen": "holds nothing",
    "ufogen.errors": "exceptions",
    "ufogen.signals": "how a stage stops",
    "ufogen.files": "how files are written",
    "ufogen.precision": "the precision itself is in the results",
    "ufogen.config": "values are DVC params of their own",
    "ufogen.schema": "as config",
    "ufogen.pipelines": "hold nothing but the stages",
    "ufogen.pipelines.stage": "reads parameters, prints errors",
}
OF_MAIN = ("ufogen.pipelines.release", "ufogen.pipelines.seeds")
CHAINS = [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    paths = {path.relative_to(SRC).with_suffix(""): path for path in sorted(SRC.glob("ufogen/**/*.py"))}
    return {".".join(p.parent.parts if p.name == "__init__" else p.parts): path for p, path in paths.items()}


@cache
def imports(name: str) -> frozenset[str]:
    """The package's modules that a module names in an import, wherever in its text, and in no other way than by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each for each in whole if each in modules()} or {node.module}
    return frozenset(each for each in found if each in modules() and each != name)


def closure(name: str) -> set[str]:
    """A module and all that it imports, directly or not; what has no effect is left out with what it imports."""
    found, ahead = set(), [name]
    while ahead:
        module = ahead.pop()
        if module not in found and not without_effect(module):
            found.add(module)
            ahead += imports(module)
    return found


def without_effect(module: str) -> bool:
    return module in WITHOUT_EFFECT or module.startswith("ufogen.schema.")


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_from_its_own_room_and_those_before_it(name: str):
    if name == "ufogen":  # the door: it opens on the public class
        assert imports(name) == {"ufogen.inference.api"}
        return
    assert room(name) in ROOMS
    allowed = ROOMS[: ROOMS.index(room(name)) + 1]
    assert [each for each in sorted(imports(name)) if room(each) not in allowed] == []


def test_no_module_imports_itself_through_others():
    left = {name: set(imports(name)) for name in modules()}
    while free := {name for name, needed in left.items() if not needed & set(left)}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert left == {}, "these import one another in a circle"


def test_nothing_imports_pipelines_and_a_pipeline_imports_no_other():
    """Two are made of another: the release is the main chain at length, the seeds are it again."""
    wrong = []
    for name in modules():
        own = ".".join(name.split(".")[:3])
        for each in imports(name):
            of_main = own in OF_MAIN and each.startswith("ufogen.pipelines.main.")
            foreign = each != "ufogen.pipelines.stage" and not (each + ".").startswith(own + ".")
            if room(each) == "pipelines" and foreign and not of_main:
                wrong.append(f"{name} imports {each}")
            if room(each) == "pipelines" and room(name) != "pipelines":
                wrong.append(f"{name} imports {each}")
    assert wrong == []


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_can_be_read_in_one_sitting(name: str):
    lines = len(modules()[name].read_text().splitlines())
    assert (lines > LONGEST) == (name in LONG), f"{name} has {lines} lines"


def stages() -> list[tuple[str, dict, Path]]:
    """Every stage of every chain: its name, what it says, and the folder that its paths start from."""
    found = []
    for chain in CHAINS:
        for name, stage in yaml.safe_load(chain.read_text())["stages"].items():
            stage = stage.get("do", stage)
            label = name if chain.parent == ROOT else f"{chain.parent.name}/{name}"
            found.append((label, stage, (chain.parent / stage.get("wdir", ".")).resolve()))
    return found


STAGES = pytest.mark.parametrize("stage, folder", [pytest.param(*rest, id=name) for name, *rest in stages()])


@STAGES
def test_a_stages_deps_cover_what_its_module_imports(stage: dict, folder: Path):
    (module,) = re.findall(r"-m (ufogen\.pipelines[\w.]*)", stage["cmd"])
    assert module in modules()
    deps = [folder / dep for dep in stage["deps"] if "${" not in dep]
    needed = [modules()[name] for name in sorted(closure(module))]
    assert [str(path.relative_to(ROOT)) for path in needed if not {path, *path.parents} & set(deps)] == []


@STAGES
def test_a_stage_names_code_that_is_there_and_that_it_runs(stage: dict, folder: Path):
    """A dep that nothing imports would make a stage run again for nothing."""
    (module,) = re.findall(r"-m (ufogen\.pipelines[\w.]*)", stage["cmd"])
    needed = {modules()[name] for name in closure(module)}
    for dep in (folder / dep for dep in stage["deps"] if dep.startswith("src/")):
        assert dep.exists(), f"{dep} is not there"
        assert any(dep == path or dep in path.parents for path in needed), f"{dep} is not imported"
    assert len(stage["deps"]) == len(set(stage["deps"]))


@STAGES
def test_a_stage_runs_the_code_of_its_own_workspace(stage: dict, folder: Path, tmp_path: Path):
    """As in `dvc exp run --temp`, where the package that is installed is another workspace's."""
    launcher = stage["cmd"].split("-m ufogen")[0]
    for name in ("mine", "installed"):
        (tmp_path / name / "src" / "ufogen").mkdir(parents=True)
        (tmp_path / name / "src" / "ufogen" / "__init__.py").write_text(f"print({name!r})")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(tmp_path / "installed/src")}
    command = f"{launcher} -S -c 'import ufogen'"
    done = subprocess.run(command, shell=True, cwd=tmp_path / "mine", env=environment, capture_output=True, text=True)
    assert done.stdout == "mine\n", done.stderr


def test_compiled_files_are_no_dep():
    """Folders are deps; without this line each run would change them."""
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().split()
