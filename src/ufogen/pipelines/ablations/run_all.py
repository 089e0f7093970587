"""Run every arm of pipelines/ablations/arms.yaml that has no result yet, `processes` of them at a time, one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from omegaconf import OmegaConf
from tqdm import tqdm

from ufogen import config
from ufogen.errors import UserError
from ufogen.pipelines.ablations.paths import ARMS
from ufogen.pipelines.stage import run, stop_children


def main(c: config.Config) -> None:
    """Every run in the order of arms.yaml, and the claims' arms in two dimensions.

    Raises `UserError` with the last line of an arm that failed.
    """
    runs = OmegaConf.to_container(OmegaConf.load(ARMS))["runs"].values()
    with ThreadPoolExecutor(c.processes) as pool:
        futures = [pool.submit(work, "ufogen.pipelines.ablations.toy_arms")]  # the longest first
        for each in runs:
            overrides = f"ablations.arm={each['arm']}", f"seed={each['seed']}"
            futures.append(pool.submit(work, "ufogen.pipelines.ablations.run", *overrides))
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc="arms"):
                future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_children(error)
            raise


def work(module: str, *overrides: str) -> None:
    command = [sys.executable, "-m", module, *overrides, "threads=1"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{' '.join([module, *overrides])} failed: {last}")


if __name__ == "__main__":
    run(main)
