"""Coverage: how many of the parts that a caption leaves open does a set of images show, and how evenly?

How often each part occurs in real images is known, so what equally many real images would show is computed exactly.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from ufogen.data.nouns import COUNTS, KINDS, heldout_pairs


def part_shares(kind: str) -> np.ndarray:
    """(parts,) float64: the share of each part of `kind` in images of training and evaluation, as `Nouns.sample` draws them.

    Heads and glasses are not quite uniform: some of their pairs are held out, more of one head than of another.
    """
    if kind not in ("head", "glasses"):
        return np.full(COUNTS[kind], 1 / COUNTS[kind])
    allowed = ~heldout_pairs()  # (heads, glasses)
    return allowed.sum(1 if kind == "head" else 0) / allowed.sum()


def distinct(counts: np.ndarray) -> int:
    """How many of the parts occur; counts (..., parts) give (...)."""
    return (counts > 0).sum(-1)


def bits(counts: np.ndarray) -> np.ndarray:
    """Entropy in bits of the shares of counts (..., parts), which are not all 0; at most log2 of parts and of the images.

    Lower for few images, however the parts are distributed: compare with `expected_bits` for as many.
    """
    n = counts.sum(-1)
    return np.log2(n) - (counts * np.log2(np.maximum(counts, 1))).sum(-1) / n


def expected_distinct(shares: np.ndarray, n: int) -> float:
    """Mean of `distinct` for n independent draws with probabilities `shares` (parts,): the sum of 1 - (1 - p)^n."""
    return float((1 - (1 - shares) ** n).sum())


def expected_bits(shares: np.ndarray, n: int) -> float:
    """Mean of `bits` for n >= 1 independent draws with probabilities `shares` (parts,), exactly: each count is binomial."""
    distinct_shares, times = np.unique(shares, return_counts=True)
    k = np.arange(1, n + 1)
    terms = binom.pmf(k, n, distinct_shares[:, None]) * k * np.log2(k)  # (distinct shares, n)
    return float(np.log2(n) - times @ terms.sum(1) / n)


def estimated_shares(counts: np.ndarray) -> np.ndarray:
    """(parts,) the probabilities behind counts, not all 0: seen parts by their counts, the others share what is missing.

    The probability of all that has not been seen is the share of images whose part occurs once (Good 1953, Biometrika 40).
    """
    n, unseen = counts.sum(), counts == 0
    missing = (counts == 1).sum() / n if unseen.any() else 0.0
    shares = (1 - missing) * counts / n
    shares[unseen] = missing / max(unseen.sum(), 1)
    return shares


def coverage(parts: np.ndarray, mentioned: np.ndarray) -> dict[str, dict[str, float]]:
    """For each kind that some captions leave open, what their images show of it beside what as many real ones show on average.

    Parameters
    ----------
    parts: (n, 5) integers, what the images show (`match_parts`).
    mentioned: (n, 5) bool, what their captions name.

    Returns
    -------
    {kind: {open, distinct, expected_distinct, bits, expected_bits}}, `open` being the number of images whose caption leaves
    the kind open.
    """
    found = {}
    for column, kind in enumerate(KINDS):
        shown = parts[~mentioned[:, column], column]
        if len(shown):
            counts, shares = np.bincount(shown, minlength=COUNTS[kind]), part_shares(kind)
            found[kind] = {
                "open": len(shown),
                "distinct": int(distinct(counts)),
                "expected_distinct": expected_distinct(shares, len(shown)),
                "bits": float(bits(counts)),
                "expected_bits": expected_bits(shares, len(shown)),
            }
    return found
