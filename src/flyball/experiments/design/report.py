"""`flyball exp analyze --html`: one self-contained page on an experiment's result.

The surprise: like every page that is meant to be mailed it runs nothing and loads nothing; and the checks of the
instrument stand above the effects, because they come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from flyball.drawing.intervals import INTERVAL_CSS, Interval, interval_chart
from flyball.drawing.page import page
from flyball.experiments.design.metric import Role
from flyball.experiments.design.result import Comparison, Finding, Outcome, Result
from flyball.experiments.design.types import Experiment

__all__ = ["render_experiment"]

_CLASS = {Outcome.SHIP: "promoted", Outcome.KEEP: "rolled_back", Outcome.UNTRUSTED: "rolled_back"}


def render_experiment(experiment: Experiment, result: Result) -> str:
    """Return the page.

    Args:
        experiment: The design.
        result: What `analyze` said of it.
    """
    body = [
        f"<style>{INTERVAL_CSS}</style>",
        f"<h1>{escape(experiment.name)}</h1>",
        f'<p class="soft">{escape(experiment.hypothesis or "No hypothesis was written down.")}</p>',
        _verdict(result),
        _figures(experiment, result),
        "<h2>Can it be believed?</h2>",
        _table(("check", "verdict", "what"), [(c.name, str(c.verdict), c.sentence) for c in result.trust.checks]),
        "<h2>Effects</h2>",
        *_charts(experiment, result.comparisons),
        _table(
            ("metric", "arm", "role", "effect", "interval", "of control", "p adjusted", "power", "finding"),
            [_row(c) for c in result.comparisons],
            numbers={3, 4, 5, 6, 7},
        ),
        *_impacts(result),
        *_beliefs(result),
        "<h2>Design</h2>",
        _table(("what", "as decided before the first exposure"), _design(experiment, result)),
        *(f'<p class="soft">{escape(_upper(note))}.</p>' for note in result.notes),
    ]
    return page(f"{experiment.name}: {result.outcome}", body)


def _verdict(result: Result) -> str:
    strong = f"<strong>{escape(_upper(str(result.outcome)))}.</strong>"
    return f'<p class="{_CLASS.get(result.outcome, "paused")}">{strong} {escape(_upper(result.sentence))}.</p>'


def _figures(experiment: Experiment, result: Result) -> str:
    total = sum(result.units.values())
    planned = "" if result.planned is None else f" of {result.planned:,}"
    cells = [("units", f"{total:,}{planned}"), *((arm, f"{n:,}") for arm, n in result.units.items())]
    powers = [c.power for c in result.comparisons if c.role is Role.PRIMARY and c.power is not None]
    if powers:
        cells.append(("power at the margin", f"{min(powers):.0%}"))
    cells.append(("plan", str(experiment.plan.kind)))
    parts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in cells)
    return f'<dl class="figures">{parts}</dl>'


def _charts(experiment: Experiment, comparisons: Sequence[Comparison]) -> Iterable[str]:
    """Draw what has a share of the control on one scale; the rest stands in the table, each in its own unit."""
    rows = []
    for c in comparisons:
        if c.relative is None or c.estimate is None:
            continue
        value, lower, upper = (100.0 * v for v in c.relative)
        margin = None
        if c.margin is not None and c.estimate.control:
            sign = experiment.metric(c.metric).sign * (-1 if c.role is Role.GUARDRAIL else 1)
            margin = 100.0 * sign * c.margin / abs(c.estimate.control)
        rows.append(Interval(f"{c.metric}, {c.arm}", value, lower, upper, str(c.finding), _kind(c), margin))
    yield interval_chart(
        "Effect of each treatment", rows, unit="per cent of the control; the dashed mark is the margin"
    )


def _kind(c: Comparison) -> Literal["good", "bad", "plain"]:
    if c.finding in (Finding.BETTER, Finding.SAFE):
        return "good"
    return "bad" if c.finding is Finding.WORSE else "plain"


def _row(c: Comparison) -> tuple[str, ...]:
    if c.estimate is None:
        return c.metric, c.arm, str(c.role), "-", "-", "-", "-", "-", c.sentence
    e = c.estimate
    relative = "-" if c.relative is None else f"{c.relative[0]:+.2%}"
    p = "-" if c.p_adjusted is None else f"{c.p_adjusted:.3g}"
    power = "-" if c.power is None else f"{c.power:.0%}"
    interval = f"{e.lower:+.4g} to {e.upper:+.4g}"
    return c.metric, c.arm, str(c.role), f"{e.effect:+.4g}", interval, relative, p, power, str(c.finding)


def _impacts(result: Result) -> Iterable[str]:
    if not result.impacts:
        return
    yield "<h2>What it was worth so far</h2>"
    rows = [
        (i.metric, i.arm, f"{i.units:,}", f"{i.value:g}", f"{i.amount:+,.0f}", f"{i.lower:+,.0f} to {i.upper:+,.0f}")
        for i in result.impacts
    ]
    yield _table(("metric", "arm", "units", "value per unit", "amount", "interval"), rows, numbers={2, 3, 4, 5})


def _beliefs(result: Result) -> Iterable[str]:
    if not result.beliefs:
        return
    yield "<h2>What to believe of each arm</h2>"
    rows = [
        (b.metric, b.arm, f"{b.mean:.4g}", f"{b.lower:.4g} to {b.upper:.4g}", f"{b.best:.1%}", f"{b.loss:.3g}")
        for b in result.beliefs
    ]
    yield _table(("metric", "arm", "value", "interval", "best with", "expected loss"), rows, numbers={2, 3, 4, 5})


def _design(experiment: Experiment, result: Result) -> list[tuple[str, str]]:
    rows = [
        ("arms", ", ".join(f"{arm} {share:.3g}" for arm, share in experiment.arms)),
        ("control", experiment.control),
        ("unit", experiment.unit),
        ("plan", f"{experiment.plan.kind}, alpha {experiment.plan.alpha:g}, correction {experiment.correction}"),
        ("metrics", ", ".join(f"{m.name} ({m.kind}, {m.direction} is good)" for m in experiment.metrics)),
        ("starts", "-" if experiment.starts is None else f"{experiment.starts:%Y-%m-%d %H:%M} UTC"),
        ("ends", "-" if experiment.ends is None else f"{experiment.ends:%Y-%m-%d %H:%M} UTC"),
        ("digest", result.digest[:16]),
    ]
    return [row for row in rows if row[1] != "-"]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    kinds = [' class="n"' if place in set(numbers) else "" for place in range(len(columns))]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{k}>{escape(v)}</td>" for v, k in zip(row, kinds, strict=True)) + "</tr>" for row in rows
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
