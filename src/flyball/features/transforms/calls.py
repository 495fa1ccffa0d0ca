"""The user's own Python: vectorised functions and text embeddings, found by their CodeRef.

The surprise: a function sees each argument always as the same kind of array, whatever the rows hold, because in a
request it gets one row and in batch many: float64 with NaN for null, texts as object with None, vectors with NaN. An
int64, bool or time cannot say null, so rows where one is null never reach the function and come out null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flyball.errors import InputError
from flyball.features import types
from flyball.features.callables import known
from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Bools, Column, numbers, params

__all__ = ["embed", "python"]

_KINDS = {"int64": "iu", "float64": "iufb", "float32": "iufb", "bool": "b"}


def python(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Call the function with numpy arrays of n rows; its answer has n rows of the declared type, NaN or None is null.

    Raises:
        InputError: the function failed, or answered something else; names it.
    """
    kinds = _declared(transform)
    given = [_as(kind, column) for kind, column in zip(kinds, arguments, strict=True)]
    keep = np.ones(len(arguments[0].valid), dtype=bool)
    for kind, column in zip(kinds, arguments, strict=True):
        if kind in {"int64", "bool", "timestamp", "date"}:
            keep &= column.valid
    whole = bool(keep.all())
    count = int(keep.sum())
    if count == 0:
        return _empty(transform.type, len(keep))
    found = _call(transform, given if whole else [a[keep] for a in given], count)
    answer = _answered(transform, found, count)
    return answer if whole else _spread(answer, keep)


def embed(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return one vector per text, float32 (n, size); a null text has a null vector, equal texts are embedded once.

    Raises:
        InputError: the callable failed, or its answer is not of shape (texts, size) or not finite.
    """
    size, batch = types.vector_size(transform.type), int(params(transform).get("batch", 256))  # type: ignore[arg-type]
    texts, valid = arguments[0].values, arguments[0].valid
    place: dict[str, int] = {}
    rows = [place.setdefault(_text(t), len(place)) if ok else -1 for t, ok in zip(texts, valid, strict=True)]
    distinct = list(place)
    vectors = np.full((len(distinct) + 1, size), np.nan, dtype=np.float32)  # the last one is that of null
    for begin in range(0, len(distinct), batch):
        part = distinct[begin : begin + batch]
        vectors[begin : begin + len(part)] = _vectors(transform, part, size)
    return Column(vectors[np.array(rows, dtype=np.int64)], valid)


def _vectors(transform: TransformSpec, texts: list[str], size: int) -> np.ndarray:
    found = np.asarray(_call(transform, [texts], len(texts)))
    if found.shape != (len(texts), size) or found.dtype.kind not in "iuf":
        raise InputError(
            f"{_name(transform)} answered {len(texts)} texts with {found.dtype} of shape {found.shape}; declared is "
            f"size={size}, so it must return an array of shape ({len(texts)}, {size})"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{_name(transform)} answered a vector with NaN or infinity; embeddings must be finite")
    return found.astype(np.float32)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"embed was given {value!r:.60}, a {type(value).__name__}; it embeds texts")
    return value


def _declared(transform: TransformSpec) -> tuple[str, ...]:
    given = params(transform).get("types")
    return tuple(map(str, given)) if isinstance(given, tuple) else ("float64",) * len(transform.args)


def _as(kind: str, column: Column) -> np.ndarray:
    """Return an argument in the one form that its declared type has."""
    match kind:
        case "float64" | "float32":
            out: np.ndarray = np.where(column.valid, numbers(column, "python"), np.nan)
            return out
        case "int64":
            return np.where(column.valid, column.values, 0).astype(np.int64)
        case "bool":
            return np.where(column.valid, column.values, 0).astype(bool)
        case "timestamp":
            return np.where(column.valid, column.values, 0).astype(np.int64).astype("M8[us]")
        case "date":
            return np.where(column.valid, column.values, np.datetime64(0, "D")).astype("M8[D]")
        case _ if types.is_vector(kind):
            return np.where(column.valid[:, None], column.values, np.nan).astype(np.float32)
        case _:
            return Column(column.values.astype(object), column.valid).plain()


def _call(transform: TransformSpec, arguments: Sequence[Any], count: int) -> Any:
    assert transform.code is not None
    function = known(transform.code)
    try:
        return function(*arguments)
    except Exception as error:
        raise InputError(
            f"{_name(transform)} failed on {count} rows of {', '.join(transform.args)}: {type(error).__name__}: {error}"
        ) from error


def _answered(transform: TransformSpec, found: Any, count: int) -> Column:
    kind = transform.type
    if types.is_vector(kind):
        return _vector_answer(transform, np.asarray(found), count)
    array = found if isinstance(found, np.ndarray) else np.asarray(found, dtype=_target(kind))
    if array.shape != (count,):
        raise InputError(
            f"{_name(transform)} was given {count} rows and answered {_shape(found)}; "
            "a vectorised function returns one value per row"
        )
    if kind in _KINDS:
        return _number_answer(transform, array)
    valid = Column.of(array).valid
    wrong = next((v for v in array[valid].tolist() if not isinstance(v, str)), None)
    if kind != "string" or wrong is not None:
        raise _wrong_type(transform, array if wrong is None else wrong)
    return Column(array.astype(object), valid)


def _number_answer(transform: TransformSpec, array: np.ndarray) -> Column:
    kind = transform.type
    column = Column.of(array)
    if array.dtype.kind == "O":
        kept = array[column.valid].tolist()
        wanted: Any = {"int64": int, "bool": bool}.get(kind, int | float)
        if not all(isinstance(v, wanted) for v in kept):
            raise _wrong_type(transform, array)
        values = np.zeros(len(array), dtype=_target(kind))
        values[column.valid] = kept
        return Column(values, column.valid)
    if array.dtype.kind not in _KINDS[kind]:
        raise _wrong_type(transform, array)
    return Column(np.asarray(array).astype(_target(kind)), column.valid)


def _vector_answer(transform: TransformSpec, array: np.ndarray, count: int) -> Column:
    size = types.vector_size(transform.type)
    if array.shape != (count, size) or array.dtype.kind not in "iufb":
        raise InputError(
            f"{_name(transform)} was given {count} rows and answered {_shape(array)}; declared is a vector of {size}, "
            f"so it must return an array of shape ({count}, {size})"
        )
    return Column.of(array.astype(np.float32))


def _spread(answer: Column, keep: Bools) -> Column:
    values = np.zeros((len(keep), *answer.values.shape[1:]), dtype=answer.values.dtype)
    if values.dtype.kind == "O":
        values[:] = None
    valid = np.zeros(len(keep), dtype=bool)
    values[keep], valid[keep] = answer.values, answer.valid
    return Column(values, valid)


def _empty(kind: str, n: int) -> Column:
    shape = (n, types.vector_size(kind)) if types.is_vector(kind) else (n,)
    return Column(
        np.zeros(shape, dtype=np.float32 if types.is_vector(kind) else _target(kind)), np.zeros(n, dtype=bool)
    )


def _target(kind: str) -> Any:
    return {"int64": np.int64, "float64": np.float64, "float32": np.float64, "bool": np.bool_}.get(kind, object)


def _wrong_type(transform: TransformSpec, found: Any) -> InputError:
    shown = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else f"{found!r:.60}"
    return InputError(
        f"{_name(transform)} answered {shown}, but is declared dtype={transform.type}; return that type or declare this"
    )


def _shape(found: Any) -> str:
    return f"an array of shape {found.shape}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"


def _name(transform: TransformSpec) -> str:
    return f"{transform.function} function {transform.code.name if transform.code else '?'}"
