"""Figures with their uncertainty; every draw comes from a seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from heartloop.errors import InvalidInput
from heartloop.types import Value

DRAWS, LEVEL = 4000, 0.95
_ROWS = 250
"""Bootstrap samples drawn at a time, which bounds the memory."""


class Interval(Value):
    """A mean with its percentile bootstrap interval (Efron 1979)."""

    mean: float
    low: float
    high: float
    se: float | None
    """Standard error; None for a single value, which has none."""
    n: int

    def __str__(self) -> str:
        """The mean and the interval, for a person."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interval(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean of `values` with a 95 % bootstrap interval.

    Raises:
        InvalidInput: there is no value, or one is not finite.
    """
    sample = _checked(values)
    means = np.sort(np.concatenate(list(_resampled(sample, seed, draws))))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(sample.mean())
    # Rounding can put the quantile of equal means a last bit beside the mean itself.
    low, high = min(float(low), mean), max(float(high), mean)
    return Interval(mean=mean, low=low, high=high, se=standard_error(values), n=len(sample))


def paired(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """The mean of after - before over the same items, resampling the items.

    Raises:
        InvalidInput: the two differ in length, or are empty.
    """
    if len(before) != len(after):
        raise InvalidInput(f"pairs need equal numbers, got {len(before)} and {len(after)}")
    return interval([b - a for a, b in zip(before, after, strict=True)], seed=seed, draws=draws)


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the root of n; None below two values."""
    n = len(values)
    return float(np.std(_checked(values), ddof=1)) / math.sqrt(n) if n > 1 else None


def _checked(values: Sequence[float]) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size or not np.isfinite(sample).all():
        raise InvalidInput(f"expected one or more finite numbers, got {list(values)!r:.80}")
    return sample


def _resampled(sample: NDArray[np.float64], seed: int, draws: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _ROWS):
        rows = min(_ROWS, draws - start)
        yield sample[rng.integers(len(sample), size=(rows, len(sample)))].mean(axis=1)


def distinct(texts: Iterable[str], n: int = 2) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, arXiv 1510.03055); 0 where none is.

    It falls with the amount of text: compare only samples of about the same size.
    """
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.lower().split()
        grams.update(zip(*(words[i:] for i in range(n)), strict=False))
    return len(grams) / grams.total() if grams else 0.0


def commonest(texts: Iterable[str]) -> tuple[str, float]:
    """The text that occurs most often, less case and outer space, and its share of all."""
    counts = Counter(text.strip().lower() for text in texts)
    if not counts:
        return "", 0.0
    text, number = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return text, number / counts.total()
