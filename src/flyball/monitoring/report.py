"""`flyball monitor report`: one self-contained HTML page on a model's drift, performance and alerts.

The surprise: like the timeline it runs nothing and loads nothing, so it can be mailed and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from flyball.drawing.charts import Mark, Series, line_chart
from flyball.drawing.page import page
from flyball.monitoring.types import Alert, DriftWindow, PerformanceWindow

__all__ = ["render_monitor"]

_FEATURES = 3  # lines a chart can tell apart


def render_monitor(
    model: str,
    drift: Sequence[DriftWindow],
    performance: Sequence[PerformanceWindow],
    alerts: Sequence[Alert] = (),
) -> str:
    """Return the page.

    Args:
        model: Whose page it is.
        drift: Drift windows, oldest first.
        performance: Performance windows of any metrics, oldest first.
        alerts: Alerts of any model; those of other models are left out.
    """
    title = f"{model}: drift and performance"
    metrics = dict.fromkeys(w.metric for w in performance)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_sentence(drift, performance))}</p>',
        *(part for m in metrics for part in _metric(m, [w for w in performance if w.metric == m])),
        "<h2>Drift</h2>",
        _drift_chart(drift),
        _table(("window", "champion", "rows", "level", "what"), [_drift_row(w) for w in drift], numbers={2}),
        "<h2>Alerts</h2>",
        _table(("at", "severity", "what"), [_alert_row(a) for a in alerts if a.model == model]),
    ]
    return page(title, body)


def _sentence(drift: Sequence[DriftWindow], performance: Sequence[PerformanceWindow]) -> str:
    if not drift and not performance:
        return "No window has closed yet."
    pages = sum(w.level == "page" for w in drift)
    return f"{len(drift)} drift windows, {pages} of them paged; {len(performance)} performance windows."


def _metric(metric: str, windows: Sequence[PerformanceWindow]) -> Iterable[str]:
    labels = [f"{w.start:%-d %b}" for w in windows]
    lines = [Series(metric, tuple(w.value for w in windows))]
    yield f"<h2>{escape(metric)}</h2>"
    yield line_chart(f"{metric} by window of the prediction", labels, lines, unit=metric, marks=_changes(windows))
    rows = [(_when(w), w.version, f"{w.rows:,}", _number(w.value), f"{w.coverage:.0%}", w.state) for w in windows]
    yield _table(("window", "champion", "predictions", metric, "labelled", "state"), rows, numbers={2, 3, 4})


def _changes(windows: Sequence[PerformanceWindow | DriftWindow]) -> list[Mark]:
    """Mark where another version became champion."""
    pairs = enumerate(pairwise(windows), start=1)
    return [Mark(at, new.version, "good") for at, (old, new) in pairs if old.version != new.version]


def _drift_chart(windows: Sequence[DriftWindow]) -> str:
    far: dict[str, float] = {}
    for window in windows:
        for found in window.features:
            far[found.feature] = max(far.get(found.feature, 0.0), found.distance)
    names = sorted(far, key=lambda name: -far[name])[:_FEATURES]
    distances = [{f.feature: f.distance for f in w.features} for w in windows]
    series = [Series(name, tuple(found.get(name) for found in distances)) for name in names]
    pages = [Mark(at, "page", "alarm") for at, w in enumerate(windows) if w.level == "page"]
    labels = [f"{w.start:%-d %b}" for w in windows]
    title = "Distance from what the champion learned from, features that moved most"
    return line_chart(title, labels, series, unit="distance", marks=[*_changes(windows), *pages])


def _drift_row(window: DriftWindow) -> tuple[str, ...]:
    return _when(window), window.version, f"{window.rows:,}", window.level, window.text


def _alert_row(alert: Alert) -> tuple[str, ...]:
    return f"{alert.at:%Y-%m-%d %H:%M}", alert.severity, alert.text


def _when(window: PerformanceWindow | DriftWindow) -> str:
    return f"{window.start:%Y-%m-%d %H:%M}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    if not rows:
        return '<p class="soft">None.</p>'
    kinds = [' class="n"' if place in set(numbers) else "" for place in range(len(columns))]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{k}>{escape(v)}</td>" for v, k in zip(row, kinds, strict=True)) + "</tr>" for row in rows
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
