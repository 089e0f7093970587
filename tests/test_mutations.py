"""Each mutation of tests/mutations.py changes one place in the sources, so that the count of those killed means something."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, source

CASES = [(module, old, new) for module, changes in MUTATIONS.items() for old, new in changes]


@pytest.mark.parametrize(("module", "old", "new"), CASES)
def test_mutation_changes_one_place(module: str, old: str, new: str):
    text = source(module).read_text()
    assert text.count(old) == 1 and old != new
    compile(text.replace(old, new), module, "exec")
