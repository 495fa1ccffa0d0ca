"""How good are rankings against known relevance? NDCG, MAP, MRR, recall and precision at k, per query.

All queries are one flat table, so a million of them cost a few passes of numpy. The surprise: equal scores have no
order, so every metric is the *expected* one over all orders of tied items (McSherry and Najork 2008); a ranker that
gives everything the same score earns what shuffling would, not what the file's order happens to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from scipy import special

from flyball.errors import InputError, UnknownName
from flyball.experiments.stats import Moments, moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["QueryScores", "Rankings", "average_precision", "ndcg", "precision_at", "recall_at", "reciprocal_rank"]

_LARGEST_GRADE = 50.0  # 2**grade of the exponential gain stays a number with digits to spare


@dataclass(frozen=True, slots=True, eq=False)
class QueryScores:
    """A metric per query.

    Args:
        name: The metric, such as "ndcg@10".
        values: One value per query that could be scored, in the order of the queries.
        scored: Which queries could be, shape (queries,).
    """

    name: str
    values: NDArray[np.float64]
    scored: NDArray[np.bool_]

    @property
    def left_out(self) -> int:
        """Queries without a relevant item: no ranking answers them well or badly."""
        return int((~self.scored).sum())

    @property
    def moments(self) -> Moments:
        """Count, mean and spread over the scored queries, for any test of means."""
        return moments(self.values)

    @property
    def mean(self) -> float:
        """The mean over the scored queries; raises InputError when there are none."""
        if not len(self.values):
            raise InputError(
                f"{self.name} of {len(self.scored)} queries, none with a relevant item; nothing to average"
            )
        return float(self.values.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the single queries."""
        mean = self.mean if len(self.values) else None
        return {"name": self.name, "mean": mean, "queries": len(self.values), "left_out": self.left_out}

    def __str__(self) -> str:
        if not len(self.values):
            return f"{self.name}: no query with a relevant item"
        return f"{self.name} = {self.mean:.4f} over {len(self.values):,} queries, {self.left_out:,} left out"


@dataclass(frozen=True, slots=True, eq=False)
class Rankings:
    """Ranked lists of many queries, flat and sorted; built by `of` or `from_columns`.

    Args:
        query: Query of each item, from 0, rising.
        grade: Relevance of each item, by falling score within its query.
        rank: Place of each item in its query, from 0.
        first: Place of the first item that has the same score.
        tied: How many items have that score.
        queries: How many queries there are, empty ones included.
    """

    query: NDArray[np.int64]
    grade: NDArray[np.float64]
    rank: NDArray[np.int64]
    first: NDArray[np.int64]
    tied: NDArray[np.int64]
    queries: int

    @classmethod
    def of(cls, relevance: Sequence[ArrayLike], scores: Sequence[ArrayLike] | None = None) -> Self:
        """Return the rankings of queries.

        Args:
            relevance: Grades >= 0 of each query's items, one array per query; lengths may differ and be 0.
            scores: The ranker's scores of the same items; None when the items stand in ranked order already.

        Raises:
            InputError: lengths differ, or a value is missing or a grade negative.
        """
        lists = [np.asarray(items, dtype=np.float64).ravel() for items in relevance]
        lengths = np.array([len(items) for items in lists], dtype=np.int64)
        query = np.repeat(np.arange(len(lists)), lengths)
        flat = np.concatenate(lists) if lists else np.empty(0)
        if scores is None:
            starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
            return cls._sorted(query, flat, (starts - np.arange(len(flat))).astype(np.float64), len(lists))
        given = [np.asarray(items, dtype=np.float64).ravel() for items in scores]
        if [len(items) for items in given] != lengths.tolist():
            raise InputError(f"{len(given)} lists of scores for {len(lists)} of relevance, or of other lengths")
        return cls._sorted(query, flat, np.concatenate(given) if given else np.empty(0), len(lists))

    @classmethod
    def from_columns(cls, query: ArrayLike, relevance: ArrayLike, score: ArrayLike) -> Self:
        """Return the rankings of a table with one row per (query, item); queries come out in sorted order."""
        names, index = np.unique(np.asarray(query), return_inverse=True)
        grade, given = np.asarray(relevance, dtype=np.float64), np.asarray(score, dtype=np.float64)
        if not grade.shape == given.shape == index.shape or grade.ndim != 1:
            raise InputError(f"columns of shape {index.shape}, {grade.shape} and {given.shape}; one length is needed")
        return cls._sorted(index.astype(np.int64), grade, given, len(names))

    @classmethod
    def _sorted(
        cls, query: NDArray[np.int64], grade: NDArray[np.float64], score: NDArray[np.float64], queries: int
    ) -> Self:
        if not (np.isfinite(grade).all() and np.isfinite(score).all()) or (grade < 0.0).any():
            raise InputError("relevance or scores have missing, infinite or negative grades; drop those items first")
        order = np.lexsort((-score, query))
        query, grade, score = query[order], grade[order], score[order]
        sizes = np.bincount(query, minlength=queries)
        rank = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        fresh = np.ones(len(query), dtype=bool)
        fresh[1:] = (query[1:] != query[:-1]) | (score[1:] != score[:-1])
        group = np.cumsum(fresh) - 1
        at = np.flatnonzero(fresh)
        tied = np.diff(np.append(at, len(query)))
        return cls(query, grade, rank, rank[at][group], tied[group], queries)

    def per_query(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the items' values by query, shape (queries,)."""
        return np.asarray(np.bincount(self.query, weights=values, minlength=self.queries), dtype=np.float64)

    def per_tie(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return for each item the sum over the items that share its score."""
        starts = np.flatnonzero(self.rank == self.first)
        if not len(starts):
            return values
        return np.repeat(np.add.reduceat(values, starts), self.tied[starts])


def ndcg(
    rankings: Rankings, *, k: int | None = None, gains: Literal["exponential", "linear"] = "exponential"
) -> QueryScores:
    """Return the normalised discounted cumulative gain (Järvelin and Kekäläinen 2002; discount 1 / log2(rank + 1)).

    Args:
        rankings: The ranked lists; ties count their expectation.
        k: Places that count; None for all.
        gains: "exponential" 2**grade - 1 (Burges et al. 2005), grades up to 50; or "linear", the grade itself.

    Example:
        >>> lists = Rankings.of([[3, 2, 3, 0, 1, 2]])
        >>> round(ndcg(lists, gains="linear").mean, 4), round(ndcg(lists, k=3).mean, 4)
        (0.9608, 0.9595)
    """
    _check_k(k)
    if gains not in ("exponential", "linear"):
        raise UnknownName.of("gains", gains, ["exponential", "linear"])
    if gains == "exponential" and (rankings.grade > _LARGEST_GRADE).any():
        raise InputError(f"a grade of {rankings.grade.max():g} is above {_LARGEST_GRADE:g}; use gains='linear'")
    gain = np.exp2(rankings.grade) - 1.0 if gains == "exponential" else rankings.grade
    discount = _within(rankings, k) / np.log2(rankings.rank + 2.0)
    reached = rankings.per_query(rankings.per_tie(gain) / rankings.tied * discount)
    order = np.lexsort((-gain, rankings.query))  # the items of a query keep their stretch, so discounts fit as they are
    ideal = rankings.per_query(gain[order] * discount)
    return _told("ndcg", k, reached, ideal)


def precision_at(rankings: Rankings, *, k: int, relevant: float = 1.0) -> QueryScores:
    """Return the share of the first k places that hold an item of grade >= `relevant`; short lists are not excused.

    Queries without a relevant item are left out, as in the other metrics.
    """
    hits = _expected_hits(rankings, _hits(rankings, relevant)) * _within(rankings, _check_k(k))
    has = rankings.per_query(_hits(rankings, relevant)) > 0.0
    values = rankings.per_query(hits) / k
    return QueryScores(f"precision@{k}", values[has], has)


def recall_at(
    rankings: Rankings, *, k: int | None = None, relevant: float = 1.0, total: ArrayLike | None = None
) -> QueryScores:
    """Return the share of a query's relevant items that stand in the first k places.

    Args:
        rankings: The ranked lists.
        k: Places that count; None for all.
        relevant: Grade from which an item is relevant.
        total: Relevant items of each query, those that were not retrieved included, shape (queries,); the listed ones
            when not given.
    """
    hits = _hits(rankings, relevant)
    found = rankings.per_query(_expected_hits(rankings, hits) * _within(rankings, _check_k(k)))
    return _told("recall", k, found, _total(rankings, hits, total))


def reciprocal_rank(rankings: Rankings, *, k: int | None = None, relevant: float = 1.0) -> QueryScores:
    """Return 1 / place of the first relevant item, 0 when none is in the first k; its mean is the MRR.

    Among m tied items with r relevant the first stands at place j of them with probability C(m-j, r-1) / C(m, r).
    """
    _check_k(k)
    hits = _hits(rankings, relevant)
    r = rankings.per_tie(hits)
    before = _before_tie(rankings, hits)
    m, j = rankings.tied.astype(np.float64), rankings.rank - rankings.first + 1.0
    possible = (before == 0.0) & (r > 0.0) & (j <= m - r + 1.0)
    chance = np.where(possible, np.exp(_log_choose(m - j, r - 1.0, possible) - _log_choose(m, r, possible)), 0.0)
    values = rankings.per_query(chance * _within(rankings, k) / (rankings.rank + 1.0))
    has = rankings.per_query(hits) > 0.0
    return QueryScores(_name("mrr", k), values[has], has)


def average_precision(
    rankings: Rankings, *, k: int | None = None, relevant: float = 1.0, total: ArrayLike | None = None
) -> QueryScores:
    """Return the average precision at the places of the relevant items; its mean is MAP.

    With k the sum runs over the first k places and is divided by min(relevant items, k), so that a perfect list has 1.
    A tied item at place i of its m counts (r/m) * (relevant before + 1 + (i-1)(r-1)/(m-1)) / place.

    Args:
        rankings: The ranked lists.
        k: Places that count; None for all.
        relevant: Grade from which an item is relevant.
        total: Relevant items of each query, shape (queries,), as in `recall_at`.

    Example:
        >>> round(average_precision(Rankings.of([[1, 0, 1, 0, 0, 1]])).mean, 4)
        0.7222
    """
    hits = _hits(rankings, relevant)
    r, m = rankings.per_tie(hits), rankings.tied.astype(np.float64)
    inside = (rankings.rank - rankings.first) * np.maximum(r - 1.0, 0.0) / np.maximum(m - 1.0, 1.0)
    precision = (_before_tie(rankings, hits) + 1.0 + inside) / (rankings.rank + 1.0)
    reached = rankings.per_query(r / m * precision * _within(rankings, _check_k(k)))
    wanted = _total(rankings, hits, total)
    return _told("map", k, reached, np.minimum(wanted, k) if k is not None else wanted)


def _told(name: str, k: int | None, reached: NDArray[np.float64], ideal: NDArray[np.float64]) -> QueryScores:
    has = ideal > 0.0
    return QueryScores(_name(name, k), np.minimum(reached[has] / ideal[has], 1.0), has)


def _name(name: str, k: int | None) -> str:
    return name if k is None else f"{name}@{k}"


def _check_k(k: int | None) -> int | None:
    if k is not None and k < 1:
        raise InputError(f"k is {k}; at least one place counts")
    return k


def _within(rankings: Rankings, k: int | None) -> NDArray[np.float64]:
    return (rankings.rank < (math.inf if k is None else k)).astype(np.float64)


def _hits(rankings: Rankings, relevant: float) -> NDArray[np.float64]:
    if not relevant > 0.0:
        raise InputError(f"relevant is {relevant}; with a grade of 0 every item would be")
    return (rankings.grade >= relevant).astype(np.float64)


def _expected_hits(rankings: Rankings, hits: NDArray[np.float64]) -> NDArray[np.float64]:
    return rankings.per_tie(hits) / rankings.tied


def _before_tie(rankings: Rankings, hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relevant items of the query that stand before the item's tie."""
    if not len(hits):
        return hits
    before = np.cumsum(hits) - hits
    at_start = before[np.arange(len(hits)) - rankings.rank + rankings.first]
    return np.asarray(at_start - before[np.arange(len(hits)) - rankings.rank])


def _total(rankings: Rankings, hits: NDArray[np.float64], total: ArrayLike | None) -> NDArray[np.float64]:
    listed = rankings.per_query(hits)
    if total is None:
        return listed
    given = np.asarray(total, dtype=np.float64)
    if given.shape != listed.shape or not (given >= listed).all():
        raise InputError(f"total has shape {given.shape} for {rankings.queries} queries, or fewer than were listed")
    return given


def _log_choose(n: NDArray[np.float64], k: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    n, k = np.where(where, n, 0.0), np.where(where, k, 0.0)
    return np.asarray(special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0))
