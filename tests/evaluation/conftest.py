from pathlib import Path

import numpy as np
import pytest

from ufogen.data.nouns import Nouns

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def nouns() -> Nouns:
    return Nouns.load(ROOT / "node_modules")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
