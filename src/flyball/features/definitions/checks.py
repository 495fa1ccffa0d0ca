"""Data checks: what must hold of a source's rows, or of a view's, and what happens when it does not.

The surprise: not every check can quarantine. A row is left out only for what it says itself, because ingest sees one
push at a time and must come to the same verdict as history, which sees all rows; so duplicates, old data and missing
volume can stop a run or warn, and duplicates of an event are dropped by `event_id` on the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from flyball import units
from flyball.errors import DefinitionError
from flyball.features.spec import CheckSpec, Scalar

__all__ = ["Check", "Policy", "check", "check_specs"]

Policy: TypeAlias = Literal["stop", "quarantine", "warn"]
_POLICIES = ("stop", "quarantine", "warn")


class Check:
    """Be one declared data check; made by `fb.check`."""

    def __init__(self, spec: CheckSpec) -> None:
        if spec.policy not in _POLICIES:
            raise DefinitionError(f"check {spec.kind} has policy {spec.policy!r}; use {', '.join(_POLICIES)}")
        self.spec = spec

    def __repr__(self) -> str:
        return f"Check({self.spec.kind}, {self.spec.column or 'all columns'}, {self.spec.policy})"


class check:  # noqa: N801 a namespace that users read as fb.check.range(...)
    """Make the data checks of a source or view."""

    @staticmethod
    def types(columns: Mapping[str, type | str] | None = None, *, policy: Policy = "stop") -> Check:
        """Demand that columns have these types; without `columns` those of the source's `schema`.

        A column of another type concerns every row, so the policy is "stop" or "warn".
        """
        from flyball.features.definitions.names import checked_type

        _table_level("types", policy)
        found = tuple(sorted((n, checked_type(f"column {n!r} of a check", t)) for n, t in (columns or {}).items()))
        return Check(CheckSpec("types", None, found, policy))

    @staticmethod
    def range(column: str, low: float | None = None, high: float | None = None, *, policy: Policy = "stop") -> Check:
        """Demand low <= value <= high. Null passes (see `not_null`), NaN does not; integers are compared exactly."""
        if low is None and high is None:
            raise DefinitionError(f"check.range({column!r}) has no limit; give low, high or both")
        for limit in (low, high):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit != limit):  # noqa: PLR0124 NaN
                raise DefinitionError(f"check.range({column!r}) has the limit {limit!r}; give a number")
        if low is not None and high is not None and low > high:
            raise DefinitionError(f"check.range({column!r}) wants {low} <= value <= {high}, which no value meets")
        return Check(CheckSpec("range", column, (("high", high), ("low", low)), policy))

    @staticmethod
    def not_null(column: str, *, max_share: float | str = 0.0, policy: Policy = "stop") -> Check:
        """Demand that at most this share of a column is null; with a share above 0 nothing can be quarantined."""
        share = units.share(max_share)
        if share > 0:
            _table_level("not_null with max_share", policy)
        return Check(CheckSpec("not_null", column, (("max_share", share),), policy))

    @staticmethod
    def unique(*columns: str, policy: Policy = "stop") -> Check:
        """Demand that no two rows agree in all of these columns; rows with a null in one of them are not compared."""
        if not columns:
            raise DefinitionError('check.unique() names no column; write check.unique("order_id")')
        _table_level("unique", policy, "; to drop events delivered again, declare event_id= on the source")
        return Check(CheckSpec("unique", None, (("columns", tuple(columns)),), policy))

    @staticmethod
    def freshness(max_age: str | timedelta, *, policy: Policy = "stop") -> Check:
        """Demand that the newest event is at most this old."""
        _table_level("freshness", policy)
        return Check(CheckSpec("freshness", None, (("max_age", units.micros(units.duration(max_age))),), policy))

    @staticmethod
    def volume(min_rows: int | None = None, *, max_change: float | str | None = None, policy: Policy = "stop") -> Check:
        """Demand at least `min_rows` rows, and that their number changed by at most this share since the last run."""
        _table_level("volume", policy)
        if min_rows is None and max_change is None:
            raise DefinitionError("check.volume() has no limit; give min_rows, max_change or both")
        if min_rows is not None and min_rows < 0:
            raise DefinitionError(f"check.volume(min_rows={min_rows}): a number of rows is 0 or more")
        change = None if max_change is None else _change(max_change)
        return Check(CheckSpec("volume", None, (("max_change", change), ("min_rows", min_rows)), policy))

    @staticmethod
    def accepted(column: str, values: Sequence[Scalar], *, policy: Policy = "stop") -> Check:
        """Demand that each value is one of these; null passes (see `not_null`)."""
        if not values or any(v is None for v in values):
            raise DefinitionError(f"check.accepted({column!r}) needs values other than None; None always passes")
        if len({type(v) for v in values}) > 1:
            raise DefinitionError(f"check.accepted({column!r}) mixes types; give values of the column's type")
        return Check(CheckSpec("accepted", column, (("values", tuple(values)),), policy))

    @staticmethod
    def custom(fn: Callable[..., Any], *, of: Sequence[str], policy: Policy = "stop") -> Check:
        """Demand what a function says.

        Args:
            fn: Takes one numpy array per column of `of` (null is NaN in float arrays and None in others) and returns
                a bool array, True where a row is good, or one bool for the whole. To quarantine it must return an
                array, and judge each row by itself.
            of: Its columns.
            policy: What happens to a table with bad rows.
        """
        if not callable(fn) or not of:
            raise DefinitionError("check.custom(fn, of=[...]) needs a function and the columns it reads")
        from flyball.features.callables import remember

        return Check(CheckSpec("custom", None, (("of", tuple(of)),), policy, remember(fn)))

    @staticmethod
    def pandera(schema: Any, *, policy: Policy = "stop") -> Check:
        """Demand what a pandera DataFrameSchema or DataFrameModel says of its columns (extra: pandera).

        To quarantine, the schema's checks must be element-wise or return one bool per row; a failure that names no
        row stops the run.
        """
        from flyball.features.schemas import remember_schema

        code, columns = remember_schema(schema, rows=policy == "quarantine")
        return Check(CheckSpec("pandera", None, (("columns", columns),), policy, code))


def check_specs(what: str, given: Sequence[Check], *, view: bool = False) -> tuple[CheckSpec, ...]:
    """Return the specs of declared checks; a view's may not quarantine.

    Raises:
        DefinitionError: something else than a check, or a view's check that quarantines.
    """
    for one in given:
        if not isinstance(one, Check):
            raise DefinitionError(f"{what} lists {one!r:.60} as a check; make checks by fb.check, such as "
                                  'fb.check.not_null("user")')  # fmt: skip
        if view and one.spec.policy == "quarantine":
            raise DefinitionError(
                f"{what}: check {one.spec.kind} quarantines; only a source leaves rows out, so declare it there"
            )
    return tuple(one.spec for one in given)


def _table_level(kind: str, policy: Policy, hint: str = "") -> None:
    if policy == "quarantine":
        raise DefinitionError(
            f"check {kind} cannot quarantine: it judges all rows together, and ingest, which sees one push at a time, "
            f'would come to another verdict than history; use policy "stop" or "warn"{hint}'
        )


def _change(value: float | str) -> float:
    if isinstance(value, str):
        return units.share(value)
    if not value >= 0:
        raise DefinitionError(f"check.volume(max_change={value}): a share is 0 or more")
    return float(value)
