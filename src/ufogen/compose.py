"""Compose experiments/ into what the stages read: params.yaml, and the arms of both studies, pipelines/*/arms.yaml.

`python -m ufogen.compose [OVERRIDE ...]`, for example `profile=gpu`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from ufogen import config
from ufogen.errors import UserError, refuse
from ufogen.files import write_together

EXPERIMENTS = Path("experiments")
ALLOWED = "KEY=VALUE, as in profile=gpu or trainer.updates=100"
MAIN_ALONE = re.compile(r"[+~]{0,2}(objective|trainer)[.=]")
HEADER = "# Written by `python -m ufogen.compose` from experiments/{}: one file an arm, one run a seed.\n"


def parameters(overrides: list[str]) -> dict:
    """What params.yaml holds. Raises `UserError` for an override that cannot be composed; values are not looked at."""
    if not (EXPERIMENTS / "config.yaml").is_file():
        raise UserError(f"{EXPERIMENTS}/config.yaml not found: run from the root of the repository, which pip does not install")
    try:
        with initialize_config_dir(str(EXPERIMENTS.resolve()), version_base=None):
            return OmegaConf.to_container(compose("config", overrides=overrides), resolve=True, throw_on_missing=True)
    except Exception as error:  # hydra's, its parser's and OmegaConf's exceptions share no base class
        raise UserError(_line(error, overrides)) from error


def arms(overrides: list[str]) -> dict:
    """What pipelines/ablations/arms.yaml holds: `runs`, {NAME-SEED: its arm and seed}, and each arm's own sections.

    Overrides of the main chain's objective and trainer do not reach the arms, which pin theirs. Arms with more seeds come
    first, and of those one seed after another, so that a study that is stopped has whole pairs.
    """
    found = {}
    overrides = [override for override in overrides if not MAIN_ALONE.match(override)]
    for path in sorted((EXPERIMENTS / "ablation").glob("[!.]*.yaml")):
        tree = parameters([*overrides, f"+ablation={path.stem}"])
        found[path.stem] = tree["ablation"] | {"objective": tree["objective"], "trainer": tree["trainer"]}
    return _with_runs(found)


def compared(overrides: list[str]) -> dict:
    """What pipelines/comparison/arms.yaml holds, as `arms`: each has a trainer, and an objective or a distillation."""
    found = {}
    for path in sorted((EXPERIMENTS / "distillation").glob("*.yaml")):
        tree = parameters([*overrides, f"+distillation={path.stem}"])
        kind = "distillation" if "distillation" in tree else "objective"
        found[path.stem] = tree["compared"] | {kind: tree[kind], "trainer": tree["trainer"]}
    return _with_runs(found)


def _with_runs(found: dict[str, dict]) -> dict:
    runs = [(-arm["seeds"], seed, name) for name, arm in found.items() for seed in range(arm["seeds"])]
    return {"runs": {f"{name}-{seed}": {"arm": name, "seed": seed} for _, seed, name in sorted(runs)}, "arms": found}


def main(overrides: list[str]) -> None:
    """Write the files. Raises `UserError`, before anything is written, for a value that the schema does not allow."""
    values = parameters(overrides)
    config.build(config.Config, values)
    studies = {("ablations", "ablation"): arms(overrides), ("comparison", "distillation"): compared(overrides)}
    for found in studies.values():
        for name, arm in found["arms"].items():
            if "objective" in arm:
                config.build(config.Objective, arm["objective"], f"arms.{name}.objective.")
            if "distillation" in arm:
                config.build_distillation(arm["distillation"], f"arms.{name}.distillation.")
            config.build(config.Trainer, arm["trainer"], f"arms.{name}.trainer.")
    texts = {Path("params.yaml"): OmegaConf.to_yaml(OmegaConf.create(values))}
    for (study, group), found in studies.items():
        texts[Path(f"pipelines/{study}/arms.yaml")] = HEADER.format(group) + OmegaConf.to_yaml(OmegaConf.create(found))
    write_together({path: text.encode() for path, text in texts.items()})


def _line(error: Exception, overrides: list[str]) -> str:
    """A complaint of hydra's in one line that names the key, the value and what is allowed."""
    first = str(error).splitlines()[0]
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = error.missing_cfg_file.partition("/")
        return f"parameter {group} is {value!r}; allowed: {', '.join(error.options)}"
    if isinstance(error, ConfigCompositionException) and (key := re.match(r"Could not override '([^']+)'", first)):
        return config.unknown(config.Config, key[1].split("."))
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"parameter {error.full_key} is missing; allowed: {config.allowed_at(config.Config, error.full_key.split('.'))}"
    return f"parameters {' '.join(map(repr, overrides))} cannot be composed: {first}; allowed: {ALLOWED}"


def command(arguments: list[str]) -> None:
    """The command line; what goes wrong is one line."""
    parser = argparse.ArgumentParser(prog="python -m ufogen.compose", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=ALLOWED)
    given, unknown = parser.parse_known_args(arguments)
    try:
        main([*given.overrides, *unknown])
    except UserError as error:
        refuse(error)
    except OSError as error:
        sys.exit(f"error: cannot write {error.filename}: {error.strerror}")


if __name__ == "__main__":
    command(sys.argv[1:])
