"""Build an immutable training set: examples, their features as known at T, the split by time, the digest.

The surprise: between the parts lies an embargo. A training example's label must be known before the first holdout
request is made, else the holdout would judge a model that could not have existed yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flyball.datasets.definitions import Examples, FromLog, Label
from flyball.datasets.examples import ExampleRows, read_examples
from flyball.datasets.files import content_digest, write_dataset
from flyball.datasets.ports import DatasetStore, ServedLog
from flyball.datasets.served import as_asked, read_served, rows_of, sequence_of
from flyball.datasets.types import DatasetManifest, TrainingSet
from flyball.errors import SourceError
from flyball.features.history_rows import source_report
from flyball.features.ports import OfflineEngine
from flyball.features.spec import FeatureService, Join, SourceSpec, digest_of
from flyball.layout import Layout
from flyball.units import from_micros, micros, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MIN_HOLDOUT", "MIN_TRAIN", "build", "build_snapshot", "holdout_rows", "split"]

MIN_TRAIN, MIN_HOLDOUT = 20, 5  # rows below which there is nothing to learn or to judge
_NOTHING, _TRAIN, _HOLDOUT = -1, 0, 1


def build_snapshot(
    engine: OfflineEngine,
    *,
    examples: Examples,
    label: Label,
    service: FeatureService,
    train_on: timedelta,
    holdout: float,
    until: datetime,
    code: str,
    layout: Layout,
    poisoned: tuple[tuple[datetime, datetime], ...] = (),
    join: Join = "as_known",
    log: ServedLog | None = None,
) -> TrainingSet:
    """Build, write and return a training set; the same inputs give the same digest and the same file.

    Examples from the prediction log take the served values and look nothing up; their manifest's join is "as_served".

    Args:
        engine: Moves the rows.
        examples: The past requests.
        label: Their later truth.
        service: The features to look up, in matrix order.
        train_on: How far back from `until` requests are taken.
        holdout: Newest share of the examples by T that no training sees, in (0, 1).
        until: The domain time we look back from.
        code: Digest of the project's code.
        layout: Where to write.
        poisoned: Stretches that are left out.
        join: "as_known" replays what online serving would have answered.
        log: The prediction log, for examples that come from it.

    Raises:
        SourceError: too few examples, a missing column, a label before its request.
        CheckFailed: a data check of one of the sources, with policy "stop", failed; nothing was written.
    """
    start = until - train_on
    warnings: tuple[str, ...] = ()
    rows = _served(log, examples, label, service, start, until, poisoned, holdout)
    if rows is None:
        warnings = check_sources(engine, [examples.source_spec, *(v.source for v in service.views)], until)
        rows = read_examples(engine, examples, label, service, start=start, until=until, poisoned=poisoned)
    parts, holdout_from = split(rows.at, rows.known, holdout)
    _require_enough(parts, rows, service.model, label, start, until)
    kept = parts != _NOTHING
    rows = rows.take(np.flatnonzero(kept))
    table = _table(engine, rows, service, parts[kept], join)
    digest = content_digest(table)
    path = write_dataset(table, digest, layout)
    manifest = DatasetManifest(
        digest=digest, model=service.model, rows=table.num_rows,
        train_rows=int((parts == _TRAIN).sum()), holdout_rows=int((parts == _HOLDOUT).sum()),
        features=digest_of(service), label=label.column, code=code,
        join=join if rows.features is None else "as_served", start=start, end=until,
        holdout_from=from_micros(holdout_from), embargo=micros(label.matures), immature=rows.immature,
        rejected=rows.rejected, poisoned=poisoned, path=path.relative_to(layout.state).as_posix(),
        warnings=warnings, unserved=rows.unserved,
    )  # fmt: skip
    return TrainingSet(table, manifest, service.names)


def check_sources(engine: OfflineEngine, sources: Sequence[SourceSpec], now: datetime) -> tuple[str, ...]:
    """Judge the rows of sources by their data checks; rows in quarantine are left out of history anyway.

    Returns:
        What checks with policy "warn" found.

    Raises:
        CheckFailed: a check with policy "stop" failed.
    """
    said: list[str] = []
    for source in dict.fromkeys(sources):
        if source.checks:
            report = source_report(engine, source, to_micros(now))
            report.require(f"source {source.name!r}")
            said += [f"{source.name}: {v.text}" for v in report.failed("warn")]
    return tuple(said)


class Wanted(Protocol):
    """Be what a training plan says about its data."""

    @property
    def examples(self) -> Examples:
        """The past requests."""
        ...

    @property
    def label(self) -> Label:
        """Their later truth."""
        ...

    @property
    def service(self) -> FeatureService:
        """The features to look up."""
        ...

    @property
    def holdout(self) -> float:
        """Newest share that no training sees."""
        ...

    @property
    def model(self) -> str:
        """The model's name."""
        ...


class Place(Protocol):
    """Be where a training set is built: engine, store of manifests, folders."""

    @property
    def engine(self) -> OfflineEngine:
        """Moves the rows."""
        ...

    @property
    def datasets(self) -> DatasetStore:
        """Keeps manifests and poisoned stretches."""
        ...

    @property
    def layout(self) -> Layout:
        """Where files go."""
        ...

    @property
    def served(self) -> ServedLog | None:
        """The prediction log; None where there is none."""
        ...


def build(plan: Wanted, context: Place, *, until: datetime, code: str, train_on: timedelta) -> TrainingSet:
    """Build, write and record the training set that a run looking back from `until` would use."""
    data = build_snapshot(
        context.engine, examples=plan.examples, label=plan.label, service=plan.service, train_on=train_on,
        holdout=plan.holdout, until=until, code=code, layout=context.layout,
        poisoned=tuple(context.datasets.poisoned(plan.model)), log=context.served,
    )  # fmt: skip
    context.datasets.add(data.manifest)
    return data


def split(at: np.ndarray, known: np.ndarray, holdout: float) -> tuple[np.ndarray, int]:
    """Return each row's part and the first T of the holdout.

    Args:
        at: T per row, int64 µs, ascending.
        known: When the row's label was known, int64 µs.
        holdout: Newest share of the rows, in (0, 1); rows of one T stay together.

    Returns:
        Parts (0 train, 1 holdout, -1 neither: their label was not known when the holdout began), and that time.
    """
    if not len(at):
        return np.empty(0, dtype=np.int8), 0
    first = min(len(at) - 1, max(0, len(at) - round(len(at) * holdout)))
    begin = int(at[first])
    parts = np.where(at >= begin, _HOLDOUT, np.where(known <= begin, _TRAIN, _NOTHING))
    return parts.astype(np.int8), begin


def holdout_rows(
    engine: OfflineEngine,
    data: TrainingSet,
    service: FeatureService,
    *,
    examples: Examples,
    label: Label,
    rows: np.ndarray,
    log: ServedLog | None = None,
) -> pa.Table:
    """Return another service's features for some holdout rows of a training set, in their order.

    The champion may read other features than the candidate; it is judged on the same requests nevertheless. Of requests
    from the prediction log it gets what was served, and where that lacks a feature, what was known at their T.

    Args:
        engine: Moves the rows.
        data: The candidate's training set.
        service: The features to look up, the champion's.
        examples: The definitions of the candidate's examples, whose rows must carry the service's inputs.
        label: The candidate's label.
        rows: Positions within the holdout.
        log: The prediction log, for a training set that was made of it.

    Raises:
        SourceError: an input of the service is no column of the examples, or rows are gone.
    """
    import pyarrow.compute as pc

    from flyball.features.offline import service_history

    manifest = data.manifest
    part = data.table.filter(pc.equal(data.table.column("__part"), _HOLDOUT)).take(rows)
    wanted = list(zip(part.column("__at").to_pylist(), part.column("__sequence").to_pylist(), strict=True))
    if manifest.join == "as_served":
        asked = rows_of(_the(log), manifest.model, examples.log or FromLog(), manifest.start, manifest.end)
        numbers = map(sequence_of, asked.column("id").to_pylist())
        same = _same(wanted, zip(asked.column("at").to_pylist(), numbers, strict=True), "prediction log")
        return as_asked(_the(log), engine, asked.take(same), service)
    found = read_examples(
        engine, examples, label, service, start=manifest.start, until=manifest.end, poisoned=manifest.poisoned
    )
    same = _same(wanted, zip(found.at.tolist(), found.sequence.tolist(), strict=True), "source")
    return service_history(engine, found.requests.take(same), service, found.at[same], join=manifest.join)


def _same(wanted: Sequence[tuple[int, int]], found: Iterable[tuple[int, int]], where: str) -> np.ndarray:
    """Return where the examples of these (T, sequence) lie among those found."""
    place = {key: i for i, key in enumerate(found)}
    try:
        return np.array([place[key] for key in wanted], dtype=np.int64)
    except KeyError as error:
        raise SourceError(
            f"the {where} changed: the example of {error.args[0]} is gone; build a new training set"
        ) from error


def _the(log: ServedLog | None) -> ServedLog:
    if log is None:
        raise SourceError("these examples come from the prediction log, which this project does not keep here")
    return log


def _served(
    log: ServedLog | None,
    examples: Examples,
    label: Label,
    service: FeatureService,
    start: datetime,
    until: datetime,
    poisoned: tuple[tuple[datetime, datetime], ...],
    holdout: float,
) -> ExampleRows | None:
    """Return the examples of the prediction log, None where a source is to be taken (instead, or still)."""
    if examples.log is None:
        return None
    rows = read_served(_the(log), examples, label, service, start=start, until=until, poisoned=poisoned)
    if examples.source is None:
        return rows
    parts, _ = split(rows.at, rows.known, holdout)
    return rows if len(rows.at) >= examples.log.enough and _is_enough(parts) else None


def _table(
    engine: OfflineEngine,
    rows: ExampleRows,
    service: FeatureService,
    parts: np.ndarray,
    join: Join,
) -> pa.Table:
    """Return the canonical table: sorted by (at, unit, event, sequence), fixed schema, one chunk, no metadata."""
    import pyarrow as pa

    from flyball.features.offline import service_history

    features = rows.features
    if features is None:
        features = service_history(engine, rows.requests, service, rows.at, join=join)
    columns = {name: features.column(name) for name in service.names}
    columns |= {
        "__at": pa.array(rows.at, pa.int64()),
        "__label": pa.array(rows.label, pa.float64()),
        "__unit": pa.array(rows.unit, pa.string()),
        "__event": pa.array(rows.event, pa.int64()),
        "__sequence": pa.array(rows.sequence, pa.int64()),
        "__part": pa.array(parts, pa.int8()),
    }
    order = np.lexsort((rows.sequence, rows.event, rows.unit.astype(str), rows.at))
    return pa.table(columns).take(order).combine_chunks().replace_schema_metadata(None)


def _is_enough(parts: np.ndarray) -> bool:
    return int((parts == _TRAIN).sum()) >= MIN_TRAIN and int((parts == _HOLDOUT).sum()) >= MIN_HOLDOUT


def _require_enough(
    parts: np.ndarray, rows: ExampleRows, model: str, label: Label, start: datetime, until: datetime
) -> None:
    if _is_enough(parts):
        return
    train, held = int((parts == _TRAIN).sum()), int((parts == _HOLDOUT).sum())
    if rows.features is not None:
        raise SourceError(
            f"model {model!r} finds {train} examples to train on and {held} to hold out in its prediction log between "
            f"{start} and {until}, at least {MIN_TRAIN} and {MIN_HOLDOUT} are needed ({rows.immature} have no known "
            f"outcome yet, {rows.poisoned} are poisoned, {rows.rejected} were rejected{rows.why and f', {rows.why}'}); "
            f"take a source until the log holds enough: fb.Examples.from_log(until_enough=fb.Examples(source, at=...))"
        )
    raise SourceError(
        f"model {model!r} has {train} examples to train on and {held} to hold out between {start} and {until}, "
        f"at least {MIN_TRAIN} and {MIN_HOLDOUT} are needed ({rows.immature} have no known {label.column!r} yet, "
        f"{rows.poisoned} are poisoned, {rows.rejected} were rejected); check the source, or widen train_on"
    )
