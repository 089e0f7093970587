"""Does any kill leave a trace? `python -m tests.soak [--kills 100] [--minutes 60] [--seed 0]`.

The stages run once undisturbed, with the smoke profile. Then a stage drawn by chance is made anew again and again: it is killed
(SIGKILL, all its processes) at a random moment, started with the same command, killed again, and after a few kills left to end.
What it then has made must be what the undisturbed run made, byte for byte. Prints each kill and the count; ends with status 1
at a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from ufogen.files import sha256

ROOT = Path(__file__).parents[1]
OVERRIDES = (
    "profile=smoke", "device=cpu", "threads=1", "trainer.updates=12", "pretrain.denoiser.checkpoint_every=2",
)  # fmt: skip
TWO = ("ufogen.launch", "--standalone", "--nproc_per_node", "2", "-m")
STAGES = {  # what each runs, and what it makes
    "prepare": (("ufogen.pipelines.main.prepare",), "artifacts/data"),
    "initialize": (("ufogen.pipelines.main.initialize",), "artifacts/base"),
    "encode": (("ufogen.pipelines.main.encode",), "artifacts/encoded"),
    "tune": ((*TWO, "ufogen.pipelines.main.tune"), "artifacts/tuned"),
    "train": ((*TWO, "ufogen.pipelines.main.train"), "artifacts/train"),
    "export": (("ufogen.pipelines.main.export",), "artifacts/ufogen"),
    "sample": (("ufogen.pipelines.main.sample",), "artifacts/samples"),
    "autoencoder": (("ufogen.pipelines.pretrain.autoencoder",), "artifacts/pretrain/vae"),
    "denoiser": (("ufogen.pipelines.pretrain.denoiser",), "artifacts/pretrain/unet"),
    "decoder": (("ufogen.pipelines.pretrain.decoder",), "artifacts/pretrain/decoder"),
}
IN_A_ROW = 4  # kills of a stage before it may end


def start(folder: Path, words: tuple[str, ...]) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "last.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def finish(folder: Path, words: tuple[str, ...]) -> float:
    """Run a command to its end and return its seconds."""
    began = time.monotonic()
    if start(folder, words).wait():
        sys.exit(f"{' '.join(words)} failed:\n{(folder / 'last.log').read_text()[-2000:]}")
    return time.monotonic() - began


def kill(process: subprocess.Popen) -> bool:
    """End a command with all its processes; whether it was still running. torchrun gives each of its own a group."""
    running = process.poll() is None
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family[1:])
    process.wait()
    return running


def prepare(folder: Path) -> None:
    for name in ("models", "node_modules", "package-lock.json", "experiments"):
        (folder / name).symlink_to(ROOT / name)
    for study in ("ablations", "comparison"):
        (folder / "pipelines" / study).mkdir(parents=True)
    finish(folder, ("ufogen.compose", *OVERRIDES))


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


def main(kills: int, minutes: float, seed: int) -> int:
    """Returns the number of differences."""
    rng, done, wrong, deadline = random.Random(seed), Counter(), 0, time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        prepare(folder)
        seconds = {stage: finish(folder, words) for stage, (words, _) in STAGES.items()}
        expected = {stage: contents(folder / made) for stage, (_, made) in STAGES.items()}
        print("undisturbed:", ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items()), flush=True)
        while sum(done.values()) < kills and time.monotonic() < deadline:
            stage = rng.choice(list(STAGES))
            words, made = STAGES[stage]
            shutil.rmtree(folder / made)
            for _ in range(rng.randint(1, min(IN_A_ROW, kills - sum(done.values())))):
                process, moment = start(folder, words), rng.uniform(0, seconds[stage])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(moment)
                if not kill(process):
                    break
                done[stage] += 1
                print(f"{sum(done.values())}: {stage} killed after {moment:.1f} s", flush=True)
            finish(folder, words)
            if contents(folder / made) != expected[stage]:
                wrong += 1
                print(f"{stage} made something else", flush=True)
    by_stage = ", ".join(f"{stage} {count}" for stage, count in sorted(done.items()))
    print(f"{sum(done.values())} kills ({by_stage}), {wrong} differences")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="no kill after these; the stage that was killed still ends")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(bool(main(given.kills, given.minutes, given.seed)))
