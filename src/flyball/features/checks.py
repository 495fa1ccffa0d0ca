"""Judge a table by its data checks: which rows may stay, and one report for all of it. Pure.

The surprise: there are two entrances. `row_mask` is called wherever rows are read, in batch and at ingest, and so looks
only at what one row says; `run` looks at a whole table, or at its parts one after another, and counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flyball.errors import CheckFailed, DefinitionError, SourceError, UnknownName
from flyball.features.schemas import known_schema, schema_mask
from flyball.features.spec import CheckSpec, ColumnSpec, Scalar

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CheckReport", "Judge", "Verdict", "columns_needed", "reasons", "row_mask", "run"]

Mask = npt.NDArray[np.bool_]
ROW_LEVEL = frozenset({"range", "not_null", "accepted", "custom", "pandera"})
_EXAMPLES = 5
_TYPES: dict[str, tuple[str, ...]] = {"int64": ("int64",), "float64": ("float64", "float32"), "string": ("string",)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found. `value` and `limit` say it as text; `failed` counts rows (0 for a check of the whole)."""

    kind: str
    column: str | None
    policy: str
    passed: bool
    value: str
    limit: str
    failed: int = 0
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Say what was found in one line."""
        what = f"{self.kind}({self.column})" if self.column else self.kind
        seen = f", such as {', '.join(self.examples)}" if self.examples else ""
        return f"{what}: {self.value}; allowed: {self.limit}{seen}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What all checks of a table found; `rows` and `newest` (event, µs) are what the next run compares with."""

    verdicts: tuple[Verdict, ...] = ()
    rows: int = 0
    newest: int | None = None
    at: int = 0

    def failed(self, policy: str) -> list[Verdict]:
        """Return the failed checks of one policy."""
        return [v for v in self.verdicts if not v.passed and v.policy == policy]

    def require(self, what: str) -> None:
        """Raise CheckFailed when a check of policy "stop" failed."""
        failed = self.failed("stop")
        if failed:
            raise CheckFailed(
                f"{what} failed {len(failed)} data check{'s' if len(failed) > 1 else ''}, nothing was changed: "
                + "; ".join(v.text for v in failed)
                + '. Correct the data, or give the check another policy ("quarantine" or "warn")'
            )


def columns_needed(checks: Iterable[CheckSpec]) -> set[str]:
    """Return the columns that these checks read."""
    found: set[str] = set()
    for spec in checks:
        if spec.column is not None:
            found.add(spec.column)
        params = dict(spec.params)
        for name in ("of", "columns"):
            found |= set(_texts(params.get(name, ())))
        if spec.kind == "types":
            found |= params.keys()
    return found


def row_mask(checks: Sequence[CheckSpec], table: pa.Table) -> Mask | None:
    """Return which rows may stay, shape (rows,), or None when all may; only "quarantine" checks say so.

    Raises:
        CheckFailed: a function or schema cannot say which rows are bad.
        SourceError: a column has a type that the check cannot compare.
    """
    keep: Mask | None = None
    for spec in checks:
        if spec.policy != "quarantine" or not table.num_rows:
            continue
        good = _good(spec, table)
        if isinstance(good, bool):
            if not good:
                raise CheckFailed(f"check {_name(spec)} refuses the whole table and names no rows, so none can be "
                                  'quarantined; return one bool per row, or use policy "stop"')  # fmt: skip
            continue
        keep = good if keep is None else keep & good
    return None if keep is None or keep.all() else keep


def reasons(checks: Sequence[CheckSpec], table: pa.Table) -> list[str]:
    """Return for each row which quarantine checks it fails, as text."""
    said = [""] * table.num_rows
    for spec in checks:
        good = _good(spec, table) if spec.policy == "quarantine" and table.num_rows else True
        if not isinstance(good, bool):
            for row in np.flatnonzero(~good).tolist():
                said[row] = f"{said[row]}, {_name(spec)}" if said[row] else _name(spec)
    return said


def run(
    checks: Sequence[CheckSpec],
    table: pa.Table,
    now: int,
    previous: CheckReport | None = None,
    *,
    schema: Sequence[ColumnSpec] = (),
) -> CheckReport:
    """Judge a table that has `__event` (int64 µs) beside the columns the checks read.

    Args:
        checks: What must hold.
        table: All rows, those of quarantine included.
        now: Domain time, µs; freshness is measured from it.
        previous: The last run's report, for changes of volume; None the first time.
        schema: The source's declared columns, for a `types` check that names none.
    """
    judge = Judge(checks, now, previous, schema=schema)
    judge.add(table)
    return judge.report()


@dataclass(slots=True)
class Judge:
    """Judge a large table in parts. Parts must keep equal values of a `unique` check together.

    `already` are rows (and `newest` their newest event) that an earlier run judged and that count for volume and
    freshness alone.
    """

    checks: Sequence[CheckSpec]
    now: int
    previous: CheckReport | None = None
    schema: Sequence[ColumnSpec] = ()
    already: int = 0
    newest: int | None = None
    _rows: int = 0
    _failed: dict[int, int] = field(default_factory=dict)
    _nulls: dict[int, int] = field(default_factory=dict)
    _wrong: dict[int, str] = field(default_factory=dict)
    _examples: dict[int, list[str]] = field(default_factory=dict)

    def add(self, table: pa.Table, *, only: Sequence[CheckSpec] | None = None) -> None:
        """Take one part; with `only`, judge it by these checks alone and do not count its rows."""
        if only is None:
            self.count(table)
        for place, spec in enumerate(self.checks):
            if only is None or spec in only:
                self._judge(place, spec, table)

    def count(self, table: pa.Table) -> None:
        """Count a part's rows and note its newest event."""
        self._rows += table.num_rows
        if table.num_rows and "__event" in table.column_names:
            newest = int(table.column("__event").to_numpy().max())
            self.newest = newest if self.newest is None else max(newest, self.newest)

    def report(self) -> CheckReport:
        """Return what was found so far."""
        verdicts = tuple(self._verdict(i, spec) for i, spec in enumerate(self.checks))
        return CheckReport(verdicts, self.already + self._rows, self.newest, self.now)

    def _judge(self, place: int, spec: CheckSpec, table: pa.Table) -> None:
        if spec.kind == "types":
            wrong = _wrong_types(spec, table, self.schema)
            self._wrong.setdefault(place, wrong) if wrong else None
        elif spec.kind == "unique":
            self._count(place, table, ~_repeated(_texts(dict(spec.params)["columns"]), table))
        elif spec.kind in ROW_LEVEL and table.num_rows:
            good = _good(spec, table)
            if isinstance(good, bool):
                self._wrong.setdefault(place, "the table is refused") if not good else None
            else:
                self._count(place, table, good)

    def _count(self, place: int, table: pa.Table, good: Mask) -> None:
        bad = np.flatnonzero(~good)
        self._failed[place] = self._failed.get(place, 0) + len(bad)
        examples = self._examples.setdefault(place, [])
        for row in bad[: _EXAMPLES - len(examples)].tolist():
            examples.append(_shown(self.checks[place], table, row))

    def _verdict(self, place: int, spec: CheckSpec) -> Verdict:
        params = dict(spec.params)
        rows, failed = self._rows + self.already, self._failed.get(place, 0)
        match spec.kind:
            case "freshness":
                limit = int(_number(params["max_age"]))
                age = None if self.newest is None else self.now - self.newest
                passed = age is not None and age <= limit
                said = "there is no row" if age is None else f"the newest event is {_span(age)} old"
                return Verdict("freshness", None, spec.policy, passed, said, f"at most {_span(limit)}")
            case "volume":
                return self._volume(spec, params, rows)
            case "types":
                wrong = self._wrong.get(place, "")
                return Verdict("types", None, spec.policy, not wrong, wrong or "as declared", "the declared types")
            case "not_null" if _number(params.get("max_share", 0.0)) > 0:
                limit_share = _number(params["max_share"])
                share = failed / self._rows if self._rows else 0.0
                return Verdict("not_null", spec.column, spec.policy, share <= limit_share, f"{share:.2%} null",
                               f"at most {limit_share:.2%}", failed, tuple(self._examples.get(place, ())))  # fmt: skip
        wrong = self._wrong.get(place, "")
        said = wrong or f"{failed} of {self._rows} rows fail"
        return Verdict(spec.kind, spec.column, spec.policy, not failed and not wrong, said, _limit(spec), failed,
                       tuple(self._examples.get(place, ())))  # fmt: skip

    def _volume(self, spec: CheckSpec, params: Mapping[str, Any], rows: int) -> Verdict:
        least, change = params.get("min_rows"), params.get("max_change")
        limits, passed, said = [], True, f"{rows} rows"
        if least is not None:
            limits.append(f"at least {least} rows")
            passed = rows >= least
        if change is not None:
            limits.append(f"a change of at most {change:.1%} since the last run")
            if self.previous is not None and self.previous.rows:
                seen = abs(rows - self.previous.rows) / self.previous.rows
                said += f", {self.previous.rows} the last time ({seen:.1%})"
                passed = passed and seen <= change
        return Verdict("volume", None, spec.policy, passed, said, " and ".join(limits))


# ------------------------------------------------------------------------------------------------ one check, by row


def _good(spec: CheckSpec, table: pa.Table) -> Mask | bool:
    """Return which rows meet a row-level check, or one bool for all where a function says no more."""
    params = dict(spec.params)
    match spec.kind:
        case "range":
            return _in_range(spec.column or "", params, table)
        case "not_null":
            return ~_nulls(_column(table, spec.column or ""))
        case "accepted":
            return _accepted(spec.column or "", _scalars(params["values"]), table)
        case "custom":
            return _custom(spec, _texts(params["of"]), table)
        case "pandera":
            if spec.code is None:
                raise DefinitionError("a pandera check carries no schema; make it by fb.check.pandera(schema)")
            return schema_mask(known_schema(spec.code), spec.code.name, table, _texts(params["columns"]))
    raise DefinitionError(str(UnknownName.of("row-level data check", spec.kind, ROW_LEVEL)))


def _in_range(name: str, params: Mapping[str, Any], table: pa.Table) -> Mask:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _column(table, name)
    good = np.ones(table.num_rows, bool)
    if pa.types.is_null(column.type):
        return good
    whole = pa.types.is_integer(column.type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    elif not whole and not pa.types.is_floating(column.type):
        raise SourceError(f"check range({name}) needs numbers, but the column is {column.type}; check another column")
    for limit, compare, least in ((params["low"], pc.greater_equal, True), (params["high"], pc.less_equal, False)):
        if limit is None:
            continue
        if whole and not isinstance(limit, int):
            if math.isinf(limit):
                good &= _nulls(column) | ((limit < 0) == least)
                continue
            limit = math.ceil(limit) if least else math.floor(limit)  # noqa: PLW2901
        if whole and not -(2**63) <= limit < 2**63:
            good &= _nulls(column) | ((limit < 0) == least)
            continue
        found = compare(column, pa.scalar(limit, pa.int64() if whole else pa.float64()))
        good &= _bools(found, null=True)
    return good


def _accepted(name: str, values: Sequence[Scalar], table: pa.Table) -> Mask:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _column(table, name)
    if pa.types.is_null(column.type):
        return np.ones(table.num_rows, bool)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        allowed = pa.array(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"check accepted({name}) lists {values[0]!r}, but the column is {column.type}; list values of its type"
        ) from error
    return _bools(pc.is_in(column, value_set=allowed), null=True) | _nulls(column)


def _custom(spec: CheckSpec, names: Sequence[str], table: pa.Table) -> Mask | bool:
    from flyball.features.callables import known

    assert spec.code is not None
    fn: Callable[..., Any] = known(spec.code)
    arguments = [_numpy(_column(table, name)) for name in names]
    try:
        found = fn(*arguments)
    except Exception as error:
        raise CheckFailed(f"check {_name(spec)} raised {type(error).__name__}: {error}") from error
    if isinstance(found, bool | np.bool_):
        return bool(found)
    good = np.asarray(found)
    if good.dtype != bool or good.shape != (table.num_rows,):
        raise CheckFailed(
            f"check {_name(spec)} returned {good.dtype} of shape {good.shape} for {table.num_rows} rows; "
            "return one bool, or a bool array with one entry per row"
        )
    return good


def _repeated(names: Sequence[str], table: pa.Table) -> Mask:
    """Return the rows that say in these columns what a row before them said; a null is like nothing."""
    import pyarrow as pa

    whole = np.ones(table.num_rows, bool)
    codes = np.zeros(table.num_rows, np.int64)
    for name in names:
        column = _column(table, name)
        whole &= ~_nulls(column)
        part = column.combine_chunks()
        part = part if pa.types.is_dictionary(part.type) else part.dictionary_encode()
        index = part.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        codes = np.unique(codes * max(len(part.dictionary), 1) + index, return_inverse=True)[1]
    _, first = np.unique(np.where(whole, codes, -1), return_index=True)
    repeated = np.ones(table.num_rows, bool)
    repeated[first] = False
    return repeated & whole


def _wrong_types(spec: CheckSpec, table: pa.Table, schema: Sequence[ColumnSpec]) -> str:
    from flyball.features.types import from_arrow

    wanted = {name: str(kind) for name, kind in spec.params} or {c.name: c.type for c in schema}
    wrong = []
    for name, kind in wanted.items():
        if name not in table.column_names:
            wrong.append(f"{name} is missing")
            continue
        found = from_arrow(table.schema.field(name))
        if found != kind and found not in _TYPES.get(kind, ()) and table.column(name).null_count < table.num_rows:
            wrong.append(f"{name} is {found or table.schema.field(name).type}, declared {kind}")
    return "; ".join(wrong)


# ------------------------------------------------------------------------------------------------ values


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column; one that no row has is null, as everywhere in reading."""
    import pyarrow as pa

    if name in table.column_names:
        return table.column(name)
    return pa.chunked_array([pa.nulls(table.num_rows)])


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    import pyarrow as pa

    if column.null_count and pa.types.is_integer(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.to_numpy())


def _nulls(column: pa.ChunkedArray) -> Mask:
    import pyarrow.compute as pc

    return np.asarray(pc.is_null(column).to_numpy(), dtype=bool)


def _bools(column: Any, *, null: bool) -> Mask:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column, null).to_numpy(), dtype=bool)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(v) for v in value) if isinstance(value, tuple | list) else ()


def _scalars(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def _name(spec: CheckSpec) -> str:
    if spec.code is not None:
        return f"{spec.kind}({spec.code.name})"
    return f"{spec.kind}({spec.column})" if spec.column else spec.kind


def _limit(spec: CheckSpec) -> str:
    params = dict(spec.params)
    match spec.kind:
        case "range":
            return f"{params['low']} to {params['high']}".replace("None", "any")
        case "not_null":
            return "no null"
        case "accepted":
            values = _scalars(params["values"])
            return f"{', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"
        case "unique":
            return f"no two rows alike in {', '.join(_texts(params['columns']))}"
    return spec.code.name if spec.code is not None else spec.kind


def _shown(spec: CheckSpec, table: pa.Table, row: int) -> str:
    names = sorted(columns_needed([spec]))[:4]
    return " ".join(f"{n}={_column(table, n)[row].as_py()!r:.40}" for n in names)


def _span(micros: int) -> str:
    seconds = micros / 1e6
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
