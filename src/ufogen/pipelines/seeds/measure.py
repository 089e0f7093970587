"""Sample and measure a generator trained with another seed, on the main chain's prompts."""

from __future__ import annotations

from ufogen import config
from ufogen.evaluation.evaluator import COLUMNS
from ufogen.pipelines.main.evaluate import measured
from ufogen.pipelines.main.sample import sample
from ufogen.pipelines.seeds.paths import TABLES, of_seed
from ufogen.pipelines.stage import run, table, write_results


def main(c: config.Config) -> None:
    """Write paper/results/seeds/SEED.csv: UFOGen's rows, in the columns of main.csv; noise too has that seed."""
    trained, samples = of_seed(c.seed, "train"), of_seed(c.seed, "samples")
    sample(c, trained, samples, base=False)
    rows = [row for row in measured(c, trained, samples) if row["method"] == "ufogen"]
    write_results(TABLES, {f"{c.seed}.csv": table(rows, COLUMNS)})


if __name__ == "__main__":
    run(main)
