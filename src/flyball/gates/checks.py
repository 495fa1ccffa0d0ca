"""The checks a version must pass before it may see traffic, and how each one is judged.

The surprise: too little evidence is INCONCLUSIVE, and that never passes a gate; only a first version, which has no
champion to beat, passes that one check, and the report says so. Judging is pure: `Facts` holds all that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyball import units
from flyball.errors import DefinitionError
from flyball.gates.paired import paired_difference
from flyball.gates.types import Check, GateReport, GateSpec, Verdict
from flyball.registry.evaluation import HIGHER_IS_BETTER, Evaluation, metrics_of, require_metric
from flyball.units import Margin

__all__ = ["MIN_CALLS", "MIN_ROWS", "Facts", "GateSpec", "gate", "judge"]

MIN_ROWS = 200  # holdout rows below which a quality check decides nothing
MIN_CALLS = 300  # timed calls below which a p99 decides nothing


class gate:  # noqa: N801 a namespace that users read as fb.gate.latency(...)
    """Make the checks of a model's gate."""

    @staticmethod
    def beats_champion(metric: str, *, margin: str | float | Margin = 0.0) -> GateSpec:
        """Demand that `metric` is no worse than the champion's by more than `margin`, on the same rows.

        Args:
            metric: A name of `registry.evaluation.METRICS`.
            margin: "1%" of the champion's value, "1pp", or a number in the metric's unit.
        """
        return GateSpec("champion", metric=require_metric(metric), margin=units.margin(margin))

    @staticmethod
    def metric(name: str, *, max: float | None = None, min: float | None = None) -> GateSpec:
        """Demand that a holdout metric lies in [min, max]; at least one of them."""
        if max is None and min is None:
            raise DefinitionError(f"gate.metric({name!r}) has no limit; give max=, min= or both")
        return GateSpec("metric", metric=require_metric(name), minimum=min, maximum=max)

    @staticmethod
    def latency(*, p99: str) -> GateSpec:
        """Demand that a warm single-row prediction takes at most `p99` in 99 of 100 calls."""
        return GateSpec("latency", maximum=units.duration(p99).total_seconds())

    @staticmethod
    def size(limit: str | int) -> GateSpec:
        """Demand that the artifact's files take at most `limit` bytes together."""
        return GateSpec("size", maximum=float(units.size(limit)))

    @staticmethod
    def bounds(low: float, high: float) -> GateSpec:
        """Demand that every prediction on the holdout is a number in [low, high]."""
        if not low <= high:
            raise DefinitionError(f"gate.bounds({low}, {high}) is empty; the first number is the lower bound")
        return GateSpec("bounds", minimum=float(low), maximum=float(high))


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured about a version: quality, size in bytes, seconds of each timed call."""

    evaluation: Evaluation
    size: int
    latencies: np.ndarray


def judge(specs: Sequence[GateSpec], facts: Facts, *, model: str, version: str, dataset: str) -> GateReport:
    """Judge every wanted check and return the report."""
    return GateReport(model, version, dataset, tuple(_check(spec, facts) for spec in specs))


def _check(spec: GateSpec, facts: Facts) -> Check:
    match spec.kind:
        case "champion":
            return _champion(spec, facts.evaluation)
        case "metric":
            return _metric(spec, facts.evaluation)
        case "latency":
            return _latency(spec, facts.latencies)
        case "size":
            return _size(spec, facts.size)
        case "bounds":
            return _bounds(spec, facts.evaluation)


def _champion(spec: GateSpec, seen: Evaluation) -> Check:
    name = f"beats_champion({spec.metric})"
    if seen.champion_version is None:
        value = seen.metrics.get(spec.metric)
        text = f"there is no champion yet, so the first version passes; its {spec.metric} is {_show(value)}"
        return Check(name, Verdict.PASSING, value, None, text, {"rows": seen.rows})
    if seen.champion is None:
        text = f"champion {seen.champion_version} could not be judged on these rows: {seen.reason}"
        return Check(name, Verdict.INCONCLUSIVE, None, None, text, {"champion": seen.champion_version})
    if seen.paired < MIN_ROWS:
        text = (
            f"only {seen.paired} rows that neither {seen.champion_version} nor the candidate trained on, "
            f"{MIN_ROWS} are needed; train on newer data or a larger holdout"
        )
        return Check(name, Verdict.INCONCLUSIVE, None, None, text, {"rows": seen.paired})
    return _against(name, spec, seen, seen.champion)


def _against(name: str, spec: GateSpec, seen: Evaluation, champion: np.ndarray) -> Check:
    mine = metrics_of(seen.y, seen.candidate, classifier=seen.classifier).get(spec.metric, math.nan)
    theirs = metrics_of(seen.y, champion, classifier=seen.classifier).get(spec.metric, math.nan)
    if not (math.isfinite(mine) and math.isfinite(theirs)):
        text = (
            f"{spec.metric} is {_show(mine)} for the candidate and {_show(theirs)} for champion {seen.champion_version}"
        )
        return Check(name, Verdict.INCONCLUSIVE, None, None, text, {"rows": seen.paired})
    low, high = paired_difference(spec.metric, seen.y, seen.candidate, champion, classifier=seen.classifier)
    if spec.metric == "bias":
        limit = abs(theirs) + spec.margin.at(theirs)
        good = abs(mine) <= limit
    else:
        sign = -1.0 if spec.metric in HIGHER_IS_BETTER else 1.0
        limit = theirs + sign * spec.margin.at(theirs)
        good = sign * mine <= sign * limit
    text = (
        f"{spec.metric} {_show(mine)} against {_show(theirs)} of champion {seen.champion_version} on the same "
        f"{seen.paired} rows, limit {_show(limit)}; difference {_show(mine - theirs)}, "
        f"95 % interval {_show(low)} to {_show(high)}"
    )
    evidence: dict[str, float | str | int | None] = {
        "rows": seen.paired, "left_out": seen.left_out, "champion": seen.champion_version, "champion_value": theirs,
        "difference": mine - theirs, "low": low, "high": high,
    }  # fmt: skip
    return Check(name, Verdict.PASSING if good else Verdict.BREACHED, mine, limit, text, evidence)


def _metric(spec: GateSpec, seen: Evaluation) -> Check:
    name = f"metric({spec.metric})"
    value = seen.metrics.get(spec.metric)
    if seen.rows < MIN_ROWS:
        text = f"only {seen.rows} holdout rows, {MIN_ROWS} are needed; train on more data or a larger holdout"
        return Check(name, Verdict.INCONCLUSIVE, value, None, text, {"rows": seen.rows})
    if value is None or not math.isfinite(value):
        text = f"{spec.metric} is {_show(value)} for this model; it has {', '.join(seen.metrics) or 'no metrics'}"
        return Check(name, Verdict.INCONCLUSIVE, None, None, text, {"rows": seen.rows})
    return _within(name, spec, value, f"{spec.metric} is {_show(value)} on {seen.rows} holdout rows", seen.rows)


def _within(name: str, spec: GateSpec, value: float, text: str, rows: int) -> Check:
    evidence: dict[str, float | str | int | None] = {"rows": rows}
    if spec.maximum is not None and value > spec.maximum:
        return Check(name, Verdict.BREACHED, value, spec.maximum, f"{text}, above {_show(spec.maximum)}", evidence)
    if spec.minimum is not None and value < spec.minimum:
        return Check(name, Verdict.BREACHED, value, spec.minimum, f"{text}, below {_show(spec.minimum)}", evidence)
    limit = spec.maximum if spec.maximum is not None else spec.minimum
    ends = [
        f"{word} {_show(end)}"
        for word, end in (("at least", spec.minimum), ("at most", spec.maximum))
        if end is not None
    ]
    return Check(name, Verdict.PASSING, value, limit, f"{text}, limit {' and '.join(ends)}", evidence)


def _latency(spec: GateSpec, latencies: np.ndarray) -> Check:
    limit = spec.maximum or 0.0
    if len(latencies) < MIN_CALLS:
        text = f"only {len(latencies)} timed calls, {MIN_CALLS} are needed"
        return Check("latency(p99)", Verdict.INCONCLUSIVE, None, limit, text, {"calls": len(latencies)})
    p50, p99 = (float(q) for q in np.quantile(latencies, [0.5, 0.99]))
    text = f"p99 of {len(latencies)} warm single-row calls is {p99 * 1e3:.3g} ms, limit {limit * 1e3:.3g} ms"
    verdict = Verdict.PASSING if p99 <= limit else Verdict.BREACHED
    return Check("latency(p99)", verdict, p99, limit, text, {"calls": len(latencies), "p50": p50})


def _size(spec: GateSpec, found: int) -> Check:
    limit = spec.maximum or 0.0
    text = f"the artifact takes {found / 1e6:.3g} MB, limit {limit / 1e6:.3g} MB"
    return Check("size", Verdict.PASSING if found <= limit else Verdict.BREACHED, float(found), limit, text)


def _bounds(spec: GateSpec, seen: Evaluation) -> Check:
    low, high = spec.minimum or 0.0, spec.maximum or 0.0
    evidence: dict[str, float | str | int | None] = {
        "rows": seen.rows,
        "low": seen.low,
        "high": seen.high,
        "bad": seen.bad,
    }
    if seen.bad:
        text = f"{seen.bad} of {seen.rows} holdout predictions are NaN or infinite"
        return Check("bounds", Verdict.BREACHED, None, None, text, evidence)
    if seen.low < low:
        text = f"the lowest holdout prediction is {_show(seen.low)}, below {_show(low)}"
        return Check("bounds", Verdict.BREACHED, seen.low, low, text, evidence)
    if seen.high > high:
        text = f"the highest holdout prediction is {_show(seen.high)}, above {_show(high)}"
        return Check("bounds", Verdict.BREACHED, seen.high, high, text, evidence)
    if seen.rows < MIN_ROWS:
        text = f"only {seen.rows} holdout rows, {MIN_ROWS} are needed"
        return Check("bounds", Verdict.INCONCLUSIVE, None, None, text, evidence)
    allowed = f"limit {_show(low)} to {_show(high)}"
    text = f"{seen.rows} holdout predictions lie in {_show(seen.low)} to {_show(seen.high)}, {allowed}"
    return Check("bounds", Verdict.PASSING, seen.high, high, text, evidence)


def _show(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
