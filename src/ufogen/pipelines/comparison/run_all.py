"""Run every arm of pipelines/comparison/arms.yaml that has no result yet, `processes` of them at a time, one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from omegaconf import OmegaConf
from tqdm import tqdm

from ufogen import config
from ufogen.errors import UserError
from ufogen.pipelines.comparison.paths import ARMS
from ufogen.pipelines.stage import run, stop_children


def main(c: config.Config) -> None:
    """Every run in the order of arms.yaml. Raises `UserError` with the last line of an arm that failed."""
    runs = OmegaConf.to_container(OmegaConf.load(ARMS))["runs"].values()
    with ThreadPoolExecutor(c.processes) as pool:
        futures = [pool.submit(work, f"comparison.arm={each['arm']}", f"seed={each['seed']}") for each in runs]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc="arms"):
                future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_children(error)
            raise


def work(*overrides: str) -> None:
    command = [sys.executable, "-m", "ufogen.pipelines.comparison.run", *overrides, "threads=1"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the comparison's run {' '.join(overrides)} failed: {last}")


if __name__ == "__main__":
    run(main)
