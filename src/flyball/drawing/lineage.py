"""A tree as boxes from left to right, in SVG: what came of what.

The surprise: a box's row is decided by its leaves, so no two lines ever cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Branch", "tree_chart"]

_WIDE, _HIGH, _GAP_X, _GAP_Y = 190, 46, 34, 12
_STYLE = (
    ".lineage{font:12px/1.3 system-ui,sans-serif}.lineage rect{fill:none;stroke:var(--ink-soft,#5a6470)}"
    ".lineage path{fill:none;stroke:var(--ink-soft,#5a6470)}.lineage text{fill:var(--ink,#1b1f24)}"
    ".lineage .soft{fill:var(--ink-soft,#5a6470)}.lineage .strong{font-weight:600}"
)


@dataclass(frozen=True, slots=True)
class Branch:
    """A box: its first line, a softer second one, and the boxes to its right."""

    title: str
    text: str
    children: Sequence[Branch] = field(default=())


def tree_chart(title: str, roots: Sequence[Branch]) -> str:
    """Return an SVG of trees, one below another; the whole text of a box is its tooltip."""
    parts: list[str] = []
    rows = 0.0
    for root in roots:
        _, rows = _place(root, 0, rows, parts)
    width = max((_depth(r) for r in roots), default=1) * (_WIDE + _GAP_X) - _GAP_X + 4
    height = max(rows, 1) * (_HIGH + _GAP_Y) + 26
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" role="img" aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<text class="strong" x="2" y="14">{escape(title)}</text>'
    )
    return "\n".join([head, *parts, "</svg>"])


def _depth(branch: Branch) -> int:
    return 1 + max((_depth(c) for c in branch.children), default=0)


def _place(branch: Branch, column: int, row: float, parts: list[str]) -> tuple[float, float]:
    """Draw a branch from `row` on; return the middle of its box and the next free row."""
    middles, free = [], row
    for child in branch.children:
        middle, free = _place(child, column + 1, free, parts)
        middles.append(middle)
    free = max(free, row + 1)
    at = (middles[0] + middles[-1]) / 2 if middles else row
    x, y = 2 + column * (_WIDE + _GAP_X), 24 + at * (_HIGH + _GAP_Y)
    parts += _box(branch, x, y)
    for middle in middles:
        there = 24 + middle * (_HIGH + _GAP_Y) + _HIGH / 2
        a, b, m = x + _WIDE, x + _WIDE + _GAP_X, x + _WIDE + _GAP_X / 2
        parts.append(f'<path d="M{a} {y + _HIGH / 2:.1f}C{m} {y + _HIGH / 2:.1f} {m} {there:.1f} {b} {there:.1f}"/>')
    return at, free


def _box(branch: Branch, x: float, y: float) -> list[str]:
    left = x + 8
    return [
        f"<g><title>{escape(branch.title)} {escape(branch.text)}</title>",
        f'<rect x="{x}" y="{y:.1f}" width="{_WIDE}" height="{_HIGH}" rx="5"/>',
        f'<text class="strong" x="{left}" y="{y + 19:.1f}">{escape(_short(branch.title))}</text>',
        f'<text class="soft" x="{left}" y="{y + 36:.1f}">{escape(_short(branch.text))}</text></g>',
    ]


def _short(text: str, most: int = 27) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
