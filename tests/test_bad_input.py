"""Every seventh of the generated cases of bad input: one line or a result; no traceback, half an output or changed input.

`python -m tests.bad` runs all of them and writes the table of docs/troubleshooting.md.
"""

from __future__ import annotations

import pytest

from tests.bad.cases import cases
from tests.bad.files import full
from tests.bad.harness import full_disk, template, verdict

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WELL = ("refused", "handled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return template(tmp_path_factory.mktemp("bad") / "template")


@pytest.mark.parametrize("case", cases()[::7], ids=str)
def test_bad_input_is_one_line_or_is_handled(case, whole, tmp_path):
    assert verdict(case, whole, tmp_path / "place") in WELL


def test_full_disk_is_one_line(whole, tmp_path):
    with full_disk(tmp_path / "small") as mounted:
        if not mounted:
            pytest.skip("a small file system cannot be mounted here")
        found = {str(case): verdict(case, whole, tmp_path / "small/place") for case in full()}
    assert {name: said for name, said in found.items() if said not in WELL} == {}
