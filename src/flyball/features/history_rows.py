"""Which rows of history a materialization takes: planned by what arrived, read, judged by data checks, cut into parts.

The surprise: whether a row is late is decided by when it says it was known, and how it is stored by when its file was
published. So a row is taken in once, and an answer at a T before the publication does not see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import InputError
from flyball.features import checks
from flyball.features.arrival import Arrivals, Run, Seen, changed, fresh
from flyball.features.packing import Checkpoint, read_rows
from flyball.features.partitions import Parts
from flyball.features.ports import FileInfo, OfflineEngine
from flyball.features.spec import CheckSpec, SourceSpec, ViewSpec
from flyball.features.upkeep import Upkeep
from flyball.units import from_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Collected", "Plan", "collect", "plan", "pushed_rejects", "touched"]

PART_ROWS = 2_000_000  # rows of one part
_NEVER = -(2**63)
_TIMES = ("__event", "__created", "__known", "__sequence")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run takes: `target` is its known time (None: all there is), `first` the view's first run."""

    run: Run
    present: tuple[FileInfo, ...]
    target: int | None
    first: bool
    resumed: bool
    published: Mapping[str, int]


def plan(
    engine: OfflineEngine,
    view: ViewSpec,
    before: Checkpoint,
    arrivals: Arrivals,
    published: Mapping[str, int],
    *,
    until: int | None,
    full: bool,
    bounds: tuple[int | None, int | None] | None,
    clean: bool,
) -> Plan:
    """Decide what a run takes: go on with one that was begun, add what arrived, or build anew, and why.

    Raises:
        InputError: a range of a view that was never materialized.
    """
    present = tuple(engine.files(view.source))
    first = before.until is None
    begun = arrivals.run if before.target is not None else None
    if begun is not None and (begun.mode != "arrival" or not full):
        mine = tuple(f for f in present if f.path in begun.files)
        if not changed(begun.files, mine):
            return Plan(begun, mine, before.target, first, True, published)
    if bounds is not None:
        return _range(engine, view, present, before, arrivals, published, bounds)
    why = "" if first else changed(arrivals.files, present)
    new = fresh(arrivals.files, present)
    mode = "full" if full or first or why or (before.target is not None and before.full) else "arrival"
    seen = {f.path: _seen(f, arrivals, published) for f in present}
    pushed = 0 if mode == "arrival" else _pushed_rows(engine, view, present)
    parts = _count(present, mode, arrivals.files, pushed=pushed)
    run = Run(mode, why, seen, () if first else new, parts, clean=clean and first)
    return Plan(run, present, until, first, False, published)


def _range(
    engine: OfflineEngine, view: ViewSpec, present: Sequence[FileInfo], before: Checkpoint, arrivals: Arrivals,
    published: Mapping[str, int], bounds: tuple[int | None, int | None],
) -> Plan:  # fmt: skip
    if before.until is None:
        raise InputError(
            f"view {view.name!r} was never materialized, so no range of it can be rebuilt; leave out the range"
        )
    known = tuple(f for f in present if f.path in arrivals.files)
    parts = _count(known, "range", {}, pushed=_pushed_rows(engine, view, present))
    run = Run("range", "", dict(arrivals.files), (), parts, None, *bounds)
    return Plan(run, known, before.until, False, False, published)


def _seen(file: FileInfo, arrivals: Arrivals, published: Mapping[str, int]) -> Seen:
    old = arrivals.files.get(file.path)
    newest = _NEVER if old is None else old.newest
    return Seen(file.index, file.size, file.mtime_ns, newest, published.get(file.path))


def _count(files: Sequence[FileInfo], mode: str, before: Mapping[str, Seen], *, pushed: int) -> int:
    rows = sum(f.rows for f in files if mode != "arrival" or f.path not in before)
    return max(1, -(-(rows + (0 if mode == "arrival" else pushed)) // PART_ROWS))


def _pushed_rows(engine: OfflineEngine, view: ViewSpec, files: Sequence[FileInfo]) -> int:
    """Return about how many rows no file has."""
    count = getattr(engine, "count", None)
    return 0 if count is None else max(0, count(view.source) - sum(f.rows for f in files))


def touched(engine: OfflineEngine, view: ViewSpec, run: Run) -> frozenset[bytes]:
    """Return the keys of entities with an event in the run's range."""
    names = [k.name for k in view.entity.keys]
    start, end = (None if t is None else from_micros(t) for t in (run.start, run.end))
    table = engine.scan(view.source, columns=names, start=start, end=end)
    return frozenset(read_rows(replace(view, features=()), table).keys)


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True)
class _Group:
    """Files that are read together: all (None), or those published at one time, or new to the view (`fresh`)."""

    files: tuple[str, ...] | None
    pushed: bool
    published: int | None = None
    fresh: bool = False


@dataclass(slots=True)
class Collected:
    """The rows of a run by part, and what reading them found."""

    plan: Plan
    parts: Parts
    columns: tuple[str, ...]
    target: int = 0
    watermark: int = 0
    quarantined: int = 0
    reports: dict[str, checks.CheckReport] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the run takes."""
        return self.parts.rows

    @property
    def warnings(self) -> tuple[str, ...]:
        """What checks of policy "warn" found."""
        return tuple(v.text for report in self.reports.values() for v in report.failed("warn"))

    def part(self, number: int, stamp: int | None) -> pa.Table | None:
        """Return a part's rows; those of new files are known from `stamp` on."""
        import pyarrow as pa

        table = self.parts.part(number)
        if table is None or "__fresh" not in table.column_names:
            return table
        if stamp is not None:
            known = table.column("__known").to_numpy()
            new = table.column("__fresh").to_numpy(zero_copy_only=False)
            stamped = pa.array(np.where(new, np.maximum(known, stamp), known), pa.int64())
            table = table.set_column(table.column_names.index("__known"), "__known", stamped)
        return table.drop_columns(["__fresh"])

    def seen(self, stamp: int | None) -> dict[str, Seen]:
        """Return the files as they are taken in now."""
        if self.plan.run.mode == "range":
            return dict(self.plan.run.files)
        new = set(self.plan.run.new)
        return {
            path: Seen(s.index, s.size, s.mtime_ns, max(s.newest, self.newest.get(path, _NEVER)),
                       stamp if path in new and stamp is not None else s.published)
            for path, s in self.plan.run.files.items()
        }  # fmt: skip

    def keep_reports(self, keep: Upkeep, view: ViewSpec) -> None:
        """Record the reports for the next run to compare with."""
        for of, report in self.reports.items():
            keep.record(view, of, report)


@contextmanager
def collect(
    engine: OfflineEngine, view: ViewSpec, planned: Plan, before: Checkpoint, keep: Upkeep, now: int
) -> Iterator[Collected]:
    """Read and judge what a plan takes; what was spilled goes when the context ends.

    Raises:
        CheckFailed: a check with policy "stop" failed.
        SourceError: the source cannot be read.
    """
    folder = keep.spill(view)
    count = planned.run.parts if folder is not None else 1
    names = [k.name for k in view.entity.keys]
    parts = Parts(names, count, folder)
    try:
        found = Collected(planned, parts, tuple(view.columns))
        _read(engine, view, planned, before, found, keep, now)
        yield found
    finally:
        parts.close()


def _read(
    engine: OfflineEngine, view: ViewSpec, planned: Plan, before: Checkpoint, found: Collected, keep: Upkeep, now: int
) -> None:
    full = planned.run.mode != "arrival"
    judges = _judges(view, planned, keep, now)
    bad: list[pa.Table] = []
    for group in _groups(planned, before):
        for table in _tables(engine, view, group, found.parts.count):
            _measure(found, planned, group, table)
            kept = _take(table, planned, before, group, full=full)
            kept = _judged(view, kept, judges, bad)
            found.parts.add([_stamped(kept.select([*found.columns, *_TIMES]), group, planned)])
    found.target = planned.target if planned.target is not None else max(found.target, before.until or 0)
    if planned.resumed or planned.run.mode == "range":
        found.watermark = before.sequence
    _judge_unique(engine, view, planned, judges, keep)
    found.reports = {of: judge.report() for of, judge in judges.items()}
    for of, report in found.reports.items():
        report.require(f"{of} {view.source.name if of == 'source' else view.name!r}")
    found.quarantined = sum(t.num_rows for t in bad)
    if found.quarantined or (full and view.source.checks):
        _quarantine(view, bad, keep, now, whole=planned.run.mode == "full")


def _groups(planned: Plan, before: Checkpoint) -> list[_Group]:
    """Return what is read together; within a group rows differ in nothing but themselves."""
    run = planned.run
    full = run.mode != "arrival"
    new = set(run.new)
    if not planned.present:
        return [_Group(None, pushed=full)]
    wanted = [f.path for f in planned.present if f.path not in new]
    if not full:
        since = before.until if before.until is not None else _NEVER
        wanted = [p for p in wanted if run.files[p].newest > since]
    by_time: dict[int | None, list[str]] = {}
    for path in wanted:
        by_time.setdefault(run.files[path].published, []).append(path)
    if full and not new and set(by_time) <= {None} and run.mode == "full":
        return [_Group(None, pushed=True)]
    groups = [_Group(tuple(paths), pushed=False, published=at) for at, paths in by_time.items()]
    if new:
        groups.append(_Group(tuple(p for p in run.new), pushed=False, fresh=True))
    if full:
        groups.append(_Group((), pushed=True))
    return groups


def _tables(engine: OfflineEngine, view: ViewSpec, group: _Group, parts: int) -> Iterator[pa.Table]:
    """Read a group without the source's checks, so that what they refuse can be counted and kept."""
    source = replace(view.source, checks=())
    columns = sorted({*view.columns, *_checked_columns(view)})
    columns = [*view.columns, *(c for c in columns if c not in set(view.columns))]
    if parts == 1:
        yield engine.scan(source, columns=columns, **_only(group))
    else:
        yield from engine.batches(source, columns=columns, **_only(group))


def _only(group: _Group) -> dict[str, Any]:
    """Return the arguments that narrow a scan to a group; what was pushed is left out by `_take` at the latest."""
    return {} if group.files is None else {"files": group.files, "pushed": group.pushed}


def _measure(found: Collected, planned: Plan, group: _Group, table: pa.Table) -> None:
    """Note the newest known time per file, and the highest log sequence."""
    if not table.num_rows:
        return
    known, sequence = (table.column(n).to_numpy() for n in ("__known", "__sequence"))
    pushed = sequence > 0
    newest = int(known[~pushed].max(initial=_NEVER))
    files = [f.path for f in planned.present] if group.files is None else list(group.files)
    for path in files:
        found.newest[path] = max(found.newest.get(path, _NEVER), newest)
    found.target = max(found.target, int(known.max()))
    found.watermark = max(found.watermark, int(sequence[pushed].max(initial=0)))


def _take(table: pa.Table, planned: Plan, before: Checkpoint, group: _Group, *, full: bool) -> pa.Table:
    """Leave out what is not known yet, and what an earlier run took."""
    import pyarrow as pa

    known, sequence = (table.column(n).to_numpy() for n in ("__known", "__sequence"))
    pushed = sequence > 0
    limit = planned.target if planned.target is not None else np.iinfo(np.int64).max
    keep = known <= limit
    if not group.pushed:
        keep &= ~pushed
    if not full and not group.fresh:
        keep &= known > (before.until if before.until is not None else _NEVER)
    if full:
        settled = planned.resumed or planned.run.mode == "range"
        last = before.sequence if settled else np.iinfo(np.int64).max
        keep = np.where(pushed, sequence <= last, keep)
    return table if keep.all() else table.filter(pa.array(keep))


def _stamped(table: pa.Table, group: _Group, planned: Plan) -> pa.Table:
    """Put in when the group's files were published; what is new is marked, its stamp comes when it is planned."""
    import pyarrow as pa

    if group.published is not None:
        known = pa.array(np.maximum(table.column("__known").to_numpy(), group.published), pa.int64())
        table = table.set_column(table.column_names.index("__known"), "__known", known)
    if planned.run.new:
        table = table.append_column("__fresh", pa.array(np.full(table.num_rows, group.fresh)))
    return table


# ------------------------------------------------------------------------------------------------ data checks


def _checked_columns(view: ViewSpec) -> set[str]:
    names = {f.name: f.of for f in view.stored if f.stat is None and f.of is not None}
    mine = {names.get(name, name) for name in checks.columns_needed(view.about.checks)}
    return checks.columns_needed(view.source.checks) | mine


def _judges(view: ViewSpec, planned: Plan, keep: Upkeep, now: int) -> dict[str, checks.Judge]:
    judges = {}
    for of, specs in (("source", view.source.checks), ("view", view.about.checks)):
        if specs:
            previous = keep.report(view, of)
            adds = planned.run.mode == "arrival" and previous is not None
            already, newest = (previous.rows, previous.newest) if adds and previous is not None else (0, None)
            schema = view.source.schema if of == "source" else ()
            judges[of] = checks.Judge(specs, now, previous, schema, already, newest)
    return judges


def _judged(view: ViewSpec, table: pa.Table, judges: Mapping[str, checks.Judge], bad: list[pa.Table]) -> pa.Table:
    """Judge rows, and take those of quarantine out."""
    import pyarrow as pa

    if not judges:
        return table
    if "source" in judges:
        _add(judges["source"], table)
        mask = checks.row_mask(view.source.checks, table)
        if mask is not None:
            out = table.filter(pa.array(~mask))
            said = pa.array(checks.reasons(view.source.checks, out), pa.string())
            bad.append(out.append_column("__reason", said))
            table = table.filter(pa.array(mask))
    if "view" in judges:
        _add(judges["view"], _as_features(view, table))
    return table


def _add(judge: checks.Judge, table: pa.Table) -> None:
    """Count the rows and judge them by all but uniqueness, which needs them all at once."""
    judge.count(table)
    judge.add(table, only=[spec for spec in judge.checks if spec.kind != "unique"])


def _as_features(view: ViewSpec, table: pa.Table) -> pa.Table:
    """Return the rows under their features' names."""
    for feature in view.stored:
        if feature.stat is None and feature.of is not None and feature.name != feature.of:
            column = table.column(feature.of)
            place = table.schema.get_field_index(feature.name)
            table = (
                table.append_column(feature.name, column)
                if place < 0
                else table.set_column(place, feature.name, column)
            )
    return table


def _judge_unique(
    engine: OfflineEngine, view: ViewSpec, planned: Plan, judges: Mapping[str, checks.Judge], keep: Upkeep
) -> None:
    """Judge uniqueness over the whole source, whatever the run takes of it; a large one by parts of equal values."""
    for of, judge in judges.items():
        for spec in judge.checks:
            if spec.kind == "unique":
                names = _columns_of(spec, view, of)
                for table in _alike(engine, view, planned, names, keep.spill(view)):
                    judge.add(_as_features(view, table) if of == "view" and _has(view, table) else table, only=[spec])


def _alike(
    engine: OfflineEngine, view: ViewSpec, planned: Plan, names: Sequence[str], folder: Path | None
) -> Iterator[pa.Table]:
    """Yield some columns of all rows; rows that agree in them come together."""
    count = _count(planned.present, "full", {}, pushed=_pushed_rows(engine, view, planned.present))
    if count == 1 or folder is None:
        yield engine.scan(view.source, columns=names)
        return
    parts = Parts(names, count, folder.with_name(f"{folder.name}-unique"))
    try:
        parts.add(engine.batches(view.source, columns=names))
        yield from (table for table in parts if table is not None)
    finally:
        parts.close()


def _columns_of(spec: CheckSpec, view: ViewSpec, of: str) -> list[str]:
    names = {f.name: f.of for f in view.stored if of == "view" and f.stat is None and f.of is not None}
    return sorted({names.get(name, name) for name in checks.columns_needed([spec])})


def _has(view: ViewSpec, table: pa.Table) -> bool:
    return all(f.of in table.column_names for f in view.stored if f.stat is None and f.of is not None)


def _quarantine(view: ViewSpec, bad: Sequence[pa.Table], keep: Upkeep, now: int, *, whole: bool) -> None:
    import pyarrow as pa

    if not bad:
        if whole:
            keep.quarantine(view, pa.table({"__sequence": pa.array([], pa.int64())}), whole=True)
        return
    rows = pa.concat_tables(bad, promote_options="default")
    keep.quarantine(view, rows.append_column("__at", pa.array([now] * rows.num_rows, pa.int64())), whole=whole)


def source_report(
    engine: OfflineEngine, source: SourceSpec, now: int, previous: checks.CheckReport | None = None
) -> checks.CheckReport:
    """Judge all rows of a source, those of quarantine included; what a snapshot does before it builds on them."""
    columns = sorted(checks.columns_needed(source.checks)) or [source.event_time]
    table = engine.scan(replace(source, checks=()), columns=columns)
    return checks.run(source.checks, table, now, previous, schema=source.schema)


def pushed_rejects(engine: OfflineEngine, source: SourceSpec) -> list[pa.Table]:
    """Return the pushed rows that a source's checks keep out: raw columns, `__reason`, `__at`, `__event`, `__sequence`.

    Ingest leaves them out before any view sees them, so no materialization finds them again; the log has them.
    """
    import pyarrow as pa

    if not any(spec.policy == "quarantine" for spec in source.checks):
        return []
    derived = {name for name, _ in source.derive}
    names = [n for n in engine.types(source) if n not in derived] + sorted(
        checks.columns_needed(source.checks) & derived
    )
    found = []
    for rows in engine.batches(replace(source, checks=()), columns=names, files=(), pushed=True):
        mask = checks.row_mask(source.checks, rows)
        if mask is None:
            continue
        bad = rows.filter(pa.array(~mask))
        times = [
            (n, bad.column(m)) for n, m in (("__at", "__known"), ("__event", "__event"), ("__sequence", "__sequence"))
        ]
        columns = {n: bad.column(n) for n in names} | dict(times)
        found.append(pa.table(columns | {"__reason": pa.array(checks.reasons(source.checks, bad), pa.string())}))
    return found
