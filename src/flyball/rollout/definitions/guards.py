"""What must not get worse during a rollout: `fb.guard.errors(...)` and its neighbours, each a `GuardrailSpec`.

Each compares the candidate with the control and may carry an absolute limit (`max=`) beside it. The surprise: an
absolute limit is no threshold. It is judged by a sequence that holds at every look, so one bad minute of a good
candidate breaches nothing; only what is measured outside the log (drift, resources, your own functions) is compared
as it is, and therefore holds the ramp by default instead of rolling back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

from flyball import units
from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.definitions.calls import remember
from flyball.rollout.types import GuardrailSpec, RolloutStatus
from flyball.units import Margin

__all__ = [
    "METRICS", "NO_MARGIN", "OUTSIDE_KINDS", "QUALITY", "RATE_FLOOR", "SLOW_SHARE", "VALUES", "guard", "guards",
    "larger_is_better", "slow_share",
]  # fmt: skip

Action = Literal["roll_back", "hold"]
QUALITY = ("mae", "mse", "logloss", "brier", "accuracy")
VALUES = ("outcome", "prediction")
METRICS = (*QUALITY, *VALUES)
OUTSIDE_KINDS = frozenset({"drift", "resources", "custom"})
NO_MARGIN = 1e300  # a guardrail with only an absolute limit; infinity has no JSON
RATE_FLOOR = 0.01  # least margin of a rate: one percentage point
SLOW_SHARE = 0.01  # what a p99 allows


class guard:  # noqa: N801 read as a namespace: fb.guard.errors(...)
    """Name what must not get worse during a rollout.

    All of them take `weight` (the part of the rollout's error budget), `min_samples` (candidate samples below which
    neither harm nor safety is concluded) and `action`: "roll_back", or "hold", which only stops the ramp and costs no
    error budget.
    """

    @staticmethod
    def errors(
        *, margin: str | float | Margin = "1pp", max: str | float | None = None, weight: float = 1.0,
        min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch failed answers, per unit episode.

        Args:
            margin: "1pp" is the most harm a promotion accepts; "20%" lets the candidate fail 1.2 times as often before
                evidence counts against it (and promotion still accepts one percentage point).
            max: Largest share of failing unit episodes, whatever the control does, such as "0.1%".
            weight: Its part of the rollout's error budget.
            min_samples: Candidate answers below which nothing is concluded.
            action: "roll_back" or "hold".

        Example:
            >>> guard.errors(max="0.1%").limit
            0.001
        """
        return _rate("errors", margin, max, weight, min_samples, action)

    @staticmethod
    def timeouts(
        *, margin: str | float | Margin = "1pp", max: str | float | None = None, weight: float = 1.0,
        min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch answers that did not come within the deadline, per unit episode; arguments as of `errors`."""
        return _rate("timeouts", margin, max, weight, min_samples, action)

    @staticmethod
    def fallbacks(
        *, margin: str | float | Margin = "1pp", max: str | float | None = None, weight: float = 1.0,
        min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch answers that another version had to give, per unit episode; arguments as of `errors`."""
        return _rate("fallbacks", margin, max, weight, min_samples, action)

    @staticmethod
    def latency(
        *, p99: str | timedelta | None = None, times: float | None = None, max: str | timedelta | None = None,
        quantile: float = 0.99, margin: str | float | Margin | None = None, weight: float = 1.0, min_samples: int = 0,
        action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch slow answers against the equal-size control cohort.

        The candidate's answers come through its host process; that hop counts as its own, and the cohort pays it too.

        Args:
            p99: Answers slower than this are slow; the candidate may not have more of them than the control, unless
                they are at most 1 % (`quantile` 0.95: 5 %) of its answers.
            times: Instead: the candidate may be so many times as slow as the control at `quantile`. What is slow
                follows the control's own latency.
            max: Limit of the candidate's quantile, whatever the control does.
            quantile: Which quantile `p99`, `times` and `max` are about, in (0, 1).
            margin: Most additional slow answers that a promotion accepts; 1 - `quantile` by default.
            weight: Its part of the rollout's error budget.
            min_samples: Candidate answers below which nothing is concluded.
            action: "roll_back" or "hold".
        """
        if (p99 is not None) + (times is not None) > 1 or (p99 is None and times is None and max is None):
            raise DefinitionError('guard.latency needs one of p99="50ms" and times=1.5, or max="100ms" alone')
        if times is not None and not 1.0 <= times < math.inf:
            raise DefinitionError(f"guard.latency has times={times}; it needs a number of at least 1, such as 1.5")
        _inside(quantile, "guard.latency", "quantile")
        compared = p99 is not None or times is not None
        parsed = units.margin(margin) if margin is not None else Margin(absolute=round(1.0 - quantile, 12))
        return GuardrailSpec(
            "latency", "latency", parsed if compared else Margin(absolute=NO_MARGIN),
            limit=None if p99 is None else _seconds(p99, "p99"), times=times or 0.0,
            cap=None if max is None else _seconds(max, "max"), quantile=quantile, weight=_positive(weight),
            min_samples=_count(min_samples), action=_action(action),
        )  # fmt: skip

    slow = latency

    @staticmethod
    def metric(
        name: str, *, of: str = "", margin: str | float | Margin | None = None, max: float | None = None,
        min: float | None = None, direction: Literal["up", "down"] | None = None, over: str = "",
        quantile: float | None = None, covariate: str = "", delay: str | timedelta = "0s", weight: float = 1.0,
        min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch a metric of predictions and their outcomes: its mean per unit, a ratio, or a quantile.

        Args:
            name: One of "mae", "mse", "logloss", "brier", "accuracy", "outcome", "prediction"; or a name of your own
                with `of`.
            of: What is measured, when `name` is your own: one of the names above.
            margin: Most harm that is accepted: "5%" of the champion's value, or "0.3" in the metric's unit.
            max: Largest value of the candidate, whatever the champion does.
            min: Smallest value of the candidate, for metrics of which more is better.
            direction: Which way is better; "down" for losses, "up" for accuracy and outcomes.
            over: Number in the request that the metric is divided by, sum over sum: a ratio metric.
            quantile: Compare this quantile instead of the mean, in (0, 1).
            covariate: Number in the request, known before the arm is, that explains part of the metric (CUPED).
            delay: How long outcomes take. Younger predictions neither count nor are waited for.
            weight: Its part of the rollout's error budget.
            min_samples: Candidate values below which nothing is concluded.
            action: "roll_back" or "hold".
        """
        what = of or name
        if what not in METRICS:
            raise UnknownName.of("guardrail metric", what, METRICS)
        if margin is None and max is None and min is None:
            raise DefinitionError(f'guard.metric("{name}") has no limit; give margin="5%" or max=4.0')
        better = direction or ("up" if larger_is_better(what) else "down")
        if better not in {"up", "down"}:
            raise DefinitionError(f'guard.metric("{name}") has direction={direction!r}; write "up" or "down"')
        wrong, limit = (max, min) if better == "up" else (min, max)
        if wrong is not None:
            raise DefinitionError(
                f'guard.metric("{name}") is better when it goes {better}; its absolute limit is '
                f"{'min' if better == 'up' else 'max'}=, not {'max' if better == 'up' else 'min'}={wrong:g}"
            )
        if sum(map(bool, (over, covariate, quantile))) > 1:
            raise DefinitionError(f'guard.metric("{name}"): use one of over=, covariate= and quantile=')
        if quantile is not None:
            _inside(quantile, f'guard.metric("{name}")', "quantile")
        return GuardrailSpec(
            name, "metric", units.margin(margin) if margin is not None else Margin(absolute=NO_MARGIN), metric=what,
            limit=limit, weight=_positive(weight), harm="down" if better == "up" else "up", quantile=quantile,
            over=over, covariate=covariate, min_samples=_count(min_samples), delay=units.duration(delay),
            action=_action(action),
        )  # fmt: skip

    @staticmethod
    def quality(
        name: str, *, margin: str | float | Margin | None = "5%", max: float | None = None, min: float | None = None,
        delay: str | timedelta = "0s", weight: float = 1.0, min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch the model's quality on labels as they mature, on the same rows where both arms answered them.

        Args:
            name: "mae", "mse", "logloss", "brier" or "accuracy". Probabilities may come as one number or one per class.
            margin: Most harm that is accepted: "5%" of the champion's, or in the metric's unit.
            max: Largest loss of the candidate, whatever the champion's.
            min: Smallest accuracy of the candidate.
            delay: How long labels take.
            weight: Its part of the rollout's error budget.
            min_samples: Labelled rows of the candidate below which nothing is concluded.
            action: "roll_back" or "hold".
        """
        if name not in QUALITY:
            raise UnknownName.of("quality", name, QUALITY)
        return guard.metric(
            name, margin=margin, max=max, min=min, delay=delay, weight=weight, min_samples=min_samples, action=action
        )

    @staticmethod
    def shift(
        *, margin: str | float | Margin | None = None, by: Literal["mean", "distance"] = "mean",
        max: float | None = None, weight: float = 1.0, min_samples: int = 0, action: Action = "roll_back",
    ) -> GuardrailSpec:  # fmt: skip
        """Watch whether the candidate's scores move away from the champion's, in either direction; needs no labels.

        Args:
            margin: With "mean": most shift of the mean score, "5%" of the champion's or in the score's unit.
            by: "mean", or "distance": the largest difference between the shares of both arms' scores below each decile
                of the champion's, in [0, 1]; the population stability index is told beside it.
            max: With "distance": its limit, 0.1 by default.
            weight: Its part of the rollout's error budget.
            min_samples: Candidate scores below which nothing is concluded.
            action: "roll_back" or "hold".
        """
        if by not in {"mean", "distance"}:
            raise UnknownName.of("way to compare scores", by, ("mean", "distance"))
        if by == "mean" and (margin is None or max is not None):
            raise DefinitionError('guard.shift(by="mean") needs margin=, such as margin="5%", and takes no max=')
        if by == "distance" and margin is not None:
            raise DefinitionError('guard.shift(by="distance") takes max=, such as max=0.1, and no margin=')
        limit = None if by == "mean" else _inside(0.1 if max is None else max, "guard.shift", "max")
        parsed = units.margin(margin) if margin is not None else Margin(absolute=NO_MARGIN)
        return GuardrailSpec(
            "shift", "shift", parsed, metric=by, limit=limit, weight=_positive(weight),
            min_samples=_count(min_samples), action=_action(action),
        )  # fmt: skip

    @staticmethod
    def drift(*, max: float = 0.2, action: Action = "hold") -> GuardrailSpec:
        """Watch the largest distance of a served feature in the model's newest closed monitor window.

        The model needs `Drift` monitors. The value is no test, so it takes no part of the error budget; by default it
        holds the ramp, because drift is rarely the candidate's doing.
        """
        return _outside(GuardrailSpec("drift", "drift", limit=_above_zero(max, "guard.drift", "max")), action)

    @staticmethod
    def srm() -> GuardrailSpec:
        """Hold while units arrive in other shares than the routing table says (a sequential test at 0.1 %).

        Every rollout checks this; as a guardrail it is shown beside the others.
        """
        return GuardrailSpec("srm", "srm", Margin(absolute=NO_MARGIN), action="hold")

    @staticmethod
    def resources(
        *, memory: str | int | None = None, cpu: float | None = None, action: Action = "hold"
    ) -> GuardrailSpec:
        """Watch what the candidate's host process takes.

        Args:
            memory: Most resident memory, such as "2GB".
            cpu: Most processor time, in processors: 0.9 is nine tenths of one.
            action: "hold" or "roll_back".
        """
        if memory is None and cpu is None:
            raise DefinitionError('guard.resources has no limit; give memory="2GB" or cpu=0.9')
        limit = None if memory is None else _above_zero(float(units.size(memory)), "guard.resources", "memory")
        cap = None if cpu is None else _above_zero(cpu, "guard.resources", "cpu")
        return _outside(GuardrailSpec("resources", "resources", limit=limit, cap=cap), action)

    @staticmethod
    def custom(
        name: str, call: Callable[[RolloutStatus], float], *, max: float, action: Action = "hold"
    ) -> GuardrailSpec:
        """Watch a number that a function of yours returns; it runs in the control process, beside the passes.

        Args:
            name: The guardrail's name.
            call: Takes the rollout's status and returns the number; a named function of your definitions. When it
                fails, takes longer than five seconds or returns NaN, its value is unknown, and the ramp holds.
            max: Its limit.
            action: "hold" or "roll_back".
        """
        if not math.isfinite(max):
            raise DefinitionError(f'guard.custom("{name}") has max={max}; it needs a finite number')
        return _outside(GuardrailSpec(name, "custom", limit=max, metric=remember(name, call)), action)


class guards:  # noqa: N801 read as a namespace: fb.guards.strict()
    """Sets of guardrails."""

    @staticmethod
    def strict(
        *, quality: str = "mae", delay: str | timedelta = "0s", action: Action = "hold"
    ) -> tuple[GuardrailSpec, ...]:
        """Return absolute limits at once: errors > 0.1 %, p99 > 100 ms, drift > 0.2, degradation > 10 %.

        Args:
            quality: What degradation is measured in, one of `guard.quality`.
            delay: How long its labels take.
            action: What drift does.

        Example:
            >>> [rail.name for rail in guards.strict()]
            ['errors', 'latency', 'drift', 'mae']
        """
        return (
            guard.errors(max="0.1%"),
            guard.latency(max="100ms"),
            guard.drift(max=0.2, action=action),
            guard.quality(quality, margin="10%", delay=delay),
        )


def larger_is_better(metric: str) -> bool:
    """Tell whether more of a metric is better unless the user says otherwise."""
    return metric in {"accuracy", *VALUES}


def slow_share(rail: GuardrailSpec) -> float:
    """Return the share of slow answers that a latency guardrail allows: 1 % for a p99."""
    return SLOW_SHARE if rail.quantile is None else 1.0 - rail.quantile


def _rate(
    kind: Literal["errors", "timeouts", "fallbacks"], margin: str | float | Margin, most: str | float | None,
    weight: float, min_samples: int, action: Action,
) -> GuardrailSpec:  # fmt: skip
    parsed = units.margin(margin)
    floored = replace(parsed, absolute=parsed.absolute or RATE_FLOOR)
    limit = None if most is None else _inside(units.share(most), f"guard.{kind}", "max")
    return GuardrailSpec(
        kind, kind, floored, limit=limit, weight=_positive(weight), min_samples=_count(min_samples),
        action=_action(action),
    )  # fmt: skip


def _outside(rail: GuardrailSpec, action: Action) -> GuardrailSpec:
    return replace(rail, margin=Margin(absolute=NO_MARGIN), action=_action(action))


def _seconds(text: str | timedelta, name: str) -> float:
    seconds = units.duration(text).total_seconds()
    if seconds <= 0:
        raise DefinitionError(f"guard.latency has {name}={text!r}; it needs a time above 0, such as 50ms")
    return seconds


def _inside(value: float, who: str, name: str) -> float:
    if not 0.0 < value < 1.0:
        raise DefinitionError(f"{who} has {name}={value:g}; it needs a number above 0 and below 1")
    return value


def _above_zero(value: float, who: str, name: str) -> float:
    if not 0.0 < value < math.inf:
        raise DefinitionError(f"{who} has {name}={value:g}; it needs a number above 0")
    return value


def _count(least: Any) -> int:
    if not isinstance(least, int) or least < 0:
        raise DefinitionError(f"a guardrail has min_samples={least!r}; it is a count of candidate samples, 0 or more")
    return least


def _action(action: Action) -> Action:
    if action not in {"roll_back", "hold"}:
        raise UnknownName.of("guardrail action", action, ("roll_back", "hold"))
    return action


def _positive(weight: float) -> float:
    if not 0.0 < weight < math.inf:
        raise DefinitionError(
            f"a guardrail has weight {weight:g}; it is a part of the error budget and must be above 0"
        )
    return weight
