"""Ways in which a candidate comes to all traffic, or does not: `strategy.canary(...)` and its neighbours.

Each returns a `RolloutSpec`. The surprise: most of them are one machine with other steps. Only all-at-once, blue-green,
A/B, bandit and challenger need a rule of their own, and `RolloutSpec.strategy` names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypedDict, Unpack

from flyball import units
from flyball.errors import DefinitionError
from flyball.rollout.definitions.release import Rollout, as_step, checked, step
from flyball.rollout.types import Calendar, GuardrailSpec, RolloutSpec, Step, Strategy
from flyball.units import spoken

__all__ = ["Common", "strategy"]

_Share = str | float | Step
_Span = str | timedelta
_CONTEST_WAITS = "28d"  # a verdict takes longer than a step


class Common(TypedDict, total=False):
    """What every way but `all_at_once` takes; what is left out is what `Rollout` says."""

    guardrails: Sequence[GuardrailSpec]  # what must not get worse
    min_requests: int  # least candidate requests (of a shadow: answers) of each step or allocation
    max_wait: str | timedelta  # after this long without a decision it pauses; 28 days in `ab` and `bandit`
    alpha: float  # chance that the guardrails roll a harmless candidate back
    calendar: Calendar | None  # when shares may rise
    approve_promotion: bool  # whether a person approves before the candidate becomes champion


class strategy:  # noqa: N801 read as a namespace: fb.strategy.canary(...)
    """Name how a candidate comes to all traffic.

    All but `all_at_once` take `guardrails`, `min_requests`, `max_wait`, `alpha`, `calendar` and `approve_promotion`,
    with the meaning they have in `Rollout` (a challenger waits for ever and is promoted by a person, so it has neither
    `max_wait` nor `approve_promotion`).
    """

    step = staticmethod(step)

    @staticmethod
    def all_at_once(*, calendar: Calendar | None = None, approve_promotion: bool = False) -> RolloutSpec:
        """Make the candidate champion in the next pass, without evidence; the old champion is kept warm.

        Example:
            >>> strategy.all_at_once().steps
            ()
        """
        return RolloutSpec(
            steps=(), bake=timedelta(0), strategy=Strategy.ALL_AT_ONCE, calendar=calendar or Calendar(),
            approve_promotion=approve_promotion,
        )  # fmt: skip

    @staticmethod
    def blue_green(
        *,
        shadow: _Span,
        bake: _Span = "1h",
        approve_switch: bool = False,
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Copy traffic to the candidate, then switch all of it at once, and keep the champion warm to switch back.

        The switch needs every harm bound that copied traffic can show to lie inside its margin. For `bake` after it the
        champion stays in the table, so that a breach returns all traffic at once; without a control, only absolute
        limits, pairs and the rates themselves are judged then.

        Args:
            shadow: Time for which traffic is copied, above 0.
            bake: Time after the switch before the candidate becomes champion.
            approve_switch: Whether a person approves before the switch.
        """
        if units.duration(shadow) <= timedelta(0):
            raise DefinitionError("blue_green has no shadow, so the switch would be blind; write shadow='6h'")
        switch = Step(1.0, approval=approve_switch, name="switch")
        spec = Rollout(steps=[switch], bake=bake, shadow=shadow, **common)
        return replace(spec, strategy=Strategy.BLUE_GREEN)

    @staticmethod
    def canary(
        steps: Sequence[_Share] = ("1%", "10%", "50%"),
        *,
        bake: _Span = "12h",
        shadow: _Span = "0s",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Give the candidate rising shares of the units; what `Rollout(...)` does.

        Example:
            >>> spec = strategy.canary(["5%", strategy.step("50%", approval=True)], bake="1h")
            >>> [step.approval for step in spec.steps]
            [False, True]
        """
        return Rollout(steps=_without_all(steps), bake=bake, shadow=shadow, **common)

    @staticmethod
    def gradual(
        steps: Mapping[str | float, _Span],
        *,
        shadow: _Span = "0s",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Give the candidate rising shares, each for a time of its own.

        Args:
            steps: Share -> least time, such as {"1%": "24h", "10%": "48h", "50%": "72h"}; 100 % is the promotion.
            shadow: Time for which traffic is only copied to the candidate first.

        Example:
            >>> [step.bake.days for step in strategy.gradual({"1%": "24h", "10%": "48h", "50%": "72h"}).steps]
            [1, 2, 3]
        """
        own = _without_all([step(share, bake=span) for share, span in steps.items()])
        longest = max((one.bake or timedelta(0) for one in map(as_step, own)), default=timedelta(0))
        spec = Rollout(steps=own, bake=longest, shadow=shadow, **common)
        if longest > spec.max_wait:
            raise DefinitionError(
                f"a step lasts {spoken(longest)}, longer than max_wait ({spoken(spec.max_wait)}); write a longer one"
            )
        return spec

    @staticmethod
    def segment_first(
        *,
        where: Mapping[str, object],
        then: Sequence[_Share] = ("10%", "50%"),
        share: str | float | Sequence[str | float] | None = None,
        name: str = "",
        bake: _Span = "12h",
        shadow: _Span = "0s",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Release to the requests of one segment first, compared within it, and then to everybody.

        Args:
            where: What a request's attributes must be, as in `Segment`: {"country": "NL"}.
            then: Rising shares of all units that follow.
            share: Share, or rising shares, of the segment's units; that of the first step of `then` when left out, so
                that no unit ever goes back. Units of the segment above the next step's share do.
            name: What the segment is called in explanations.
            bake: Least time at each step.
            shadow: Time for which traffic is only copied to the candidate first.

        Example:
            >>> spec = strategy.segment_first(where={"country": "NL"}, then=["10%", "50%"])
            >>> [(step.share, bool(step.where)) for step in spec.steps]
            [(0.1, True), (0.1, False), (0.5, False)]
        """
        after = [as_step(one) for one in _without_all(then)]
        if not after:
            raise DefinitionError("segment_first has no steps for everybody; write then=['10%', '50%']")
        shares = [after[0].share] if share is None else [share] if isinstance(share, str | float | int) else [*share]
        label = name or ", ".join(f"{attribute} {wanted}" for attribute, wanted in where.items())
        first = [step(one, where=where, name=label) for one in shares]
        return Rollout(steps=[*first, *after], bake=bake, shadow=shadow, **common)

    @staticmethod
    def shadow_first(
        shadow: _Span,
        steps: Sequence[_Share] = ("1%", "10%", "50%"),
        *,
        bake: _Span = "12h",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Copy traffic to the candidate, throwing its answers away, and then give it rising shares.

        Raises:
            DefinitionError: no time for the shadow.
        """
        if units.duration(shadow) <= timedelta(0):
            raise DefinitionError("shadow_first has no shadow; write a time such as '6h', or use canary")
        return strategy.canary(steps, bake=bake, shadow=shadow, **common)

    @staticmethod
    def ab(
        *,
        primary: GuardrailSpec,
        share: str | float = "50%",
        bake: _Span = "1d",
        weeks: int = 0,
        min_units: int = 0,
        shadow: _Span = "0s",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Keep one share until the primary metric has a verdict.

        Better by its margin, and every guardrail safe: promoted. Worse, or surely less of a gain than the margin: back
        to the champion. The verdict holds at every look (5 % each way), so there is no end date to wait for.

        Args:
            primary: The metric, from `guard.metric`; its margin is the least gain that counts, "0" for any.
            share: The candidate's share of the units.
            bake: Least time before a verdict is taken.
            weeks: Least whole weeks, so that every weekday counts alike.
            min_units: Least distinct units of the candidate.
            shadow: Time for which traffic is only copied to the candidate first.
        """
        spec = _contest(step(share, weeks=weeks, min_units=min_units), bake, shadow, common)
        return _with_primary(replace(spec, strategy=Strategy.AB), primary)

    @staticmethod
    def bandit(
        *,
        primary: GuardrailSpec,
        share: str | float = "50%",
        floor: str | float = "10%",
        pace: _Span = "1h",
        bake: _Span = "1d",
        min_units: int = 0,
        shadow: _Span = "0s",
        **common: Unpack[Common],
    ) -> RolloutSpec:
        """Let the shares follow the primary metric until one arm has won.

        The candidate's share is the probability that it is better, within [floor, 1 - floor]; each allocation is
        recorded, so that guardrails and verdict stay valid while shares move. It ends as `ab` does.

        Args:
            primary: The metric, from `guard.metric`; its margin is the least gain that counts.
            share: The candidate's first share.
            floor: Least share of either arm, above 0 and below 50 %.
            pace: Least time between two allocations.
            bake: Least time before shares move and a winner is taken.
            min_units: Least distinct units of the candidate.
            shadow: Time for which traffic is only copied to the candidate first.
        """
        least, begun, every = units.share(floor), units.share(share), units.duration(pace)
        if not 0.0 < least < 0.5 or not least <= begun <= 1.0 - least:
            raise DefinitionError(
                f"a bandit has floor={floor} and share={share}; the floor is above 0 and below 50 %, "
                "and the first share lies between it and what it leaves"
            )
        if every <= timedelta(0):
            raise DefinitionError("a bandit has pace=0; write the least time between two allocations, such as 1h")
        spec = _contest(step(begun, min_units=min_units), bake, shadow, common)
        return _with_primary(replace(spec, strategy=Strategy.BANDIT, floor=least, pace=every), primary)

    @staticmethod
    def challenger(
        *,
        primary: GuardrailSpec,
        share: str | float = "5%",
        bake: _Span = "1d",
        shadow: _Span = "0s",
        guardrails: Sequence[GuardrailSpec] = (),
        min_requests: int = 200,
        alpha: float = 0.01,
        calendar: Calendar | None = None,
    ) -> RolloutSpec:
        """Let a challenger answer a small share as long as you like, and report how it compares.

        It never promotes by itself and never pauses for lack of a verdict; guardrails still roll it back. A person ends
        it with `rollout promote` or `rollout abort`.

        Args:
            primary: The metric to report, from `guard.metric`.
            share: The challenger's share of the units.
            bake: Least time before it reports.
            shadow: Time for which traffic is only copied to the challenger first.
            guardrails: What must not get worse.
            min_requests: Least requests before it reports.
            alpha: Chance that the guardrails roll a harmless challenger back.
            calendar: When its share may rise.
        """
        common: Common = {
            "guardrails": guardrails, "min_requests": min_requests, "alpha": alpha, "calendar": calendar,
        }  # fmt: skip
        spec = _contest(step(share), bake, shadow, common)
        return _with_primary(replace(spec, strategy=Strategy.CHALLENGER), primary)


def _without_all(steps: Sequence[_Share]) -> list[_Share]:
    """Leave out a last step of 100 %: the promotion itself. One that carries holds of its own stays."""
    given = list(steps)
    last = as_step(given[-1]) if given else Step(0.0)
    plain = replace(last, bake=None if not last.bake else last.bake) == Step(1.0)
    return given[:-1] if plain and len(given) > 1 else given


def _contest(only: Step, bake: _Span, shadow: _Span, common: Common) -> RolloutSpec:
    if only.share >= 1.0:
        raise DefinitionError("a contest gives the candidate all traffic, which leaves no champion to compare with")
    patient: Common = {"max_wait": _CONTEST_WAITS, **common}
    return Rollout(steps=[only], bake=bake, shadow=shadow, **patient)


def _with_primary(spec: RolloutSpec, primary: GuardrailSpec) -> RolloutSpec:
    if primary.kind != "metric" or primary.quantile is not None:
        raise DefinitionError(
            f"the primary metric is {primary.name!r} of kind {primary.kind}; write a mean or a ratio of outcomes with "
            "fb.guard.metric(...), and keep the others as guardrails"
        )
    return checked(replace(spec, primary=primary))
