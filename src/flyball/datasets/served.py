"""Examples out of the prediction log: what was asked, with the values that were served and the truth that came later.

The surprise: a served value is taken for a feature only where the version that was asked read that very feature, by
definition and not by name. Rows of versions that did not are left out and counted, never looked up anew, because a
value from history is not what was served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from flyball.datasets.columns import OWN, column_digests, hidden_columns
from flyball.datasets.definitions import Examples, FromLog, Label
from flyball.datasets.examples import ExampleRows, set_column, within
from flyball.datasets.ports import ServedLog
from flyball.errors import SourceError
from flyball.features import expressions
from flyball.features.ports import OfflineEngine
from flyball.features.spec import FeatureService, Join
from flyball.features.types import to_arrow
from flyball.features.values import exact
from flyball.records.columnar import inputs_of
from flyball.units import micros, to_micros

__all__ = ["Served", "features_of", "read_served", "sequence_of", "served_columns"]

Floats = npt.NDArray[np.float64]
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Served:
    """The values of a service's columns that were served, shape (rows, k), and in which rows all of them were.

    `missing` counts the others by what they lack, `outages` those that the online store did not answer.
    """

    matrix: Floats
    fits: npt.NDArray[np.bool_]
    missing: dict[str, int]
    outages: int


def sequence_of(prediction: str) -> int:
    """Return the number by which a training set knows the request of a prediction, in [0, 2^63)."""
    return xxhash.xxh3_64_intdigest(prediction.encode()) >> 1


def read_served(
    log: ServedLog,
    examples: Examples,
    label: Label,
    service: FeatureService,
    *,
    start: datetime,
    until: datetime,
    poisoned: tuple[tuple[datetime, datetime], ...] = (),
) -> ExampleRows:
    """Return the answered requests with `start` <= T < `until` whose outcome is known at `until`.

    Args:
        log: The prediction log.
        examples: Which rows are examples, and how they are derived and filtered.
        label: Which column is the truth (the outcome unless it is derived), and when it counts as known.
        service: What the model reads; every row carries the served value of each of its columns.
        start: First T.
        until: The time we look back from; outcomes received later are as if they did not exist.
        poisoned: Stretches [begin, end); an example whose T or event lies in one is left out.

    Raises:
        SourceError: the label is no number.
    """
    wanted = examples.log or FromLog()
    table = rows_of(log, service.model, wanted, start, until)
    at, event = _ints(table, "at"), _ints(table, "event")
    known = np.maximum(event + micros(label.matures), _ints(table, "received"))
    mature = np.asarray(table.column("outcome").is_valid()) & (known <= to_micros(until))
    served = served_columns(log, table, service)
    rows = np.flatnonzero(mature & served.fits)
    some, kept, value = _derived(table.take(rows), served.matrix[rows], examples, label, service)
    rows, counted = rows[kept], len(rows)
    labelled = ~np.isnan(value)
    clean = labelled & ~within(at[rows], poisoned) & ~within(event[rows], poisoned)
    rows, value = rows[clean], value[clean]
    sequence = np.fromiter(map(sequence_of, table.column("id").take(rows).to_pylist()), np.int64, len(rows))
    order = np.lexsort((sequence, event[rows], at[rows]))
    rows = rows[order]
    return ExampleRows(
        table.take(rows), at[rows], event[rows], known[rows], value[order],
        np.asarray(table.column("unit").take(rows).to_numpy(zero_copy_only=False), dtype=object), sequence[order],
        immature=int((~mature).sum()), rejected=counted - some + int((~labelled).sum()),
        poisoned=int((labelled & ~clean).sum()), features=features_of(served.matrix[rows], service),
        unserved=int((mature & ~served.fits).sum()), why=_why(served),
    )  # fmt: skip


def rows_of(log: ServedLog, model: str, wanted: FromLog, start: datetime, until: datetime) -> pa.Table:
    """Return the answered rows of the wanted arms; the event of an outcome is never before its request."""
    table = log.answered(model, start=start, until=until)
    if wanted.arms == "champion":
        table = table.filter(pc.and_(pc.equal(table.column("arm"), "champion"), pc.invert(table.column("fallback"))))
    late = pc.max_element_wise(table.column("event"), table.column("at"), skip_nulls=False)  # callers' clocks differ
    return set_column(table, "event", late)


def served_columns(log: ServedLog, table: pa.Table, service: FeatureService) -> Served:
    """Return what was served of a service's columns to each row of the log."""
    digests, names = column_digests(service), service.names
    matrix = np.full((len(table), len(names)), np.nan)
    fits = np.zeros(len(table), dtype=bool)
    missing: Counter[str] = Counter()
    outages = 0
    for version, protected, read, rows in _alike(table):
        if read:
            outages += len(rows)
            continue
        theirs = log.service(service.model, version) if version else None
        width = 0 if theirs is None else len(theirs.names)
        places, lacking = _places(theirs, digests, names, protected.split(",") if protected else [])
        if lacking:
            missing.update(dict.fromkeys(lacking, len(rows)))
            continue
        vectors = table.column("features").take(rows)
        whole = np.asarray(pc.equal(pc.list_value_length(vectors), width))
        values = _flat(vectors.filter(pa.array(whole))).reshape(-1, width)
        asked = np.asarray(table.column("fallback").take(rows[whole]))
        good = ~(asked & np.isnan(values).all(axis=1))  # the assigned arm's features failed: nothing was served
        fits[rows[whole][good]] = True
        matrix[rows[whole][good]] = values[good][:, places]
    return Served(matrix, fits, dict(missing), outages)


def features_of(matrix: Floats, service: FeatureService) -> pa.Table:
    """Return a matrix as columns of a training set: float64, null where nothing was."""
    return pa.table({name: pa.array(matrix[:, k], from_pandas=True) for k, name in enumerate(service.names)})


def as_asked(
    log: ServedLog, engine: OfflineEngine, table: pa.Table, service: FeatureService, *, join: Join = "as_known"
) -> pa.Table:
    """Return a service's columns for rows of the log: what was served where it was, else looked up as of their T.

    Raises:
        SourceError: an input that is needed for it is kept protected, or is not what the service takes.
    """
    from flyball.features.matrix import to_matrix
    from flyball.features.offline import service_history

    served = served_columns(log, table, service)
    rows = np.flatnonzero(~served.fits)
    if len(rows):
        asked = _inputs(table.take(rows), service)
        at = _ints(table, "at")[rows]
        served.matrix[rows] = to_matrix(service_history(engine, asked, service, at, join=join), service.names)
    return features_of(served.matrix, service)


def _alike(table: pa.Table) -> Iterator[tuple[str, str, str, npt.NDArray[np.int64]]]:
    """Yield (version whose features were read, protected fields, state of the store, rows), each combination once."""
    joined = pc.binary_join_element_wise(*(table.column(n) for n in ("assigned", "protected", "read")), "\n")
    codes = pc.dictionary_encode(joined.combine_chunks() if table.num_rows else pa.array([], pa.string()))
    if isinstance(codes, pa.ChunkedArray):
        codes = codes.combine_chunks()
    places = np.asarray(codes.indices)
    for code, text in enumerate(codes.dictionary.to_pylist()):
        version, protected, read = text.split("\n")
        yield version, protected, read, np.flatnonzero(places == code)


def _places(
    theirs: FeatureService | None, digests: Sequence[str], names: Sequence[str], protected: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return where a version's vector has the wanted columns, and the names of those it has not."""
    if theirs is None:
        return [], ["the features of versions that are gone"]
    hidden = hidden_columns(theirs, protected)
    have = {digest: k for k, digest in enumerate(column_digests(theirs)) if k not in hidden}
    lacking = [name for name, digest in zip(names, digests, strict=True) if digest not in have]
    return ([] if lacking else [have[d] for d in digests]), lacking


def _flat(vectors: Any) -> Floats:
    flat = pc.list_flatten(vectors)
    whole = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    return np.asarray(pc.fill_null(whole, np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


def _derived(
    table: pa.Table, matrix: Floats, examples: Examples, label: Label, service: FeatureService
) -> tuple[int, npt.NDArray[np.int64], Floats]:
    """Return how many rows `where` keeps, which, and their labels."""
    wanted = examples.log or FromLog()
    steps = [(name, expressions.parse(text)) for name, text in wanted.derive]
    where = expressions.parse(wanted.where) if wanted.where else None
    read = {n for _, e in steps for n in expressions.columns(e)} | (expressions.columns(where) if where else set())
    seen = _readable(table, matrix, service, read)
    for name, expr in steps:
        seen = set_column(seen, name, expressions.evaluate(expr, seen))
    kept = np.arange(len(table))
    if where is not None:
        passed = pc.fill_null(expressions.evaluate(where, seen), False)
        kept = np.flatnonzero(np.asarray(passed))
    column = seen.column(label.column if label.column in dict(wanted.derive) else "__outcome")
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return len(kept), kept, np.asarray(values, dtype=np.float64)[kept]


def _readable(table: pa.Table, matrix: Floats, service: FeatureService, read: set[str]) -> pa.Table:
    """Return the columns that expressions read; inputs hide features, and both what the log itself knows."""
    columns: dict[str, Any] = {"__outcome": table.column("outcome")}
    for name in sorted(read & OWN.keys()):
        column = table.column(name)
        columns[name] = column.cast(_TIME) if OWN[name] == "timestamp" else column
    columns |= {n: pa.array(matrix[:, k], from_pandas=True) for k, n in enumerate(service.names) if n in read}
    mine = replace(service, inputs=tuple(i for i in service.inputs if i.name in read))
    if mine.inputs:
        inputs = _inputs(table, mine)
        columns |= {name: inputs.column(name) for name in inputs.column_names}
    return pa.table(columns)


def _inputs(table: pa.Table, service: FeatureService) -> pa.Table:
    """Return a service's inputs as they were sent, typed.

    Raises:
        SourceError: one of them is kept protected in some row, or is of another type.
    """
    names = {i.name for i in service.inputs}
    for text in pc.unique(table.column("protected")).to_pylist():
        hidden = sorted(names & set(text.split(",")))
        if hidden:
            raise SourceError(
                f"input {hidden[0]!r} is kept protected in the prediction log (personal), so features of these "
                f"requests cannot be looked up in history"
            )
    given = inputs_of(table)
    return pa.table({
        i.name: pa.array([_value(i.type, row.get(i.name), i.name) for row in given], to_arrow(i.type))
        for i in service.inputs
    })  # fmt: skip


def _value(kind: str, given: Any, name: str) -> Any:
    """Return an input's exact value; V2 requests may send a list of one."""
    if isinstance(given, list) and len(given) == 1 and not kind.startswith(("list", "vector")):
        given = given[0]
    return exact(kind, given, f"input {name!r} in the prediction log")


def _why(served: Served) -> str:
    """Say what rows were left out for, empty when none were."""
    most = sorted(served.missing.items(), key=lambda item: (-item[1], item[0]))[:5]
    said = [f"{count} were served without {name}" for name, count in most]
    if served.outages:
        said.append(f"{served.outages} were served while the online store was away")
    return ", ".join(said)


def _ints(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Return a column of µs; null is the far future."""
    column = pc.fill_null(table.column(name), 2**61).combine_chunks()
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
