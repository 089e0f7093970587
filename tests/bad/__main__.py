"""`python -m tests.bad [--every N] [WORD]`: run the cases whose name has the word, list what is wrong, print the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests import conftest as conftest  # the environment is set before torch is imported
from tests.bad.cases import cases
from tests.bad.files import FULL, full
from tests.bad.harness import Case, full_disk, template, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--handled", action="store_true", help="list what is handled too")
    asked = parser.parse_args()
    chosen = [case for case in (*cases(), *full()) if asked.word in str(case)][:: asked.every]
    with tempfile.TemporaryDirectory() as folder, full_disk(Path(folder) / "small") as mounted:
        if not mounted:
            print(f"no {FULL}: a small file system cannot be mounted here")
            chosen = [case for case in chosen if case.kind != FULL]
        counts = run(chosen, Path(folder), asked.handled)
    print("| kind of input | tried | refused in one line | handled | wrong |\n| --- | --- | --- | --- | --- |")
    counts["all"] = sum(counts.values(), Counter())
    for kind, found in counts.items():
        print(f"| {kind} | {found.total()} | {found['refused']} | {found['handled']} | {found['wrong']} |")
    return int(counts["all"]["wrong"] > 0)


def run(chosen: list[Case], folder: Path, listed: bool) -> dict[str, Counter[str]]:
    """How often each kind had which verdict."""
    whole, counts = template(folder / "template"), {}
    for case in chosen:
        found = verdict(case, whole, folder / ("small/place" if case.kind == FULL else "place"))
        well = found in ("refused", "handled")
        counts.setdefault(case.kind, Counter())[found if well else "wrong"] += 1
        if not well:
            print(f"WRONG {case}: {' '.join(found.split())[:300]}", flush=True)
        elif listed and found == "handled":
            print(f"handled {case}", flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(main())
