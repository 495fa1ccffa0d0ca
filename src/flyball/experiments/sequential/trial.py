"""A group-sequential test on its way: looks that come when they come, and the answer when it stops.

The surprise: after stopping, the ordinary p value and interval are wrong (they are too sure of themselves), because the
look that stopped it was a lucky one. The stage-wise ordering of Fairbanks and Madsen (1982) and Tsiatis, Rosner, Mehta
(1984) gives right ones, with a median-unbiased effect; the repeated intervals of Jennison and Turnbull (1989) hold
whether one stops or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from scipy.optimize import brentq

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level
from flyball.experiments.sequential.group import CLASSICAL, GroupDesign, check_kind, group_design, next_boundary, spent
from flyball.experiments.sequential.recursion import Density

__all__ = ["GroupTrial"]

OPEN = "the test has not stopped: this p value and interval hold only if it stops at this look"
_DRIFTS = 60.0


@dataclass(frozen=True, slots=True)
class GroupTrial:
    """A running group-sequential test; begin with the plan, then `look`.

    It is resumable, and cannot be merged: merge the arms' `Moments` and give the Z of all units together.

    Args:
        kind: One of `group.KINDS`; the two classical ones need the planned times.
        level: Confidence of the whole test.
        alternative: What is looked for; for "less", Z counts downwards.
        planned: Planned information times, shape (k,).
        rho: Parameter of the spending function.
        times: Information times of the looks so far.
        zs: Z at each look, treatment less control.
        boundaries: Critical values that were used (of Z, or of -Z for "less").

    Example:
        >>> trial = GroupTrial.of(group_design("lan-demets-obrien-fleming", looks=4))
        >>> trial = trial.look(0.3, 1.1).look(0.55, 2.9)
        >>> trial.stopped, [round(c, 3) for c in trial.boundaries]
        (True, [3.929, 2.808])
        >>> round(trial.p, 4)
        0.0038
    """

    kind: str
    level: float
    alternative: Alternative
    planned: tuple[float, ...]
    rho: float = 1.0
    times: tuple[float, ...] = ()
    zs: tuple[float, ...] = ()
    boundaries: tuple[float, ...] = ()

    @classmethod
    def of(cls, design: GroupDesign) -> Self:
        """Return the test of a design, before its first look."""
        return cls(design.kind, design.level, design.alternative, design.times, design.rho)

    def look(self, time: float, z: float) -> Self:
        """Return the test after a look.

        Args:
            time: Share of the planned information seen so far (for means, of the planned units), above the last; at
                1 or more the look is the last.
            z: The fixed test's statistic of all units so far.

        Raises:
            InputError: the test has stopped, time does not grow, z is no number, or a classical design's time is not
                as planned.
        """
        if self.stopped or self.finished:
            raise InputError(f"the test ended at its look {len(self.times)}; its answer stands")
        if math.isnan(z) or not time > (self.times[-1] if self.times else 0.0):
            raise InputError(f"look at time {time} with z = {z}; the time grows from look to look, and z is a number")
        critical = self._critical(time)
        return replace(self, times=(*self.times, time), zs=(*self.zs, z), boundaries=(*self.boundaries, critical))

    def finish(self, time: float, z: float) -> Self:
        """Return the test after its last look, which comes sooner or later than planned: it spends what is left.

        Raises:
            InputError: as `look` does, or the design is a classical one.
        """
        if self.kind in CLASSICAL:
            raise InputError(f"{self.kind} looks as planned; use a lan-demets design where the end may move")
        whole = replace(self, planned=(*self.planned[:-1], time)) if time < 1.0 else self
        return whole.look(time, z)

    @property
    def stopped(self) -> bool:
        """Whether the last look reached its boundary."""
        return bool(self.zs) and self.alternative.toward(self.zs[-1]) >= self.boundaries[-1]

    @property
    def finished(self) -> bool:
        """Whether the last planned look was taken."""
        return bool(self.times) and self.times[-1] >= self.planned[-1] - 1e-9

    @property
    def p(self) -> float:
        """The stage-wise p value; right when the test stopped or finished."""
        if not self.zs:
            return 1.0
        upper, lower = self._beyond(0.0, upwards=1), self._beyond(0.0, upwards=-1)
        match self.alternative:
            case Alternative.GREATER:
                return upper
            case Alternative.LESS:
                return lower
        return min(1.0, 2.0 * min(upper, lower))

    def repeated(self, effect: float, se: float) -> tuple[float, float]:
        """Return the repeated confidence interval at the last look: effect -+ critical value * standard error.

        Args:
            effect: Treatment less control now.
            se: Its standard error, > 0.
        """
        reach = self.boundaries[-1] * _positive(se) if self.boundaries else math.inf
        return self.alternative.ends(effect - reach, effect + reach)

    def estimate(self, effect: float, se: float, *, n: tuple[int, int] = (0, 0)) -> Estimate:
        """Return the answer: median-unbiased effect, stage-wise interval and p value.

        Args:
            effect: Treatment less control at the last look, the plain one.
            se: Its standard error, > 0.
            n: Units of (treatment, control).

        Raises:
            InputError: there was no look, or se is not positive.
        """
        if not self.zs:
            raise InputError("the test had no look yet; call look(time, z) first")
        unit = _positive(se) * math.sqrt(self.times[-1])  # effect = drift * unit
        alpha = 1.0 - self.level
        tail = alpha / 2.0 if self.alternative is Alternative.TWO_SIDED else alpha
        lower = -math.inf if self.alternative is Alternative.LESS else self._drift(tail) * unit
        upper = math.inf if self.alternative is Alternative.GREATER else self._drift(1.0 - tail) * unit
        plain = f"the plain effect is {effect:+.4g}; after a stop it is too large on average"
        notes = (plain,) if self.stopped or self.finished else (plain, OPEN)
        return Estimate(self._drift(0.5) * unit, lower, upper, self.p, self.zs[-1], n, f"group-sequential {self.kind}",
                        self.level, self.alternative, notes=notes)  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal test."""
        return {"kind": self.kind, "level": self.level, "alternative": str(self.alternative),
                "planned": list(self.planned), "rho": self.rho, "times": list(self.times), "zs": list(self.zs),
                "boundaries": list(self.boundaries)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        check_kind(data["kind"], data["rho"])
        lists = (tuple(data[name]) for name in ("times", "zs", "boundaries"))
        return cls(data["kind"], check_level(data["level"]), alternative_of(data["alternative"]),
                   tuple(data["planned"]), data["rho"], *lists)  # fmt: skip

    def _critical(self, time: float) -> float:
        if self.kind in CLASSICAL:
            at = len(self.times)
            if at >= len(self.planned) or abs(time - self.planned[at]) > 1e-6:
                raise InputError(f"look {at + 1} of a {self.kind} design comes at {self.planned[at]}, not {time}; use "
                                 "a lan-demets design where times may change")  # fmt: skip
            side = str(self.alternative)
            return group_design(self.kind, looks=self.planned, level=self.level, alternative=side).boundaries[at]
        alpha = (1.0 - self.level) / (2.0 if self.alternative is Alternative.TWO_SIDED else 1.0)
        used = spent(self.kind, self.times[-1], alpha=alpha, rho=self.rho) if self.times else 0.0
        last = time >= self.planned[-1] - 1e-9
        upwards = replace(self, alternative=Alternative.GREATER) if self.alternative is Alternative.LESS else self
        total = alpha if last else spent(self.kind, time, alpha=alpha, rho=self.rho)
        return next_boundary(upwards._density(0.0, following=time), time, total - used)

    def _density(self, drift: float, *, following: float, looks: int | None = None) -> Density:
        """Return who went on after the first `looks` looks (all by default)."""
        density, count = Density.start(drift), len(self.times) if looks is None else looks
        for i in range(count):
            after = self.times[i + 1] if i + 1 < count else following
            density = density.proceed(self.times[i], *self._region(i), following=after)
        return density

    def _region(self, look: int) -> tuple[float, float]:
        critical = self.boundaries[look]
        match self.alternative:
            case Alternative.GREATER:
                return -math.inf, critical
            case Alternative.LESS:
                return -critical, math.inf
        return -critical, critical

    def _beyond(self, drift: float, *, upwards: int) -> float:
        """Return the chance of a result at least as far up (or down) as this one, in the stage-wise order."""
        total, last = 0.0, len(self.times) - 1
        density = Density.start(drift)
        for i in range(last):
            lower, upper = self._region(i)
            total += density.above(self.times[i], upper) if upwards > 0 else density.below(self.times[i], lower)
            density = density.proceed(self.times[i], lower, upper, following=self.times[i + 1])
        time, z = self.times[last], self.zs[last]
        total += density.above(time, z) if upwards > 0 else density.below(time, z)
        return min(total, 1.0)

    def _drift(self, chance: float) -> float:
        """Return the drift under which a result this far up has the given chance."""
        return float(brentq(lambda drift: self._beyond(drift, upwards=1) - chance, -_DRIFTS, _DRIFTS, xtol=1e-9))


def _positive(se: float) -> float:
    if not 0.0 < se < math.inf:
        raise InputError(f"the standard error is {se}; it is above 0 and finite")
    return se
