"""Sufficient statistics: what every test needs of an arm, and nothing that grows with its size.

`Stats` holds count, means and centred cross products of named columns; `Moments` is the same of one column. Both merge
exactly in any order and keep their digits far from zero, because only deviations from a mean are ever multiplied
(Welford 1962; Chan, Golub, LeVeque 1983). The surprise: a missing value is refused, not skipped, unless asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from flyball.errors import InputError, UnknownName

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Missing", "Moments", "Sample", "Stats", "checked", "moments"]

Missing = Literal["refuse", "drop"]  # what is done with units that lack a finite value


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations of a stream; merges in any order.

    Example:
        >>> Moments.of([1.0, 2.0, 3.0]).variance
        1.0
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return the moments of some values."""
        moments = cls()
        for value in values:
            moments = moments.add(value)
        return moments

    def add(self, value: float) -> Self:
        """Return the moments with one more value (Welford)."""
        n = self.n + 1
        delta = value - self.mean
        mean = self.mean + delta / n
        return replace(self, n=n, mean=mean, m2=self.m2 + delta * (value - mean))

    def remove(self, value: float) -> Self:
        """Return the moments without a value that was added before."""
        n = self.n - 1
        if n <= 0:
            return replace(self, n=0, mean=0.0, m2=0.0)
        mean = self.mean - (value - self.mean) / n
        return replace(self, n=n, mean=mean, m2=max(self.m2 - (value - self.mean) * (value - mean), 0.0))

    def merge(self, other: Moments) -> Self:
        """Return the moments of both streams together (Chan, Golub, LeVeque 1983)."""
        n = self.n + other.n
        if n == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        return replace(self, n=n, mean=mean, m2=self.m2 + other.m2 + delta * delta * self.n * other.n / n)

    @property
    def variance(self) -> float:
        """The sample variance; 0 below two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Count, means and centred cross products of the units of one arm.

    Args:
        n: Number of units.
        names: Columns, shape (k,).
        means: Mean of each, shape (k,).
        products: Sums of products of deviations from the means, shape (k, k), symmetric.

    Example:
        >>> arm = Stats.of({"spend": [1.0, 2.0, 3.0], "visits": [1, 0, 1]})
        >>> arm.n, arm.mean("spend"), arm.variance("spend"), round(arm.covariance("spend", "visits"), 3)
        (3, 2.0, 1.0, 0.0)
    """

    n: int
    names: tuple[str, ...]
    means: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, columns: Mapping[str, ArrayLike], *, missing: Missing = "refuse") -> Self:
        """Return the statistics of columns of equal length, one value per unit.

        Args:
            columns: Values by name, each of shape (n,); booleans count as 0 and 1.
            missing: What to do with units of which any value is NaN: refuse them all, or drop those units.

        Raises:
            InputError: lengths differ, or a value is missing or infinite.
        """
        import numpy as np

        names = tuple(columns)
        values = [_numbers(name, columns[name]) for name in names]
        lengths = {name: v.shape for name, v in zip(names, values, strict=True)}
        if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
            raise InputError(f"columns have shapes {lengths}; they need one dimension and one length")
        table = np.stack(values) if names else np.empty((0, 0))
        whole = np.isfinite(table).all(axis=0)
        if not whole.all():
            table = _without(table, names, whole, missing)
        n = table.shape[1]
        means = table.mean(axis=1) if n else np.zeros(len(names))
        table = table - means[:, None]
        means = means + (table.mean(axis=1) if n else 0.0)  # what rounding left of the mean, as with an offset of 1e9
        table -= table.mean(axis=1, keepdims=True) if n else 0.0
        products = table @ table.T
        return cls(n, names, tuple(means.tolist()), tuple(map(tuple, products.tolist())))

    def mean(self, name: str) -> float:
        """Return a column's mean."""
        return self.means[self._index(name)]

    def variance(self, name: str) -> float:
        """Return a column's sample variance; 0 below two units."""
        return self.covariance(name, name)

    def covariance(self, one: str, other: str) -> float:
        """Return the sample covariance of two columns; 0 below two units."""
        product = self.products[self._index(one)][self._index(other)]
        return product / (self.n - 1) if self.n > 1 else 0.0

    def __getitem__(self, name: str) -> Moments:
        """Return one column by itself."""
        at = self._index(name)
        return Moments(self.n, self.means[at], self.products[at][at])

    def select(self, *names: str) -> Self:
        """Return some of the columns, in the order asked."""
        at = [self._index(name) for name in names]
        products = tuple(tuple(self.products[i][j] for j in at) for i in at)
        return replace(self, names=names, means=tuple(self.means[i] for i in at), products=products)

    def combine(self, weights: Mapping[str, float]) -> Moments:
        """Return the moments of a weighted sum of columns, such as {"y": 1.0, "x": -theta} of CUPED."""
        at = [(self._index(name), weight) for name, weight in weights.items()]
        mean = math.fsum(weight * self.means[i] for i, weight in at)
        m2 = math.fsum(w * v * self.products[i][j] for i, w in at for j, v in at)
        return Moments(self.n, mean, max(m2, 0.0))

    def merge(self, other: Stats) -> Self:
        """Return the statistics of both sets of units together; exact up to rounding, in any order.

        Raises:
            InputError: the columns differ.
        """
        if set(self.names) != set(other.names):
            raise InputError(f"columns {list(self.names)} and {list(other.names)} differ; select the same ones first")
        other = other.select(*self.names)
        if 0 in (self.n, other.n):
            return self if other.n == 0 else replace(self, n=other.n, means=other.means, products=other.products)
        n = self.n + other.n
        deltas = [b - a for a, b in zip(self.means, other.means, strict=True)]
        means = tuple(a + d * other.n / n for a, d in zip(self.means, deltas, strict=True))
        factor = self.n * other.n / n
        products = tuple(
            tuple(p + q + deltas[i] * deltas[j] * factor for j, (p, q) in enumerate(zip(mine, theirs, strict=True)))
            for i, (mine, theirs) in enumerate(zip(self.products, other.products, strict=True))
        )
        return replace(self, n=n, means=means, products=products)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal value."""
        return {"n": self.n, "names": list(self.names), "means": list(self.means),
                "products": [list(row) for row in self.products]}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        products = tuple(tuple(row) for row in data["products"])
        return cls(data["n"], tuple(data["names"]), tuple(data["means"]), products)

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise UnknownName.of("column", name, self.names)
        return self.names.index(name)


Sample = Moments | Sequence[float]  # or any one-dimensional array: what a test of means takes


def moments(sample: Sample | ArrayLike) -> Moments:
    """Return the moments of a sample: itself when it is `Moments`, else those of its values, shape (n,).

    Raises:
        InputError: a value is missing, or moments are of values that were.
    """
    return checked(sample) if isinstance(sample, Moments) else Stats.of({"value": sample})["value"]


def checked(moments: Moments, what: str = "the moments") -> Moments:
    """Return moments that are finite, of a count and a sum of squares not below 0; raises InputError."""
    if moments.n < 0 or moments.m2 < 0.0 or not math.isfinite(moments.mean + moments.m2):
        raise InputError(
            f"{what} have n = {moments.n}, mean {moments.mean} and sum of squares {moments.m2}; "
            "they must be finite and not negative (here: negative, or not finite). Build them with Stats.of, which "
            'refuses missing values or drops them with missing="drop"'
        )
    return moments


def _numbers(name: str, values: ArrayLike) -> Any:
    import numpy as np

    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name!r} holds something else than numbers ({error}); convert it first") from error


def _without(table: Any, names: tuple[str, ...], whole: Any, missing: str) -> Any:
    if missing == "drop":
        return table[:, whole]
    unit = int((~whole).argmax())
    column = next(i for i in range(len(names)) if not math.isfinite(table[i, unit]))
    raise InputError(
        f"column {names[column]!r} has {table[column, unit]} for unit {unit}, and {int((~whole).sum())} units lack "
        'a finite value; give every unit one, or say missing="drop"'
    )
