"""Numbers become SVG text: line and bar charts with title, axis and marks in words.

The surprise: a chart carries no colours of its own. Its classes take them from `CHART_CSS`, so one rule turns every
chart dark, and a line is told from another by its dash and its name, never by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["CHART_CSS", "Mark", "Series", "bar_chart", "line_chart"]

CHART_CSS = """
.chart { width: 100%; height: auto; display: block; font: 12px/1.2 system-ui, sans-serif; }
.chart text { fill: var(--ink-soft); }
.chart .title { fill: var(--ink); font-size: 14px; font-weight: 600; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .tick { font-variant-numeric: tabular-nums; }
.chart .s0 { stroke: var(--one); } .chart .s1 { stroke: var(--two); } .chart .s2 { stroke: var(--three); }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .s1.line, .chart .s1.key { stroke-dasharray: 6 4; } .chart .s2.line, .chart .s2.key { stroke-dasharray: 2 4; }
.chart .dot { stroke-width: 0; } .chart .dot.s0, .bar.s0 { fill: var(--one); }
.chart .dot.s1, .bar.s1 { fill: var(--two); } .chart .dot.s2, .bar.s2 { fill: var(--three); }
.chart .bar { stroke: none; }
.chart .mark { stroke: var(--ink-soft); stroke-width: 1; }
.chart .mark.alarm { stroke-dasharray: 2 3; } .chart .mark.good { stroke-width: 1.5; }
.chart .word { font-size: 11px; } .chart .word.alarm { fill: var(--alarm); }
.chart .word.good { fill: var(--good); } .chart .word.bad { fill: var(--bad); }
"""

_LEFT, _RIGHT, _BOTTOM, _TITLE, _ROW = 44, 12, 26, 46, 15


@dataclass(frozen=True, slots=True)
class Series:
    """One named line; None is a gap. One value per label of the x axis."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment on the x axis in words; `at` counts labels from 0 and may lie between two."""

    at: float
    word: str
    kind: Literal["alarm", "good", "bad", "plain"] = "plain"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie on the canvas."""

    width: float
    top: float
    bottom: float
    count: int
    low: float
    high: float

    def x(self, index: float) -> float:
        span = self.width - _LEFT - _RIGHT
        return _LEFT + span * (index + 0.5) / self.count

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)


def line_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    unit: str,
    marks: Sequence[Mark] = (),
    width: int = 760,
    height: int = 240,
) -> str:
    """Return an SVG line chart; up to three series.

    Args:
        title: What is shown, one short sentence.
        labels: One per step of the x axis.
        series: Lines; values past the labels are ignored.
        unit: Unit of the y axis, written at its top.
        marks: Moments, drawn as lines with words above the chart; words never overlap.
        width: Canvas in pixels; the SVG scales with its container. Use about 360 for a phone.
        height: Height of the drawing area without title and words.
    """
    if not labels or all(v is None for s in series for v in s.values):
        return _empty(title, width)
    rows, words = _words(marks, width, len(labels))
    top = _TITLE + rows * _ROW + 6
    low, high, ticks = _scale([v for s in series for v in s.values if v is not None])
    frame = _Frame(width, top, top + height, len(labels), low, high)
    parts = [*_head(title, unit, width, frame, series), *_grid(frame, ticks), *_x_axis(frame, labels)]
    for mark, row in words:
        parts += _mark(frame, mark, _TITLE + row * _ROW + 10)
    for number, each in enumerate(series):
        parts += _line(frame, each.values[: len(labels)], number)
    return "\n".join([*parts, "</svg>"])


def bar_chart(
    title: str, labels: Sequence[str], values: Sequence[float], *, unit: str, width: int = 760, height: int = 160
) -> str:
    """Return an SVG bar chart from zero; one bar a label, the value in a tooltip."""
    if not labels:
        return _empty(title, width)
    _, high, ticks = _scale([0.0, *values])
    frame = _Frame(width, _TITLE, _TITLE + height, len(labels), 0.0, high)
    thick = max(2.0, (width - _LEFT - _RIGHT) / len(labels) * 0.7)
    parts = [*_head(title, unit, width, frame, ()), *_grid(frame, ticks), *_x_axis(frame, labels)]
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        y = frame.y(max(value, 0.0))
        parts.append(
            f'<rect class="bar s0" x="{frame.x(index) - thick / 2:.1f}" y="{y:.1f}" width="{thick:.1f}" '
            f'height="{frame.bottom - y:.1f}"><title>{escape(label)}: {_number(value)} {escape(unit)}</title></rect>'
        )
    return "\n".join([*parts, "</svg>"])


def _head(title: str, unit: str, width: int, frame: _Frame, series: Sequence[Series]) -> list[str]:
    full = frame.bottom + _BOTTOM
    names = ", ".join(s.name for s in series)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {full:.0f}" role="img" aria-label="{escape(title)}">',
        f"<desc>{escape(title)} ({escape(unit)}){': ' + escape(names) if names else ''}</desc>",
        f'<text class="title" x="2" y="16">{escape(title)}</text>',
        f'<text x="2" y="34">{escape(unit)}</text>',
    ]
    x = max(_LEFT + 8.0, 10 + 6.4 * len(unit))
    for number, each in enumerate(series):
        parts.append(f'<line class="line key s{number}" x1="{x:.0f}" y1="30" x2="{x + 22:.0f}" y2="30"/>')
        parts.append(f'<text x="{x + 27:.0f}" y="34">{escape(each.name)}</text>')
        x += 42 + 6.4 * len(each.name)
    return parts


def _grid(frame: _Frame, ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{frame.width - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    return parts


def _x_axis(frame: _Frame, labels: Sequence[str]) -> list[str]:
    longest = max(len(label) for label in labels)
    room = (frame.width - _LEFT - _RIGHT) / len(labels)
    every = max(1, math.ceil((longest * 6.4 + 10) / room))
    y = frame.bottom + 18
    return [
        f'<text class="tick" x="{frame.x(i):.1f}" y="{y:.1f}" text-anchor="middle">{escape(label)}</text>'
        for i, label in enumerate(labels)
        if i % every == 0
    ]


def _line(frame: _Frame, values: Sequence[float | None], number: int) -> list[str]:
    parts, path = [], ""
    for index, value in enumerate(values):
        if value is None:
            continue
        step = "L" if path and values[index - 1] is not None else "M"
        path += f"{step}{frame.x(index):.1f} {frame.y(value):.1f}"
        parts.append(
            f'<circle class="dot s{number}" cx="{frame.x(index):.1f}" cy="{frame.y(value):.1f}" r="2.5">'
            f"<title>{_number(value)}</title></circle>"
        )
    return [f'<path class="line s{number}" d="{path}"/>', *parts]


def _mark(frame: _Frame, mark: Mark, y: float) -> list[str]:
    x = frame.x(mark.at)
    left, anchor = (x + 4, "start") if x + 4 + 6 * len(mark.word) < frame.width else (x - 4, "end")
    return [
        f'<line class="mark {mark.kind}" x1="{x:.1f}" y1="{y - 8:.1f}" x2="{x:.1f}" y2="{frame.bottom:.1f}"/>',
        f'<text class="word {mark.kind}" x="{left:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(mark.word)}</text>',
    ]


def _words(marks: Sequence[Mark], width: int, count: int) -> tuple[int, list[tuple[Mark, int]]]:
    """Give each mark's word the first row in which it overlaps no other; return rows used and placed marks."""
    frame = _Frame(width, 0, 1, count, 0, 1)
    rows: list[list[tuple[float, float]]] = []
    placed = []
    for mark in sorted(marks, key=lambda m: m.at):
        x, size = frame.x(mark.at), 6.0 * len(mark.word) + 12
        span = (x - 2, x + size) if x + size < width else (x - size, x + 2)
        row = next((i for i, used in enumerate(rows) if all(span[1] < a or span[0] > b for a, b in used)), len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(span)
        placed.append((mark, row))
    return len(rows), placed


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the axis' ends and its ticks; it begins at 0 unless all values lie far above it."""
    low, high = min(values), max(values)
    if 0 <= low < 0.6 * high or low == high:
        low = min(low, 0.0)
    step = _nice((high - low or abs(high) or 1.0) / 4)
    first, last = math.floor(low / step), math.ceil((high or step) / step)
    ticks = [k * step for k in range(first, max(last, first + 1) + 1)]
    return ticks[0], ticks[-1], ticks


def _nice(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(k * size for k in (1, 2, 2.5, 5, 10) if k * size >= step * 0.999)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _empty(title: str, width: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} 60" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="2" y="16">{escape(title)}</text><text x="2" y="40">no data yet</text></svg>'
    )
