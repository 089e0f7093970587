"""Measures that need no feature network, since every real image is known: distance to it, named parts, variety of open ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ufogen.data.nouns import COUNTS, KINDS, Nouns
from ufogen.errors import UserError
from ufogen.evaluation.alignment import match_parts
from ufogen.evaluation.coverage import bits, coverage, distinct, estimated_shares
from ufogen.randomness import numpy_generator

# keys of `exact_measures`, as tables show them
EXACT = (
    "residual", "residual_head_named", "residual_head_open", "open_heads", "distinct_open_heads", "head_bits",
    "attribute_accuracy",
)  # fmt: skip
HEAD = KINDS.index("head")
_RESAMPLES = 400  # of the standard errors that have no formula: these are then sure to 4 %


@dataclass(frozen=True)
class Reading:
    """What n images show and what their captions ask for.

    Attributes
    ----------
    shown: (n, 5) int64, the parts of the nearest character, in the order of `KINDS`.
    residual: (n,) float64, root mean square distance to it in grey levels.
    parts, mentioned: (n, 5) integers and bool, what the caption is about and what of it is named.
    """

    shown: np.ndarray
    residual: np.ndarray
    parts: np.ndarray
    mentioned: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(n, 5) bool: named and shown."""
        return (self.shown == self.parts) & self.mentioned

    @property
    def named(self) -> np.ndarray:
        """(n,) how many attributes each caption names."""
        return self.mentioned.sum(1)

    def where(self, rows: np.ndarray) -> Reading:
        """The images of `rows`, an index or a mask."""
        return Reading(self.shown[rows], self.residual[rows], self.parts[rows], self.mentioned[rows])


def read(images: np.ndarray, parts: np.ndarray | None, mentioned: np.ndarray | None, nouns: Nouns) -> Reading:
    """Match images (n, 32, 32, 3) uint8 once for all exact measures; 2.4 ms of a core an image. Raises as `match_parts`."""
    if parts is None:
        raise UserError("parameter data.source: what pictures show and captions name is known of nouns alone")
    return Reading(*match_parts(images, nouns, parts, mentioned), parts, mentioned)


def by_named(mentioned: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """`all` and each number of attributes that a caption names, with its rows (n,) bool; only numbers that occur."""
    yield "all", np.ones(len(mentioned), bool)
    named = mentioned.sum(1)
    for number in np.unique(named):
        yield str(number), named == number


def exact_measures(reading: Reading) -> dict[str, float]:
    """The columns `EXACT`; one that no image decides is left out.

    Returns
    -------
    residual: mean distance in grey levels to the nearest real character; `_head_named` and `_head_open` are the means over
        the images whose caption names the head and leaves it open.
    open_heads: how many captions leave the head open.
    distinct_open_heads, head_bits: how many heads their images show, and the entropy of these heads; `coverage` has what
        equally many real images would show.
    attribute_accuracy: the share of all named attributes that are shown (`alignment.attribute_accuracy`).
    """
    head_named = reading.mentioned[:, HEAD]
    heads = _heads(reading)
    found = {
        "residual": _mean(reading.residual),
        "residual_head_named": _mean(reading.residual[head_named]),
        "residual_head_open": _mean(reading.residual[~head_named]),
        "open_heads": int(heads.sum()),
        "distinct_open_heads": int(distinct(heads)),
        "head_bits": float(bits(heads)) if heads.any() else None,
        "attribute_accuracy": _mean(reading.correct[reading.mentioned]),
    }
    return {name: value for name, value in found.items() if value is not None}


def accuracy_by_kind(reading: Reading) -> dict[str, float]:
    """For each kind that a caption names the share of images that show it."""
    found = {kind: _mean(reading.correct[reading.mentioned[:, i], i]) for i, kind in enumerate(KINDS)}
    return {kind: value for kind, value in found.items() if value is not None}


def exact_details(reading: Reading, seed: int) -> dict[str, dict]:
    """What stands beside a table's row: accuracy and coverage of each kind, and how noisy the row's columns are."""
    return {
        "accuracy_by_kind": accuracy_by_kind(reading),
        "coverage": coverage(reading.shown, reading.mentioned),
        "standard_error": standard_errors(reading, seed),
    }


def standard_errors(reading: Reading, seed: int) -> dict[str, float]:
    """Standard errors of `exact_measures` over other prompts and noise, for one generator; what more than one image decides.

    Means have a formula. For the open heads as many are drawn from `estimated_shares`: images drawn again with replacement
    would never show a new head, and give the number of distinct ones half its noise where a generator draws a few often.

    seed: of these draws.
    """
    head_named = reading.mentioned[:, HEAD]
    found = {
        "residual": ratio_error(reading.residual),
        "residual_head_named": ratio_error(reading.residual[head_named]),
        "residual_head_open": ratio_error(reading.residual[~head_named]),
        "attribute_accuracy": ratio_error(reading.correct.sum(1), reading.named),
    }
    heads = _heads(reading)
    if heads.sum() > 1:
        rng = numpy_generator(seed, "standard error of open heads")
        again = rng.multinomial(heads.sum(), estimated_shares(heads), _RESAMPLES)
        found |= {"distinct_open_heads": float(distinct(again).std(ddof=1)), "head_bits": float(bits(again).std(ddof=1))}
    return {name: value for name, value in found.items() if value is not None}


def ratio_error(values: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Standard error of sum(values) / sum(weights), weights being 1 by default: of a mean where one image gives several values.

    values, weights: (n,) of independent images. None for fewer than two of them, or no weight.
    """
    weights = np.ones(len(values)) if weights is None else weights
    n, total = len(values), weights.sum()
    if n < 2 or not total:
        return None
    rest = values - weights * values.sum() / total
    return float(np.sqrt(n / (n - 1) * (rest**2).sum()) / total)


def _heads(reading: Reading) -> np.ndarray:
    """(254,) how often each head is shown where the caption leaves it open."""
    return np.bincount(reading.shown[~reading.mentioned[:, HEAD], HEAD], minlength=COUNTS["head"])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
