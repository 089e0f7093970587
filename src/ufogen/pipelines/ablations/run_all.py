"""Run every arm of pipelines/ablations/arms.yaml that has no result yet, `processes` of them at a time, one thread each."""

from __future__ import annotations

from omegaconf import OmegaConf

from ufogen import config
from ufogen.pipelines.ablations.paths import ARMS
from ufogen.pipelines.stage import run, run_side_by_side


def main(c: config.Config) -> None:
    """Every run in the order of arms.yaml, and the claims' arms in two dimensions.

    Raises `UserError` with the last line of an arm that failed.
    """
    commands = [("ufogen.pipelines.ablations.toy_arms",)]  # the longest first
    for each in OmegaConf.to_container(OmegaConf.load(ARMS))["runs"].values():
        commands.append(("ufogen.pipelines.ablations.run", f"ablations.arm={each['arm']}", f"seed={each['seed']}"))
    run_side_by_side({" ".join(command): command for command in commands}, c.processes)


if __name__ == "__main__":
    run(main)
