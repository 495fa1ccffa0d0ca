"""Many questions of one experiment: p values adjusted so that the answers hold together.

The surprise: Holm is never weaker than Bonferroni and needs nothing more, so Bonferroni is here for its intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum

from flyball.errors import InputError, UnknownName

__all__ = ["CORRECTIONS", "Correction", "adjusted", "benjamini_hochberg", "bonferroni", "holm"]


class Correction(StrEnum):
    """What keeps the error of many comparisons."""

    NONE = "none"
    BONFERRONI = "bonferroni"
    HOLM = "holm"
    BENJAMINI_HOCHBERG = "benjamini-hochberg"
    DUNNETT = "dunnett"  # of several arms against one control, by their means; it adjusts no list of p values


def bonferroni(ps: Sequence[float]) -> tuple[float, ...]:
    """Return p values times their number, at most 1; errors of any kind stay below the level in all.

    Example:
        >>> bonferroni([0.01, 0.04])
        (0.02, 0.08)
    """
    return tuple(min(1.0, p * len(ps)) for p in _checked(ps))


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's step-down p values: the smallest times k, the next times k - 1, never falling.

    Reference: Holm (1979), "A simple sequentially rejective multiple test procedure".

    Args:
        ps: p values, shape (k,), in any order.

    Returns:
        Adjusted p values in the same order; reject those at or below 1 - level.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    found, largest = [0.0] * len(ps), 0.0
    for rank, (p, at) in enumerate(_ranked(ps)):
        largest = max(largest, min(1.0, p * (len(ps) - rank)))
        found[at] = largest
    return tuple(found)


def benjamini_hochberg(ps: Sequence[float]) -> tuple[float, ...]:
    """Return step-up p values that bound the expected share of false ones among the rejected.

    Reference: Benjamini and Hochberg (1995), "Controlling the false discovery rate"; valid for independent or
    positively dependent tests.

    Args:
        ps: p values, shape (k,), in any order.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03])
        (0.03, 0.04, 0.04)
    """
    found, smallest = [0.0] * len(ps), 1.0
    for rank, (p, at) in reversed(list(enumerate(_ranked(ps), start=1))):
        smallest = min(smallest, p * (len(ps) / rank))
        found[at] = smallest
    return tuple(found)


def none(ps: Sequence[float]) -> tuple[float, ...]:
    """Return the p values as they are: for one question, or for those that are only looked at."""
    return tuple(_checked(ps))


CORRECTIONS: dict[str, Callable[[Sequence[float]], tuple[float, ...]]] = {
    Correction.HOLM: holm,
    Correction.BONFERRONI: bonferroni,
    Correction.BENJAMINI_HOCHBERG: benjamini_hochberg,
    Correction.NONE: none,
}


def adjusted(ps: Sequence[float], correction: Correction | str) -> tuple[float, ...]:
    """Return adjusted p values by the correction's name; raises UnknownName."""
    if correction not in CORRECTIONS:
        raise UnknownName.of("correction", correction, CORRECTIONS)
    return CORRECTIONS[correction](ps)


def _ranked(ps: Sequence[float]) -> list[tuple[float, int]]:
    return sorted((p, at) for at, p in enumerate(_checked(ps)))


def _checked(ps: Sequence[float]) -> list[float]:
    for p in ps:
        if math.isnan(p) or not 0.0 <= p <= 1.0:
            raise InputError(f"p values hold {p}; each lies between 0 and 1")
    return [float(p) for p in ps]
