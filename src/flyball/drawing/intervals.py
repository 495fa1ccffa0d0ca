"""Intervals on one scale as SVG text: a dot with whiskers per row, a line at "no effect", a band for the margin.

The surprise: whiskers that leave the canvas end in an arrow, so that one wide interval does not flatten all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["INTERVAL_CSS", "Interval", "interval_chart"]

INTERVAL_CSS = """
.whisker { stroke: var(--one); stroke-width: 2; } .point { fill: var(--one); }
.whisker.good { stroke: var(--good); } .point.good { fill: var(--good); }
.whisker.bad { stroke: var(--bad); stroke-dasharray: 5 3; } .point.bad { fill: var(--bad); }
.zero { stroke: var(--ink); stroke-width: 1.5; } .margin { stroke: var(--alarm); stroke-dasharray: 3 3; }
"""

_TOP, _ROW, _LEFT, _RIGHT, _FOOT = 40, 30, 230, 150, 34


@dataclass(frozen=True, slots=True)
class Interval:
    """One row: an effect between its bounds, which may be infinite; `margin` is drawn as a mark where it is given."""

    label: str
    value: float
    lower: float
    upper: float
    word: str = ""
    kind: Literal["good", "bad", "plain"] = "plain"
    margin: float | None = None


def interval_chart(title: str, rows: Sequence[Interval], *, unit: str, zero: float = 0.0, width: int = 760) -> str:
    """Return an SVG of intervals on one scale.

    Args:
        title: What is shown, one short sentence.
        rows: One per effect, drawn from the top.
        unit: Unit of the scale, written under it.
        zero: Where "no effect" lies.
        width: Canvas in pixels; the SVG scales with its container.
    """
    height = _TOP + _ROW * max(len(rows), 1) + _FOOT
    head = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<desc>{escape(title)} ({escape(unit)})</desc>",
        f'<text class="title" x="2" y="16">{escape(title)}</text>',
    ]
    if not rows:
        return "\n".join([*head, f'<text x="2" y="{_TOP + 12}">no data yet</text>', "</svg>"])
    low, high, ticks = _scale(rows, zero)
    room = width - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + room * (min(max(value, low), high) - low) / (high - low)

    bottom = _TOP + _ROW * len(rows)
    parts = [*head, *(_tick(x(tick), tick, bottom) for tick in ticks)]
    parts.append(f'<line class="zero" x1="{x(zero):.1f}" y1="{_TOP - 6}" x2="{x(zero):.1f}" y2="{bottom}"/>')
    parts.append(f'<text x="{_LEFT + room / 2:.0f}" y="{height - 2}" text-anchor="middle">{escape(unit)}</text>')
    for at, row in enumerate(rows):
        y = _TOP + _ROW * at + _ROW / 2
        ends = (x(row.lower), x(row.upper))
        parts.append(
            f'<text x="2" y="{y + 4:.1f}">{escape(_short(row.label))}<title>{escape(row.label)}</title></text>'
        )
        parts.append(f'<line class="whisker {row.kind}" x1="{ends[0]:.1f}" y1="{y}" x2="{ends[1]:.1f}" y2="{y}"/>')
        parts += [_end(ends[0], y, row.lower < low, -1, row.kind), _end(ends[1], y, row.upper > high, 1, row.kind)]
        if row.margin is not None and low <= row.margin <= high:
            m = x(row.margin)
            parts.append(f'<line class="margin" x1="{m:.1f}" y1="{y - 11}" x2="{m:.1f}" y2="{y + 11}"/>')
        parts.append(
            f'<circle class="point {row.kind}" cx="{x(row.value):.1f}" cy="{y}" r="4">'
            f"<title>{_number(row.value)} [{_number(row.lower)}, {_number(row.upper)}] {escape(unit)}</title></circle>"
        )
        parts.append(f'<text class="word" x="{width - _RIGHT + 10}" y="{y + 4:.1f}">{escape(row.word)}</text>')
    return "\n".join([*parts, "</svg>"])


def _tick(x: float, value: float, bottom: float) -> str:
    line = f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>'
    return f'{line}<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{_number(value)}</text>'


def _end(x: float, y: float, beyond: bool, side: int, kind: str) -> str:
    if beyond:
        back = x - 6 * side
        return f'<path class="whisker {kind}" fill="none" d="M{back:.1f} {y - 5}L{x:.1f} {y}L{back:.1f} {y + 5}"/>'
    return f'<line class="whisker {kind}" x1="{x:.1f}" y1="{y - 5}" x2="{x:.1f}" y2="{y + 5}"/>'


def _scale(rows: Sequence[Interval], zero: float) -> tuple[float, float, list[float]]:
    """Return the ends and ticks of a scale that holds every value, and whiskers up to four times as far as those."""
    values = [zero, *(r.value for r in rows)]
    whiskers = sorted(abs(v - zero) for r in rows for v in (r.lower, r.upper) if math.isfinite(v))
    far = max(abs(v - zero) for v in values)
    typical = whiskers[len(whiskers) // 2] if whiskers else 0.0
    reach = max(far * 1.1, min(whiskers[-1] if whiskers else 0.0, 4.0 * max(typical, far)))
    low = max(min([zero, *(r.lower for r in rows if math.isfinite(r.lower)), *values]), zero - reach)
    high = min(max([zero, *(r.upper for r in rows if math.isfinite(r.upper)), *values]), zero + reach)
    if low == high:
        low, high = low - 1.0, high + 1.0
    step = _nice((high - low) / 4.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [k * step for k in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _nice(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(k * size for k in (1, 2, 2.5, 5, 10) if k * size >= step * 0.999)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "no bound"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(label: str) -> str:
    return label if len(label) <= 34 else f"{label[:33]}…"
