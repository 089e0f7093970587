# ruff: noqa: E501
"""Are the formulas guarded? `python -m tests.mutations` breaks one at a time and runs the tests of the method.

Each mutation is a line of schedule, losses, prediction, objective or samplers with a sign, a factor, an index or a square root
changed, in a copy of the sources. It is killed where a test fails. Prints each, and the count.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("tests/diffusion", "tests/training/test_trainer.py")  # the quickest first: the first failure ends a run
MUTATIONS = {
    "schedule": [
        ("betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2", "betas = torch.linspace(start, end, steps, dtype=torch.float64)"),
        ("return cls(torch.cumprod(1 - betas, 0))", "return cls(torch.cumprod(1 + betas, 0).reciprocal())"),
        ("value = value / (1 - value)", "value = (1 - value) / value"),
        ("return 1 - self.alpha_bar(t) / self.alpha_bar(s)", "return 1 - self.alpha_bar(s) * self.alpha_bar(t)"),
        ("return Gaussian(alpha_bar.sqrt() * x_0, 1 - alpha_bar)", "return Gaussian(alpha_bar * x_0, 1 - alpha_bar)"),
        ("return Gaussian(alpha_bar.sqrt() * x_0, 1 - alpha_bar)", "return Gaussian(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt())"),
        ("return Gaussian((1 - beta).sqrt() * x_s, beta)", "return Gaussian((1 - beta) * x_s, beta)"),
        ("return Gaussian((1 - beta).sqrt() * x_s, beta)", "return Gaussian((1 - beta).sqrt() * x_s, 1 - beta)"),
        ("return self.mean + self.variance.sqrt() * noise", "return self.mean + self.variance * noise"),
        ("remaining = (1 - alpha_bar_s) / (1 - alpha_bar_t)", "remaining = (1 - alpha_bar_t) / (1 - alpha_bar_s)"),
        ("return alpha_bar_s.sqrt() * beta / (1 - alpha_bar_t), ", "return alpha_bar_t.sqrt() * beta / (1 - alpha_bar_t), "),
        ("(1 - beta).sqrt() * remaining, beta * remaining", "(1 - beta) * remaining, beta * remaining"),
        ("(1 - beta).sqrt() * remaining, beta * remaining", "(1 - beta).sqrt() * remaining, beta"),
        ("return Schedule(self._table[: timestep + 1])", "return Schedule(self._table[:timestep])"),
        ("table = -0.5 * self._table[:-1].logit()", "table = -self._table[:-1].logit()"),
        ("torch.ones(1, dtype=torch.float64)])  # [-1] is clean", "alpha_bar[:1]])"),
    ],
    "losses": [
        ("return F.relu(1 - real).mean() + F.relu(1 + fake).mean()", "return F.relu(1 - real).mean() + F.relu(1 - fake).mean()"),
        ("real, fake = real.clamp(max=CLAMP), fake.clamp(min=-CLAMP)", "real, fake = real.clamp(max=CLAMP), fake.clamp(max=CLAMP)"),
        ("return F.softplus(-real).mean() + F.softplus(fake).mean()", "return F.softplus(-real).mean() + F.softplus(-fake).mean()"),
        ("return F.softplus(-fake).mean()", "return -F.softplus(fake).mean()"),
        ("return F.softplus(fake - real).mean()", "return F.softplus(real - fake).mean()"),
        ("return F.softplus(real - fake).mean()", "return F.softplus(fake - real).mean()"),
        ("(target - prediction).square()", "(target - prediction).abs()"),
        ("return snr.clamp(min=1) if kind", "return snr.clamp(max=1) if kind"),
        ("return (1 - beta) / (2 * beta)", "return (1 - beta) / beta"),
        ("return (1 - beta) / (2 * beta)", "return 1 / (2 * beta)"),
        ("penalty = 0.5 * gradient.square()", "penalty = gradient.square()"),
        ("decision = logits.flatten(1).mean(dim=1).sum()", "decision = logits.flatten(1).sum(dim=1).sum()"),
    ],
    "prediction": [
        ("return (x_t - noise * output) / signal", "return (x_t + noise * output) / signal"),
        ("return (x_t - noise * output) / signal", "return (x_t - noise * output) / signal.square()"),
        ("return signal * x_t - noise * output", "return signal * x_t + noise * output"),
        ("return signal * x_t - noise * output", "return noise * x_t - signal * output"),
        ("return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0", "return alpha_bar.sqrt() * x_0 - (1 - alpha_bar).sqrt() * noise"),
    ],
    "objective": [
        ("p = schedule.q(x_0_fake, s) if", "p = schedule.q(x_0_fake, t) if"),
        ('if parameterization == "forward" else', 'if parameterization != "forward" else'),
        ("schedule.posterior(x_0_fake, x_t, t, s)", "schedule.posterior(x_t, x_0_fake, t, s)"),
        ("x_s = self.schedule.q(x_0, s).sample(draws.normal(x_0))", "x_s = self.schedule.q(x_0, t).sample(draws.normal(x_0))"),
        ("q_t = self.schedule.q_step(x_s, s, t)", "q_t = self.schedule.q_step(x_0, s, t)"),
        ('if o.coupling == "chained" else', 'if o.coupling != "chained" else'),
        ("return t, (t - k).clamp(min=CLEAN)", "return t, (t - k + 1).clamp(min=CLEAN)"),
        ("return t, (t - k).clamp(min=CLEAN)", "return t, (t - k).clamp(min=0)"),
        ("draws.uniform(n) < o.entry_share, last, t)", "draws.uniform(n) < o.entry_share, t, last)"),
        ("t = draws.integers(o.minimum_timestep, last + 1, n)", "t = draws.integers(o.minimum_timestep, last, n)"),
        ("self.schedule.nearest(o.s_log_sigma_mean + o.s_log_sigma_std", "self.schedule.nearest(o.s_log_sigma_mean - 1 + o.s_log_sigma_std"),
        ("gamma.where(~items.pure, 0)", "gamma.where(items.pure, 0)"),
        ("self.settings.reconstruction_weight * reconstruction", "reconstruction"),
        ("total = total + weight * o.r1_interval * penalty", "total = total + weight * penalty"),
        ('("r2", o.r2_weight, fakes(items, x_s_fake), items.caption_fake)', '("r2", o.r2_weight, items.x_s, items.caption_fake)'),
        ("torch.cat([items.x_s, fakes(items, x_s_fake)])", "torch.cat([fakes(items, x_s_fake), items.x_s])"),
        ("_of_items(items.mismatched, x_s_fake), items.x_s, x_s_fake)", "_of_items(items.mismatched, x_s_fake), x_s_fake, items.x_s)"),
        ("step % self.settings.r1_interval == 0", "step % self.settings.r1_interval == 1"),
    ],
    "sampling": [
        ("np.floor(np.linspace(0, num_timesteps, steps, endpoint=False))", "np.floor(np.linspace(0, num_timesteps, steps))"),
        ("return [num_timesteps - 1 - i for", "return [num_timesteps - 2 - i for"),
        ("pairwise([*at, CLEAN])", "pairwise([*at, 0])"),
        ("output = unconditional + guidance * (conditional - unconditional)", "output = conditional + guidance * (conditional - unconditional)"),
        ("output = unconditional + guidance * (conditional - unconditional)", "output = unconditional - guidance * (conditional - unconditional)"),
        ("guided = guidance > 1", "guided = guidance >= 1"),
        ('extra = {"set_alpha_to_one": True} if solver == "ddim" else {}', 'extra = {"set_alpha_to_one": False} if solver == "ddim" else {}'),
    ],
}  # fmt: skip


def main() -> None:
    cases = [(module, *change) for module, changes in MUTATIONS.items() for change in changes]
    for module, old, _ in cases:
        assert old in source(module).read_text(), f"{module}: {old}"
    with ThreadPoolExecutor(int(sys.argv[1]) if len(sys.argv) > 1 else 2) as pool:
        killed = []
        for (module, old, new), dead in zip(cases, pool.map(lambda case: is_killed(*case), cases), strict=True):
            killed.append(dead)
            print(f"{len(killed)} {'killed' if dead else 'SURVIVES'}: {module}: {old} -> {new}", flush=True)
    print(f"{sum(killed)} of {len(cases)} mutations killed")


def source(module: str, root: Path = ROOT) -> Path:
    return root / "src/ufogen/diffusion" / f"{module}.py"


def is_killed(module: str, old: str, new: str) -> bool:
    """Whether a test of a copy of the repository with this change fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests", "params.yaml", "pyproject.toml", "experiments", "paper", "pipelines"):
            place = ROOT / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, copy / name)
        for name in ("node_modules", "models"):
            (copy / name).symlink_to(ROOT / name)
        path = source(module, copy)
        path.write_text(path.read_text().replace(old, new, 1))
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr  # anything else is no verdict
        return done.returncode == 1


if __name__ == "__main__":
    main()
