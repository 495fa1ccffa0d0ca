"""Past requests with their labels, as the source held them: the rows before any feature is looked up.

The surprise: an example is known only when its label is, `matures` after the source's event time and not before the
source itself learned of it; what is not known at `until` is left out, whatever the file already holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from flyball.datasets.definitions import Examples, Label
from flyball.errors import SourceError
from flyball.features.ports import OfflineEngine
from flyball.features.spec import FeatureService
from flyball.units import from_micros, micros, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ExampleRows", "read_examples", "set_column", "within"]


@dataclass(frozen=True, slots=True)
class ExampleRows:
    """Usable examples sorted by (at, sequence).

    `requests` has the service's inputs as columns; the arrays are aligned with it, times in µs. `known` is when the
    label was known. `immature`, `rejected` and `poisoned` count what was left out.

    Rows of the prediction log carry the served values in `features`, and have the log's columns as `requests`; what was
    left out because it was served without a feature of the model is counted in `unserved`, and `why` says it in words.
    """

    requests: pa.Table
    at: np.ndarray
    event: np.ndarray
    known: np.ndarray
    label: np.ndarray
    unit: np.ndarray
    sequence: np.ndarray
    immature: int
    rejected: int
    poisoned: int
    features: pa.Table | None = None
    unserved: int = 0
    why: str = ""

    def take(self, rows: np.ndarray) -> ExampleRows:
        """Return the rows at these positions."""
        return ExampleRows(
            self.requests.take(rows), self.at[rows], self.event[rows], self.known[rows], self.label[rows],
            self.unit[rows], self.sequence[rows], self.immature, self.rejected, self.poisoned,
            None if self.features is None else self.features.take(rows), self.unserved, self.why,
        )  # fmt: skip


def read_examples(
    engine: OfflineEngine,
    examples: Examples,
    label: Label,
    service: FeatureService,
    *,
    start: datetime,
    until: datetime,
    poisoned: tuple[tuple[datetime, datetime], ...] = (),
) -> ExampleRows:
    """Return the examples with `start` <= T < `until` whose label is known at `until`.

    Args:
        engine: Moves the rows.
        examples: Which rows are requests, and how they are derived and filtered.
        label: Which column is the truth, and when it counts as known.
        service: Whose inputs (entity keys, fields) the requests must carry.
        start: First T.
        until: The time we look back from.
        poisoned: Stretches [begin, end); an example whose T or event lies in one is left out.

    Raises:
        SourceError: a column is missing or has no usable type, or a label is known before its request was made.
    """
    table, dropped = _scan(engine, examples, label, service, start)
    at = _times(table, examples.at, examples)
    event = table.column("__event").to_numpy()
    inside = (at >= to_micros(start)) & (at < to_micros(until))
    _refuse_early_labels(at, event, inside, examples, label)
    value = _numbers(table, label.column, examples)
    known = np.maximum(event + micros(label.matures), table.column("__known").to_numpy())
    mature = inside & (known <= to_micros(until))
    labelled = mature & ~np.isnan(value)
    clean = labelled & ~within(at, poisoned) & ~within(event, poisoned)
    sequence = table.column("__sequence").to_numpy()
    rows = np.flatnonzero(clean)
    rows = rows[np.lexsort((sequence[rows], event[rows], at[rows]))]
    inputs = [i.name for i in service.inputs]
    return ExampleRows(
        table.select(inputs).take(rows), at[rows], event[rows], known[rows], value[rows],
        _units(table, examples, sequence)[rows], sequence[rows],
        immature=int((inside & ~mature).sum()),
        rejected=engine.rejected(examples.source_spec) + dropped + int((mature & ~labelled).sum()),
        poisoned=int((labelled & ~clean).sum()),
    )  # fmt: skip


def _scan(
    engine: OfflineEngine, examples: Examples, label: Label, service: FeatureService, start: datetime
) -> tuple[pa.Table, int]:
    """Return the source's rows from `start` on with the examples' own derived columns, and how many `where` dropped."""
    from flyball.features import expressions

    derive = [(name, expressions.parse(text)) for name, text in examples.derive]
    where = expressions.parse(examples.where) if examples.where else None
    wanted = dict.fromkeys([*(i.name for i in service.inputs), examples.at, label.column])
    if examples.unit:
        wanted[examples.unit] = None
    columns: dict[str, None] = {}
    made: set[str] = set()
    for name, expr in derive:
        columns |= dict.fromkeys(sorted(expressions.columns(expr) - made))
        made.add(name)
    if where is not None:
        wanted |= dict.fromkeys(sorted(expressions.columns(where)))
    columns |= dict.fromkeys(name for name in wanted if name not in made)
    table = engine.scan(examples.source_spec, columns=list(columns), start=start)
    for name, expr in derive:
        table = set_column(table, name, expressions.evaluate(expr, table))
    if where is None:
        return table, 0
    kept = table.filter(expressions.evaluate(where, table))
    return kept, table.num_rows - kept.num_rows


def set_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the table with a column added, or replaced in its place."""
    place = table.schema.get_field_index(name)
    return table.append_column(name, values) if place < 0 else table.set_column(place, name, values)


def _refuse_early_labels(
    at: np.ndarray, event: np.ndarray, inside: np.ndarray, examples: Examples, label: Label
) -> None:
    early = np.flatnonzero(inside & (event < at))
    if len(early):
        first = early[np.argmin(at[early])]
        raise SourceError(
            f"source {examples.source_spec.name!r} has {len(early)} examples whose label {label.column!r} is older "
            f"than its request, first: {examples.at} {from_micros(int(at[first]))} but event "
            f"{from_micros(int(event[first]))}; drop them with where=, or name another column in at="
        )


def _times(table: pa.Table, name: str, examples: Examples) -> np.ndarray:
    """Return a timestamp column as int64 µs; a null T is before all time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
    elif not pa.types.is_integer(column.type):
        raise SourceError(
            f"column {name!r} of source {examples.source_spec.name!r} is {column.type}, at= needs a timestamp; "
            f"name another column"
        )
    whole = pc.fill_null(column, -(2**62)).combine_chunks()
    return np.asarray(whole.to_numpy(zero_copy_only=False), dtype=np.int64)


def _numbers(table: pa.Table, name: str, examples: Examples) -> np.ndarray:
    """Return the label as float64, null as NaN."""
    import pyarrow as pa

    column = table.column(name)
    try:
        whole = column.cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"label {name!r} of source {examples.source_spec.name!r} is {column.type}, a label must be a number or a "
            f"boolean; derive one, such as derive={{'y': \"{name} = 'yes'\"}}"
        ) from error
    return np.asarray(whole.to_numpy(zero_copy_only=False), dtype=np.float64)


def _units(table: pa.Table, examples: Examples, sequence: np.ndarray) -> np.ndarray:
    """Return the unit of each row as text: the named column, else the request itself, known by its sequence."""
    import pyarrow as pa

    if examples.unit is None:
        return np.array([f"{examples.source_spec.name}#{n}" for n in sequence.tolist()], dtype=object)
    texts = table.column(examples.unit).cast(pa.string())
    return np.asarray(texts.to_numpy(zero_copy_only=False), dtype=object)


def within(at: np.ndarray, stretches: tuple[tuple[datetime, datetime], ...]) -> np.ndarray:
    """Return which times (µs) lie in one of the stretches [begin, end)."""
    hit = np.zeros(len(at), dtype=bool)
    for begin, end in stretches:
        hit |= (at >= to_micros(begin)) & (at < to_micros(end))
    return hit
