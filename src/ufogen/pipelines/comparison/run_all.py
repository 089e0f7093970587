"""Run every arm of pipelines/comparison/arms.yaml that has no result yet, `processes` of them at a time, one thread each."""

from __future__ import annotations

from omegaconf import OmegaConf

from ufogen import config
from ufogen.pipelines.comparison.paths import ARMS
from ufogen.pipelines.stage import run, run_side_by_side


def main(c: config.Config) -> None:
    """Every run in the order of arms.yaml. Raises `UserError` with the last line of an arm that failed."""
    commands = {}
    for each in OmegaConf.to_container(OmegaConf.load(ARMS))["runs"].values():
        overrides = f"comparison.arm={each['arm']}", f"seed={each['seed']}"
        commands[f"the comparison's run {' '.join(overrides)}"] = ("ufogen.pipelines.comparison.run", *overrides)
    run_side_by_side(commands, c.processes)


if __name__ == "__main__":
    run(main)
