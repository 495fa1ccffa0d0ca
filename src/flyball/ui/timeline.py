"""The demo's timeline: one self-contained HTML page of what happened and why.

The surprise: it runs nothing. No script, no font, no address: a strict policy in its head forbids them, so the file
can be mailed, kept beside an audit, and opened in ten years.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

from flyball.drawing.charts import Mark, Series, bar_chart, line_chart
from flyball.drawing.page import page
from flyball.units import spoken

__all__ = ["render_timeline"]

_WORDS = {"promoted": "promoted", "rolled_back": "rolled back", "paused": "paused"}


def render_timeline(report: Mapping[str, Any]) -> str:
    """Return the page for a demo's JSON document.

    Args:
        report: The keys of `flyball demo --json`: trips_served, failed_requests, latency_ms, rollouts,
            drift_first_alarm, retrained_versions, error_by_day, wall_s, own_overhead_s, peak_pss_mb. Missing keys and
            None leave their part out. Beside these, when present: `title`, `unit` (default minutes), `timezone` text,
            `drift` [{start, level, text, version}], `story` [lines], and `decided_at` or `started_at` (ISO) in each
            rollout, which place it on the chart.
    """
    days: Sequence[Mapping[str, Any]] = report.get("error_by_day") or []
    title = str(report.get("title") or "What flyball did, and why")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_sentence(report, days))}</p>',
        _figures(report, days),
        "<h2>Error by day, with and without the loop</h2>",
        _errors(report, days),
        "<h2>Releases</h2>",
        _releases(report.get("rollouts") or []),
        "<h2>Drift</h2>",
        _drift(report),
        *_story(report.get("story") or []),
        "<h2>Days</h2>",
        _trips(days),
        _day_table(days, str(report.get("unit") or "min")),
    ]
    return page(title, body)


def _sentence(report: Mapping[str, Any], days: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [r.get("verdict") for r in report.get("rollouts") or []]
    span = f"{days[0]['day']} to {days[-1]['day']}: " if days else ""
    kept, gone = verdicts.count("promoted"), verdicts.count("rolled_back")
    return f"{span}{_count(kept, 'release')} promoted, {_count(gone, 'release')} rolled back by evidence."


def _figures(report: Mapping[str, Any], days: Sequence[Mapping[str, Any]]) -> str:
    latency = report.get("latency_ms") or {}
    with_loop, without = _mean(days, "with_loop"), _mean(days, "without_loop")
    unit = str(report.get("unit") or "min")
    figures = [
        ("Trips served", _whole(report.get("trips_served"))),
        ("Failed requests", _whole(report.get("failed_requests"))),
        ("Error with the loop", _of(with_loop, unit)),
        ("Error without", _of(without, unit)),
        ("Latency p50 / p99", f"{latency['p50']:.3g} / {latency['p99']:.3g} ms" if "p99" in latency else None),
        ("Wall time", _of(report.get("wall_s"), "s")),
        ("Overhead of the loop", _of(report.get("own_overhead_s"), "s")),
        ("Peak memory", _of(report.get("peak_pss_mb"), "MB")),
    ]
    cells = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in figures if v is not None)
    return f'<dl class="figures">{cells}</dl>'


def _errors(report: Mapping[str, Any], days: Sequence[Mapping[str, Any]]) -> str:
    names = [str(d["day"]) for d in days]
    series = [
        Series("with the loop", tuple(d.get("with_loop") for d in days)),
        Series("without the loop", tuple(d.get("without_loop") for d in days)),
    ]
    unit = f"mean error, {report.get('unit') or 'min'}"
    marks = _marks(report, names)
    labels = [_short(n) for n in names]
    title = "Mean absolute error by day of the prediction"
    wide = line_chart(title, labels, series, unit=unit, marks=marks)
    narrow = line_chart(title, labels, series, unit=unit, marks=marks, width=380, height=260)
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'


def _marks(report: Mapping[str, Any], days: Sequence[str]) -> list[Mark]:
    marks = []
    for rollout in report.get("rollouts") or []:
        at = _place(rollout.get("decided_at") or rollout.get("started_at"), days)
        if at is not None:
            verdict = str(rollout.get("verdict"))
            kind = {"promoted": "good", "rolled_back": "bad"}.get(verdict, "plain")
            marks.append(Mark(at, f"{rollout.get('version')} {_WORDS.get(verdict, verdict)}", kind))  # type: ignore[arg-type]
    alarm = _place(report.get("drift_first_alarm"), days)
    if alarm is not None:
        marks.append(Mark(alarm, "first drift alarm", "alarm"))
    return marks


def _place(moment: object, days: Sequence[str]) -> float | None:
    """Return where an ISO time lies on the axis of days: the middle of its day is the day's index."""
    if not moment:
        return None
    text = str(moment)
    if text[:10] not in days:
        return None
    at = datetime.fromisoformat(text) if len(text) > 10 else None
    return days.index(text[:10]) + ((at.hour + at.minute / 60) / 24 - 0.5 if at is not None else 0.0)


def _releases(rollouts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for r in rollouts:
        verdict = str(r.get("verdict"))
        word = f'<span class="{escape(verdict)}">{escape(_WORDS.get(verdict, verdict))}</span>'
        rows.append(
            (
                escape(str(r.get("version"))),
                escape(str(r.get("cause") or "")),
                word,
                escape(_whole(r.get("candidate_requests")) or ""),
                escape(_span(r.get("decided_after_s"))),
                escape(str(r.get("reason") or "")),
            )
        )
    heads = ("Version", "Cause", "Verdict", ">Candidate requests", ">Decided after", "Reason")
    return _table(heads, rows) if rows else '<p class="soft">No release was started.</p>'


def _drift(report: Mapping[str, Any]) -> str:
    first = report.get("drift_first_alarm")
    retrained = [str(v) for v in report.get("retrained_versions") or []]
    text = f"The first alarm came for the window at {_minute(first)}." if first else "No drift alarm was raised."
    text += f" The loop trained {', '.join(retrained)} by itself." if retrained else " Nothing was retrained."
    rows = [
        tuple(
            escape(str(x))
            for x in (_minute(w.get("start")), w.get("version") or "", w.get("level"), w.get("text") or "")
        )
        for w in report.get("drift") or []
        if w.get("level") != "none"
    ]
    return f"<p>{escape(text)}</p>" + (_table(("Window", "Against", "Level", "What moved"), rows) if rows else "")


def _story(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return ["<h2>Why</h2>", '<div class="scroll"><pre>' + escape("\n".join(lines)) + "</pre></div>"]


def _trips(days: Sequence[Mapping[str, Any]]) -> str:
    labels, trips = [_short(str(d["day"])) for d in days], [float(d.get("trips") or 0) for d in days]
    wide = bar_chart("Trips by day", labels, trips, unit="trips", height=110)
    narrow = bar_chart("Trips by day", labels, trips, unit="trips", width=380, height=110)
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'


def _day_table(days: Sequence[Mapping[str, Any]], unit: str) -> str:
    rows = [
        (
            escape(str(d["day"])),
            _whole(d.get("trips")) or "",
            _figure(d.get("with_loop")),
            _figure(d.get("without_loop")),
        )
        for d in days
    ]
    return _table(("Day", ">Trips", f">With the loop, {unit}", f">Without, {unit}"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a head that begins with > makes its column a number's. Cells are HTML already."""
    numeric = [h.startswith(">") for h in heads]
    style = [' class="n"' if n else "" for n in numeric]
    head = "".join(f"<th{s}>{escape(h.lstrip('>'))}</th>" for h, s in zip(heads, style, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{cell}</td>" for cell, s in zip(row, style, strict=True)) + "</tr>\n" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _mean(days: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean error over trips of the days on which both were measured."""
    both = [d for d in days if d.get("with_loop") is not None and d.get("without_loop") is not None]
    trips = sum(d.get("trips") or 0 for d in both)
    return sum(d[key] * (d.get("trips") or 0) for d in both) / trips if trips else None


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _whole(value: Any) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def _of(value: Any, unit: str) -> str | None:
    return None if value is None else f"{value:,.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} {unit}"


def _span(seconds: float | None) -> str:
    return "" if seconds is None else spoken(timedelta(seconds=seconds))


def _short(day: str) -> str:
    """Return "16 Mar" for "2020-03-16"; another text passes through."""
    try:
        return f"{datetime.fromisoformat(day):%-d %b}"
    except ValueError:
        return day


def _minute(moment: object) -> str:
    return str(moment)[:16].replace("T", " ")
