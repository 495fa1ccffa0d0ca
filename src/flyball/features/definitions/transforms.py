"""Transformations as the user writes them: parts of time, ratios, buckets, crosses, cells, embeddings, own functions.

One object serves three places. In a source's `derive` its arguments are columns; among a view's features they are
features of that view; among a model's features they are request inputs, the examples' time column (T), or features as
"view:feature". The surprise: it knows its own types, so that a definition that cannot run fails when it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from flyball.errors import DefinitionError
from flyball.features import types
from flyball.features.definitions.names import check_default, check_zone, checked_name, checked_type
from flyball.features.spec import ColumnType, FeatureAbout, FeatureSpec, Scalar, TransformSpec

__all__ = [
    "Transform", "bucket", "clip", "computed", "cross", "cyclic", "day_of_month", "day_of_week", "day_of_year",
    "difference", "embed", "geohash", "h3_cell", "hour_of_day", "is_weekend", "log1p", "month", "python", "ratio",
    "week",
]  # fmt: skip

_LOCAL = frozenset(
    {"hour_of_day", "day_of_week", "day_of_month", "day_of_year", "month", "week", "is_weekend", "cyclic"}
)
_LONGEST_GEOHASH = 12
_FINEST_H3 = 15
_MOST_BUCKETS = 2**53


class Transform:
    """A function of other columns, features or inputs; made by `fb.ratio`, `fb.bucket` and the others.

    Attributes:
        name: What its result is called; a `derive` names it itself.
        spec: What it computes; its time zone is missing until `bound` gives it one.
        arguments: Argument -> the type it must have where nothing else declares one, None for the function's own.
    """

    def __init__(
        self, spec: TransformSpec, *, name: str | None, types: Sequence[ColumnType | None] = (), default: Any = None
    ) -> None:
        self.name = checked_name("feature", name or _default_name(spec))
        self.spec = spec
        self.arguments: dict[str, ColumnType | None] = dict(
            zip(spec.args, types or [None] * len(spec.args), strict=True)
        )
        self.default = default
        self.description = ""
        self.unit = ""

    def bound(self, timezone: str) -> TransformSpec:
        """Return the spec, local to `timezone` where it did not name one."""
        given = dict(self.spec.params)
        if self.spec.function not in _LOCAL or "timezone" in given or isinstance(given.get("period"), int | float):
            return self.spec
        return replace(self.spec, params=_params(**given, timezone=timezone))

    def feature(self, timezone: str) -> FeatureSpec:
        """Return this as a computed feature of a view whose source has `timezone`."""
        return FeatureSpec(
            name=self.name, type=self.spec.type, of=None, default=self.default, transform=self.bound(timezone),
            about=FeatureAbout(self.description, self.unit),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.spec.function}({', '.join(self.spec.args)})"


def computed(
    name: str, transform: Transform, *, default: Any = None, description: str = "", unit: str = ""
) -> Transform:
    """Declare a computed feature of a view: a transformation of the view's other features, evaluated at read.

    Args:
        name: The feature's name.
        transform: Such as `fb.ratio("trips_1h", "trips_24h", zero=0.0)`.
        default: Value where the result is null.
        description: For people.
        unit: For people.
    """
    if not isinstance(transform, Transform):
        raise DefinitionError(f"computed feature {name!r} is {transform!r:.60}; give a transformation such as fb.ratio")
    plain = check_default(name, transform.spec.type, default)
    made = Transform(transform.spec, name=name, types=list(transform.arguments.values()), default=plain)
    made.description, made.unit = description, unit
    return made


# ------------------------------------------------------------------------------------------------ time


def hour_of_day(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local hour, 0 to 23, of a time.

    Args:
        column: A time column, or the examples' `at` column, which means T.
        name: The feature's name, "hour_of_day" by default.
        timezone: Local to what; the source decides by default.
    """
    return _part("hour_of_day", column, name, timezone)


def day_of_week(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local day of the week of a time, Monday 0 to Sunday 6; as `hour_of_day`."""
    return _part("day_of_week", column, name, timezone)


def day_of_month(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local day of the month of a time, 1 to 31; as `hour_of_day`."""
    return _part("day_of_month", column, name, timezone)


def day_of_year(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local day of the year of a time, 1 to 366; as `hour_of_day`."""
    return _part("day_of_year", column, name, timezone)


def month(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local month of a time, 1 to 12; as `hour_of_day`."""
    return _part("month", column, name, timezone)


def week(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare the local ISO week of a time, 1 to 53; as `hour_of_day`."""
    return _part("week", column, name, timezone)


def is_weekend(column: str, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare whether a time is on a local Saturday or Sunday; as `hour_of_day`."""
    return _part("is_weekend", column, name, timezone)


def cyclic(column: str, period: str | float, *, name: str | None = None, timezone: str | None = None) -> Transform:
    """Declare where a time or number stands on a circle: (sin, cos), a vector of 2 without a jump at midnight.

    Args:
        column: A time column (or the examples' `at` column), or a number.
        period: "hour", "day", "week", "month" or "year" of local time; for a number, its period (24 for hours).
        name: The feature's name; its two parts are name_0 (sine) and name_1 (cosine).
        timezone: Local to what; the source decides by default.
    """
    from flyball.features.transforms.calendar import PERIODS

    if isinstance(period, str):
        if period not in PERIODS:
            raise DefinitionError(f"cyclic knows no period {period!r}; use {', '.join(PERIODS)} or a number")
        given = _zone_params(timezone) | {"period": period}
        return _made("cyclic", (column,), "vector<2>", name, ["timestamp"], None, **given)
    if not period > 0 or not math.isfinite(period):
        raise DefinitionError(f"cyclic has period {period!r}; a number's period must be above 0, such as 24")
    return _made("cyclic", (column,), "vector<2>", name, ["float64"], period=float(period))


# ------------------------------------------------------------------------------------------------ numbers


def ratio(a: str, b: str, *, zero: float | str | None = None, name: str | None = None) -> Transform:
    """Declare a / b of two numbers.

    Args:
        a: What is divided.
        b: What it is divided by.
        zero: The value where b is zero; None (or "null") for null. A null a or b is null whatever this says.
        name: The feature's name, "a_per_b" by default.
    """
    if isinstance(zero, str):
        if zero != "null":
            raise DefinitionError(f'ratio has zero={zero!r}; give a number, or "null"')
        zero = None
    return _made("ratio", (a, b), "float64", name, ["float64", "float64"], zero=_number("zero", zero))


def difference(a: str, b: str, *, dtype: type = float, name: str | None = None) -> Transform:
    """Declare a - b of two numbers; with dtype=int exactly, of two int columns, and null beyond 64 bits."""
    kind = checked_type("difference", dtype)
    if kind not in {"float64", "int64"}:
        raise DefinitionError(f"difference has dtype {kind}; use float or int")
    return _made("difference", (a, b), kind, name, [kind, kind])


def log1p(column: str, *, name: str | None = None) -> Transform:
    """Declare the natural logarithm of 1 + x; null where x <= -1."""
    return _made("log1p", (column,), "float64", name, ["float64"])


def clip(column: str, low: float | None = None, high: float | None = None, *, name: str | None = None) -> Transform:
    """Declare a number held between `low` and `high`."""
    if low is None and high is None:
        raise DefinitionError("clip has neither low nor high; give at least one")
    if low is not None and high is not None and not low <= high:
        raise DefinitionError(f"clip has low {low} above high {high}; exchange them")
    given = {"low": _number("low", low), "high": _number("high", high)}
    return _made("clip", (column,), "float64", name, ["float64"], None, **given)


def bucket(
    column: str, edges: Sequence[float], *, labels: Sequence[str] | None = None, name: str | None = None
) -> Transform:
    """Declare which bucket a number falls into: how many edges are at or below it, or the label of that bucket.

    Args:
        column: A number.
        edges: Ascending; k edges make buckets 0 to k, an edge itself belongs to the bucket above it.
        labels: One name per bucket (k + 1); the result is then a text.
        name: The feature's name.
    """
    kept = [float(e) for e in edges]
    if not kept or not all(map(math.isfinite, kept)) or any(a >= b for a, b in pairwise(kept)):
        raise DefinitionError(f"bucket has edges {list(edges)!r:.80}; give finite numbers, each above the one before")
    if labels is None:
        return _made("bucket", (column,), "int64", name, ["float64"], edges=tuple(kept))
    if len(labels) != len(kept) + 1 or not all(isinstance(t, str) for t in labels):
        raise DefinitionError(f"bucket has {len(labels)} labels for {len(kept)} edges; give {len(kept) + 1} texts")
    return _made("bucket", (column,), "string", name, ["float64"], edges=tuple(kept), labels=tuple(labels))


# ------------------------------------------------------------------------------------------------ categories, places


def cross(
    of: Sequence[str] | Mapping[str, type | str], *, buckets: int | None = None, name: str | None = None
) -> Transform:
    """Declare a category made of several columns; null is a category too, so it is never null.

    Args:
        of: The columns; for request inputs that nothing else declares, a mapping to their types.
        buckets: The result is a number in [0, buckets), by xxh3 of the typed parts. None: a text "a|b".
        name: The feature's name, "a_x_b" by default.
    """
    names, kinds = _arguments("cross", of)
    if buckets is None:
        return _made("cross", names, "string", name, kinds)
    if not isinstance(buckets, int) or not 1 < buckets <= _MOST_BUCKETS:
        raise DefinitionError(f"cross has buckets={buckets!r}; give a whole number above 1")
    return _made("cross", names, "int64", name, kinds, buckets=buckets)


def geohash(lat: str, lon: str, *, precision: int = 6, name: str | None = None) -> Transform:
    """Declare the geohash text of a place; precision 6 is about 1.2 km x 0.6 km. Null outside the globe."""
    if not 1 <= precision <= _LONGEST_GEOHASH:
        raise DefinitionError(f"geohash has precision {precision}; use 1 to {_LONGEST_GEOHASH}")
    return _made("geohash", (lat, lon), "string", name, ["float64", "float64"], precision=precision)


def h3_cell(lat: str, lon: str, *, resolution: int = 8, dtype: type = str, name: str | None = None) -> Transform:
    """Declare the H3 cell of a place, as text or (dtype=int) as number; null outside the globe. Needs extra `h3`."""
    if not 0 <= resolution <= _FINEST_H3:
        raise DefinitionError(f"h3_cell has resolution {resolution}; use 0 to {_FINEST_H3}")
    kind = checked_type("h3_cell", dtype)
    if kind not in {"string", "int64"}:
        raise DefinitionError(f"h3_cell has dtype {kind}; use str or int")
    return _made("h3_cell", (lat, lon), kind, name, ["float64", "float64"], resolution=resolution)


# ------------------------------------------------------------------------------------------------ own functions


def embed(
    column: str, function: Callable[[list[str]], Any], *, size: int, batch: int = 256, name: str | None = None
) -> Transform:
    """Declare the embedding of a text: any callable from a list of texts to an array (texts, size).

    Equal texts of one call are embedded once; a null text has a null vector. What a callable answers for a text must
    not depend on the other texts.

    Args:
        column: A text.
        function: The callable, such as a sentence embedder's; it is found again by its code, never pickled.
        size: Numbers in one embedding.
        batch: Texts handed over at once, at most.
        name: The feature's name.
    """
    if size < 1 or batch < 1:
        raise DefinitionError(f"embed has size={size} and batch={batch}; both must be at least 1")
    return _made("embed", (column,), f"vector<{size}>", name, ["string"], code=function, batch=batch)


def python(
    function: Callable[..., Any],
    *,
    of: Sequence[str] | Mapping[str, type | str],
    dtype: Any = float,
    name: str | None = None,
) -> Transform:
    """Declare a function of your own over whole columns.

    It is called with one numpy array per argument and returns an array of as many rows. Numbers come as float64 with
    NaN for null, texts as object with None. An argument declared int, bool or datetime comes as int64, bool or
    datetime64[us]; rows where it is null are not handed over and come out null. NaN or None in the answer is null.
    A row's answer must not depend on the other rows: online there is only one.

    Args:
        function: Runs from the applied code snapshot; editing the module changes nothing before the next apply.
        of: The arguments, numbers; or a mapping to their types.
        dtype: The answer's type: float, int, bool, str, or a vector.
        name: The feature's name, the function's by default.
    """
    names, kinds = _arguments("python", of)
    declared = tuple(kind or "float64" for kind in kinds)
    kind = checked_type("python", dtype)
    if not (types.is_vector(kind) or kind in {"float64", "float32", "int64", "bool", "string"}):
        raise DefinitionError(f"python has dtype {kind}; use float, int, bool, str or a vector")
    own = name or getattr(function, "__name__", "python").strip("<>")
    return _made("python", names, kind, own, list(declared), code=function, types=declared)


def _part(function: str, column: str, name: str | None, timezone: str | None) -> Transform:
    kind = "bool" if function == "is_weekend" else "int64"
    return _made(function, (column,), kind, name or function, ["timestamp"], None, **_zone_params(timezone))


def _zone_params(timezone: str | None) -> dict[str, Scalar]:
    if timezone is None:
        return {}
    check_zone(timezone)
    return {"timezone": timezone}


def _made(
    function: str,
    args: Sequence[str],
    kind: ColumnType,
    name: str | None,
    kinds: Sequence[ColumnType | None],
    code: Callable[..., Any] | None = None,
    **params: Scalar | tuple[Scalar, ...],
) -> Transform:
    from flyball.features.callables import remember

    for arg in args:
        if not isinstance(arg, str) or not arg:
            raise DefinitionError(f"{function} has argument {arg!r:.60}; arguments are names of columns or features")
    if len(set(args)) != len(args):
        raise DefinitionError(f"{function} of {', '.join(args)} names one argument twice; name each once")
    ref = None if code is None else remember(code)
    return Transform(TransformSpec(function, tuple(args), kind, _params(**params), ref), name=name, types=kinds)


def _params(**given: Scalar | tuple[Scalar, ...]) -> tuple[tuple[str, Scalar | tuple[Scalar, ...]], ...]:
    return tuple(sorted((n, v) for n, v in given.items() if v is not None))


def _arguments(
    function: str, of: Sequence[str] | Mapping[str, type | str]
) -> tuple[tuple[str, ...], list[ColumnType | None]]:
    if isinstance(of, str) or not of:
        raise DefinitionError(f'{function} has of={of!r}; list its arguments, such as of=["a", "b"]')
    if isinstance(of, Mapping):
        return tuple(of), [checked_type(f"argument {n!r} of {function}", t) for n, t in of.items()]
    return tuple(of), [None] * len(of)


def _number(what: str, value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
        raise DefinitionError(f"{what} is {value!r}; give a finite number")
    return None if value is None else float(value)


def _default_name(spec: TransformSpec) -> str:
    plain = [arg.rpartition(":")[2] for arg in spec.args]
    joint = {"ratio": "_per_", "difference": "_less_", "cross": "_x_"}.get(spec.function)
    return joint.join(plain) if joint and len(plain) > 1 else f"{plain[0]}_{spec.function}"
