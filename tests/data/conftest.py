from pathlib import Path

import numpy as np
import pytest

from ufogen.data.nouns import Nouns

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def node_modules() -> Path:
    return ROOT / "node_modules"


@pytest.fixture(scope="session")
def nouns(node_modules) -> Nouns:
    return Nouns.load(node_modules)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
