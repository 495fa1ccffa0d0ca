"""What the windows of a view fold: each distinct (column, condition, form) of its rows is one slot.

Batch, ingest and materialization make slots of accepted rows by this one function, so they see the same numbers. The
surprise: what does not fit a slot's form (text where a number is declared, 2.5 where an integer is, a vector of
another length) counts as null, like a row whose condition is not true; a row that was logged can never be refused
later. Only where the declared types of files tell it beforehand is it an error, raised by whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from flyball.errors import ExpressionError
from flyball.features import expressions
from flyball.features.spec import FeatureSpec, Stat, Status
from flyball.features.types import is_vector, vector_size
from flyball.features.types import to_arrow as type_to_arrow

__all__ = ["Column", "Slot", "columns", "folds", "is_null", "kind_of", "planned", "slot_of", "to_arrow"]

Column = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]
"""Values of a slot, shape (n,) or (n, K), and where they are null."""
_WHOLE = {"int64", "timestamp", "bool"}


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing that is folded: `form` is "number", "present", "whole", "hash" or "vector<K>"."""

    of: str | None
    where: str | None
    form: str

    @property
    def name(self) -> str:
        """The slot's name among a view's columns: its source column where it is simply that."""
        if self.form == "number" and self.where is None and self.of is not None:
            return self.of
        return f"{self.form} of {self.of} where {self.where}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """What one value is."""
        if is_vector(self.form):
            return np.dtype(("<f4", (vector_size(self.form),)))
        return np.dtype({"whole": "<i8", "hash": "<u8"}.get(self.form, "<f8"))


def kind_of(feature: FeatureSpec) -> str:
    """Return how a window feature's cells are kept: rows, moments, wholes, first, last, vector<K>, hll or kll."""
    stat = feature.stat
    if stat is Stat.MEAN and is_vector(feature.type):
        return feature.type
    if stat in {Stat.SUM, Stat.MIN, Stat.MAX} and feature.type == "int64":
        return "wholes"
    kinds = {Stat.COUNT: "rows", Stat.DISTINCT: "hll", Stat.QUANTILE: "kll", Stat.FIRST: "first", Stat.LAST: "last"}
    return kinds.get(stat or Stat.COUNT, "moments")


def slot_of(feature: FeatureSpec) -> Slot | None:
    """Return what a window feature folds; None counts rows."""
    if feature.of is None and feature.where is None:
        return None
    kind = kind_of(feature)
    if kind in {"first", "last"}:
        form = "whole" if feature.type in _WHOLE else "number"
    else:
        form = {"rows": "present", "wholes": "whole", "hll": "hash"}.get(kind, kind if is_vector(kind) else "number")
    return Slot(feature.of, feature.where, form)


def planned(features: Sequence[FeatureSpec], *, by_hop: bool = False) -> list[tuple[str, Slot | None]]:
    """Return each window feature's kind and slot; a count joins the moments another feature keeps of its values.

    `by_hop`: only where both have the same cells.
    """
    found = [(kind_of(f), slot_of(f)) for f in features]
    moments = {
        (f.of, f.where, f.hop if by_hop else None): slot
        for f, (kind, slot) in zip(features, found, strict=True)
        if kind == "moments"
    }
    joined = []
    for f, (kind, slot) in zip(features, found, strict=True):
        key = (f.of, f.where, f.hop if by_hop else None)
        counts = f.stat is Stat.COUNT and f.of is not None and key in moments
        joined.append(("moments", moments[key]) if counts else (kind, slot))
    return joined


def to_arrow(feature: FeatureSpec, values: npt.NDArray[Any], status: npt.NDArray[np.uint8]) -> pa.Array:
    """Return a window feature's answers as Arrow, of the feature's type, null where it has no value."""
    kind = feature.type
    if is_vector(kind):
        nulls = np.isnan(values).any(axis=1)
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, vector_size(kind), mask=pa.array(nulls))
    if values.dtype.kind == "f":
        nulls = np.isnan(values)
        values = np.where(nulls, 0, values).astype(np.int64) if kind in _WHOLE else values
    else:
        nulls = is_null(feature, status)
    if kind == "bool":
        return pa.array(values.astype(bool), mask=nulls)
    array = pa.array(values, mask=nulls)
    return array.cast(type_to_arrow(kind)) if kind == "timestamp" else array


def is_null(feature: FeatureSpec, status: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where an integer answer is null: its status says so; counts and sums of what was never seen are 0."""
    missing = status == Status.MISSING
    zero = feature.stat in {Stat.COUNT, Stat.SUM}
    nulls: npt.NDArray[np.bool_] = (status == Status.NULL) | (np.zeros_like(missing) if zero else missing)
    return nulls


def columns(slots: Iterable[Slot | None], rows: pa.Table) -> dict[str, Column]:
    """Return the values of slots, by slot name, of a table of accepted rows."""
    found: dict[str, Column] = {}
    conditions: dict[str, npt.NDArray[np.bool_]] = {}
    made: dict[tuple[str | None, str], Column] = {}
    for slot in slots:
        if slot is None or slot.name in found:
            continue
        if (slot.of, slot.form) not in made:
            made[slot.of, slot.form] = _formed(slot, rows)
        values, nulls = made[slot.of, slot.form]
        if slot.where is not None:
            if slot.where not in conditions:
                conditions[slot.where] = _holds(slot.where, rows)
            nulls = nulls | ~conditions[slot.where]
            values = np.where(nulls, np.nan, values) if slot.form in {"number", "present"} else values
        found[slot.name] = values, nulls
    return found


def folds(slot: Slot, kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be folded so; what is told before any row came is refused."""
    if pa.types.is_null(kind) or slot.form in {"hash", "present"}:
        return True
    if is_vector(slot.form):
        return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))
    times = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    return _is_numeric(kind) or (slot.form == "whole" and times)


def _formed(slot: Slot, rows: pa.Table) -> Column:
    n = rows.num_rows
    if slot.of is None:
        return np.ones(n), np.zeros(n, bool)
    column = rows.column(slot.of) if slot.of in rows.column_names else pa.nulls(n)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # a table without chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    nulls = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False), dtype=bool)
    match slot.form:
        case "number":
            return _numbers(array, nulls)
        case "present":
            floats = pa.types.is_floating(array.type)
            nulls = nulls | np.isnan(_numbers(array, nulls)[0]) if floats else nulls
            return np.where(nulls, np.nan, 1.0), nulls
        case "whole":
            return _wholes(array, nulls)
        case "hash":
            return _hashes(array, nulls)
        case _:
            return _vectors(array, nulls, vector_size(slot.form))


def _numbers(array: pa.Array, nulls: npt.NDArray[np.bool_]) -> Column:
    kind = array.type
    if not _is_numeric(kind):
        return np.full(len(array), np.nan), np.ones(len(array), bool)
    array = array.cast(pa.int8()) if pa.types.is_boolean(kind) else array
    floats = array.cast(pa.float64(), safe=False)
    values = (pc.fill_null(floats, np.nan) if floats.null_count else floats).to_numpy(zero_copy_only=False)
    return values, nulls | np.isnan(values)


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _wholes(array: pa.Array, nulls: npt.NDArray[np.bool_]) -> Column:
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values, nulls = _numbers(array, nulls)
        fits = ~nulls & np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**63)
        return np.where(fits, values, 0.0).astype(np.int64), ~fits
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us")).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return np.zeros(len(array), np.int64), np.ones(len(array), bool)
    array = array.cast(pa.int64(), safe=False)
    return pc.fill_null(array, pa.scalar(0, pa.int64())).to_numpy(zero_copy_only=False), nulls


def _hashes(array: pa.Array, nulls: npt.NDArray[np.bool_]) -> Column:
    """Return 64-bit hashes of typed values: equal numbers hash alike whatever their type, 1 and "1" differ."""
    kind = array.type
    if _is_numeric(kind) and not pa.types.is_decimal(kind):
        if pa.types.is_floating(kind):
            values, nulls = _numbers(array, nulls)
            whole, fraction = _wholes(array, nulls)
            bits = np.where(fraction, (values + 0.0).view(np.int64) ^ np.int64(0x0F10A7), whole)
        else:
            bits = _wholes(array, nulls)[0]
        return _mixed(np.ascontiguousarray(bits).view(np.uint64)), nulls
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _mixed(_wholes(array, nulls)[0].view(np.uint64) ^ np.uint64(0x71E5)), nulls
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.uint64), np.ones(len(array), bool)
    encoded = array.dictionary_encode()
    digests = [xxhash.xxh3_64_intdigest(_text(v)) for v in encoded.dictionary.to_pylist()]
    places = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return np.array([*digests, 0], np.uint64)[places], nulls


def _text(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits, one to one (the finaliser of MurmurHash3, Appleby 2011; an offset keeps 0 from being fixed)."""
    h = bits + np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


def _vectors(array: pa.Array, nulls: npt.NDArray[np.bool_], width: int) -> Column:
    values = np.zeros((len(array), width), np.float32)
    kind = array.type
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not _is_numeric(kind.value_type):
        return values, np.ones(len(array), bool)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    fits = ~nulls & (lengths == width)
    flat = pc.list_flatten(array.filter(pa.array(fits))).cast(pa.float32(), safe=False)
    values[fits] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return values, ~fits | np.isnan(values).any(axis=1)


def _holds(where: str, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return for which rows a condition is true; null is not."""
    tree = expressions.parse(where)
    needed = sorted(expressions.columns(tree))
    for name in needed:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows))
    rows = rows.select(needed) if needed else pa.table({"": pa.nulls(rows.num_rows)})
    try:
        found = expressions.evaluate(tree, rows)
    except ExpressionError:  # a column without any value has no type of its own: it may have been meant as text
        if not any(pa.types.is_null(f.type) for f in rows.schema):
            raise
        found = expressions.evaluate(tree, _as_text(rows))
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)


def _as_text(rows: pa.Table) -> pa.Table:
    return rows.cast(pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in rows.schema]))
