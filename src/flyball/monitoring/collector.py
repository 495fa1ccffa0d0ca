"""Turn the prediction log into closed windows: profiles of what was served, and metrics of what became of it.

The surprise: nothing here is stored but results. A restarted collector reads the log from its beginning and comes to
the same windows; what the store already holds is not judged again, so recording is idempotent.

All of a model's traffic counts for drift, whichever arm answered, as drift is about who asks, not who answers: rows of
the champion always, rows of a candidate when it reads the same columns. Rows without an answer, and rows that fell
back to the champion, are left out: their features may be in a third version's order. So are requests pinned to a
version: somebody tries something. Each row is compared with the
version that was champion when it was served, so a promotion splits a window in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from flyball.monitoring.drift import judge_window
from flyball.monitoring.performance import Labelled, performance_window
from flyball.monitoring.ports import MonitorStore
from flyball.monitoring.types import Alert, DriftWindow, MonitorSpec, PerformanceWindow
from flyball.profiles.profile import Profile
from flyball.profiles.reference import Reference
from flyball.profiles.windows import window_bounds
from flyball.records.log import Batch
from flyball.records.repeats import Repeats
from flyball.records.types import Outcome, Prediction
from flyball.units import from_micros, to_micros

__all__ = ["Collector", "ModelMonitors", "References"]

References = Callable[[str, str], Reference | None]
_FLUSH = 4096  # rows buffered before they are folded into a profile
_TRIES = 3  # passes in which an outcome's prediction may still come from another worker's segment


@dataclass(frozen=True, slots=True)
class ModelMonitors:
    """What to watch of one model. `matures` is how long after a prediction its outcome counts as known."""

    model: str
    monitors: tuple[MonitorSpec, ...]
    timezone: str = "UTC"
    matures: timedelta = timedelta(0)


@dataclass(slots=True)
class _DriftWindow:
    """An open drift window of one champion."""

    version: str
    start: datetime
    end: datetime
    profile: Profile
    first: int  # T of its first and last row, µs
    last: int
    rows: list[list[float]] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        self.rows.append(prediction.features)
        self.first, self.last = min(self.first, prediction.at), max(self.last, prediction.at)
        if len(self.rows) >= _FLUSH:
            self.flush()

    def flush(self) -> Profile:
        if self.rows:
            self.profile = self.profile.merge(Profile.fold(self.profile.edges, np.array(self.rows, dtype=np.float64)))
            self.rows = []
        return self.profile


@dataclass(slots=True)
class _Watch:
    """One monitor of one model with its open windows; µs bounds of the newest window save a calendar look-up a row."""

    model: str
    spec: MonitorSpec
    timezone: str
    matures: timedelta
    closed: int = 0  # end of the newest closed window, µs: rows before it come too late
    known: int = 0  # the same when the collector started: rows before it were counted by an earlier one
    bounds: tuple[int, int] = (0, 0)
    drift: dict[tuple[int, str], _DriftWindow] = field(default_factory=dict)  # (start, champion)
    labelled: dict[tuple[int, str], Labelled] = field(default_factory=dict)  # (start, version that answered)
    recorded: dict[tuple[int, str], PerformanceWindow] = field(default_factory=dict)
    began: int | None = None  # T of the model's first row

    def start_of(self, at: int) -> int:
        low, high = self.bounds
        if not low <= at < high:
            start, end = window_bounds(from_micros(at), self.spec.window, self.timezone)
            self.bounds = low, high = to_micros(start), to_micros(end)
        return low


class Collector:
    """Follow the log and close windows; one per project, in the control process."""

    def __init__(self, *, store: MonitorStore, models: Iterable[ModelMonitors], references: References) -> None:
        """Watch `models`; `references` gives a version's reference, or None when it has none."""
        self._store = store
        self._look_up = references
        self._references: dict[tuple[str, str], Reference | None] = {}
        self._drift: dict[str, list[_Watch]] = {}
        self._performance: dict[str, list[_Watch]] = {}
        self._champions: dict[str, tuple[dict[int, str], str]] = {}  # by table, and the newest
        self._repeats = Repeats()  # a request sent twice may stand in the logs of two workers
        self._orphans: dict[str, tuple[Outcome, int]] = {}  # and how often they were tried
        self.late = 0  # rows and outcomes that came after their window was closed
        for each in models:
            for spec in each.monitors:
                home = self._drift if spec.kind == "drift" else self._performance
                watch = _Watch(each.model, spec, each.timezone, each.matures)
                watch.closed = watch.known = self._closed_before(each.model, spec)
                home.setdefault(each.model, []).append(watch)

    def fold(self, batches: Iterable[Batch]) -> None:
        """Take in what was appended to the log: predictions first, so that outcomes of the same pass find them."""
        outcomes: list[Outcome] = []
        predictions: list[Prediction] = []
        for batch in batches:
            outcomes += [r for r in batch.records if isinstance(r, Outcome)]
            predictions += [r for r in batch.records if isinstance(r, Prediction)]
        self._references = {k: r for k, r in self._references.items() if r is not None}  # ask again for missing ones
        for prediction in predictions:
            self._learn_champion(prediction)
        for prediction in predictions:
            answered = (prediction.value is not None and prediction.error is None) or prediction.fallback
            if answered and not self._repeats.again(prediction.id):
                self._predicted(prediction)
        waiting, self._orphans = self._orphans, {}
        for outcome, tried in waiting.values():
            self._came_true(outcome, tried)
        for outcome in outcomes:
            self._came_true(outcome, 0)

    def close(self, now: datetime) -> list[DriftWindow]:
        """Judge and record every window that ended by `now`; return the drift windows recorded for the first time.

        `now` is domain time read before the log was followed, so that no row of a closed window can still come.
        """
        moment = to_micros(now)
        closed = [w for watches in self._drift.values() for watch in watches for w in self._close_drift(watch, moment)]
        for watches in self._performance.values():
            for watch in watches:
                self._close_performance(watch, now)
        return closed

    def _closed_before(self, model: str, spec: MonitorSpec) -> int:
        """Return the end (µs) of the newest window that the store already holds for good, else 0."""
        if spec.kind == "drift":
            ends = [w.end for w in self._store.drift(model)]
        else:
            kept = self._store.performance(model)
            ends = [w.end for w in kept if w.metric == spec.metric and w.state == "final"]
        return max((to_micros(e) for e in ends), default=0)

    def _learn_champion(self, prediction: Prediction) -> None:
        if prediction.arm == "champion" and not prediction.fallback:
            tables, _ = self._champions.setdefault(prediction.model, ({}, prediction.version))
            tables[prediction.table] = prediction.version
            self._champions[prediction.model] = (tables, prediction.version)

    def _champion_of(self, prediction: Prediction) -> str | None:
        tables, newest = self._champions.get(prediction.model, ({}, ""))
        return tables.get(prediction.table, newest) or None

    def _predicted(self, prediction: Prediction) -> None:
        for watch in self._performance.get(prediction.model, ()):
            self._keep_answer(watch, prediction)
        champion = self._champion_of(prediction)
        if prediction.fallback or prediction.arm == "pinned" or champion is None:
            return
        reference = self._reference(prediction.model, champion)
        if reference is None or not self._same_columns(prediction, champion, reference):
            return
        for watch in self._drift.get(prediction.model, ()):
            self._keep_features(watch, prediction, champion, reference)

    def _keep_features(self, watch: _Watch, prediction: Prediction, champion: str, reference: Reference) -> None:
        watch.began = prediction.at if watch.began is None else min(watch.began, prediction.at)
        start = watch.start_of(prediction.at)
        if prediction.at < watch.closed:
            self.late += prediction.at >= watch.known
            return
        window = watch.drift.get((start, champion))
        if window is None:
            begin, end = (from_micros(t) for t in watch.bounds)
            empty = Profile.empty(reference.edges)
            window = _DriftWindow(champion, begin, end, empty, prediction.at, prediction.at)
            watch.drift[start, champion] = window
        window.add(prediction)

    def _keep_answer(self, watch: _Watch, prediction: Prediction) -> None:
        start = watch.start_of(prediction.at)
        if prediction.at < watch.closed or prediction.value is None:
            self.late += prediction.at >= watch.known and prediction.value is not None
            return
        watch.labelled.setdefault((start, prediction.version), Labelled()).add(prediction.id, prediction.value)

    def _came_true(self, outcome: Outcome, tried: int) -> None:
        found = False
        for watches in self._performance.values():
            for watch in watches:
                for labelled in watch.labelled.values():
                    if outcome.id in labelled.answers:
                        labelled.label(outcome.id, outcome.value, outcome.revision)
                        found = True
        if found or not self._performance:
            return
        if tried + 1 >= _TRIES:
            self.late += 1
            return
        known = self._orphans.get(outcome.id)
        if known is None or known[0].revision < outcome.revision:
            self._orphans[outcome.id] = (outcome, tried + 1)

    def _same_columns(self, prediction: Prediction, champion: str, reference: Reference) -> bool:
        if len(prediction.features) != len(reference.names):
            return False
        if prediction.version == champion:
            return True
        other = self._reference(prediction.model, prediction.version)
        return other is not None and other.names == reference.names

    def _reference(self, model: str, version: str) -> Reference | None:
        key = (model, version)
        if key not in self._references:
            self._references[key] = self._look_up(model, version)
        return self._references[key]

    def _close_drift(self, watch: _Watch, now: int) -> list[DriftWindow]:
        ended = sorted((w for w in watch.drift.values() if to_micros(w.end) <= now), key=lambda w: (w.start, w.first))
        fresh = [w for window in ended if (w := self._judge(watch, window, ended)) is not None]
        for window in ended:
            del watch.drift[to_micros(window.start), window.version]
            watch.closed = max(watch.closed, to_micros(window.end))
        return fresh

    def _judge(self, watch: _Watch, window: _DriftWindow, ended: Sequence[_DriftWindow]) -> DriftWindow | None:
        history = self._store.drift(watch.model, version=window.version)
        reference = self._reference(watch.model, window.version)
        if reference is None or any(w.start == window.start and w.end == window.end for w in history):
            return None
        judged = judge_window(
            reference,
            window.flush(),
            watch.spec,
            history,
            model=watch.model,
            version=window.version,
            start=window.start,
            end=window.end,
            covered=_covered(watch, window, ended),
        )
        if judged.level != "none":
            self._store.alert_once(_alert(judged))  # before the record, which says that all is done
        self._store.record_drift(judged)
        return judged

    def _close_performance(self, watch: _Watch, now: datetime) -> None:
        for key, labelled in sorted(watch.labelled.items()):
            start, end = window_bounds(from_micros(key[0]), watch.spec.window, watch.timezone)
            if end > now:
                continue
            window = performance_window(
                labelled,
                watch.spec.metric,
                model=watch.model,
                version=key[1],
                start=start,
                end=end,
                matures=watch.matures,
                now=now,
            )
            if watch.recorded.get(key) != window:
                self._store.record_performance(window)
                watch.recorded[key] = window
            if window.state == "final":
                del watch.labelled[key]
                watch.recorded.pop(key)
                watch.closed = max(watch.closed, to_micros(end))


def _covered(watch: _Watch, window: _DriftWindow, ended: Sequence[_DriftWindow]) -> float:
    """Return the share of the window in which its version was the champion and the model was served at all."""
    start, end = to_micros(window.start), to_micros(window.end)
    peers = [w for w in ended if w.start == window.start and w is not window]
    begin = window.first if any(p.first < window.first for p in peers) else max(start, watch.began or start)
    finish = window.last if any(p.last > window.last for p in peers) else end
    return max(0, finish - begin) / (end - start)


def _alert(window: DriftWindow) -> Alert:
    key = f"drift/{window.model}/{window.version}/{window.start.isoformat()}/{window.level}"
    severity: Literal["warn", "page"] = "page" if window.level == "page" else "warn"
    details: dict[str, str | float | int] = {"version": window.version, "rows": window.rows}
    return Alert(key, window.end, severity, window.model, f"{window.model}: {window.text}", details)
