"""What the routing table says in each phase of a rollout: pure functions from phase and share to route.

The control cohort is a bucket range of the champion's, as large as the candidate's and directly above it where the
table has room, so that growing the candidate's share never moves a unit from candidate to champion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, assert_never

from flyball.rollout.routing import BUCKETS, Condition, ModelRoute, RoutingTable, VersionRef, check_route, cut
from flyball.rollout.types import Phase

__all__ = ["route_for", "table_for"]


def route_for(
    route: ModelRoute, *, rollout: str, candidate: VersionRef, phase: Phase, share: float, shadow: float = 1.0,
    timed: bool = False, within: tuple[Condition, ...] = (),
) -> ModelRoute:  # fmt: skip
    """Return the route that a rollout in `phase` wants.

    Args:
        route: The route in force.
        rollout: The rollout's id.
        candidate: The version that is being released.
        phase: PAUSED must be given as the phase that was paused.
        share: Candidate's share in [0, 1], used by STEP.
        shadow: Share of the champion's traffic that is copied, used by SHADOW.
        timed: Whether latency is compared, so that the control cohort must pay the way to a host as well.
        within: Conditions that limit candidate and control to a segment's requests, used by STEP.

    Raises:
        ConflictError: a split of the model needs the same units.
    """
    clean = replace(
        route, candidate=None, candidate_cut=0, control_from=0, control_to=0, shadow=0.0, rollout=None,
        control_hosted=False, within=(),
    )  # fmt: skip
    match phase:
        case Phase.PENDING | Phase.PAUSED:
            return route
        case Phase.SHADOW:
            return replace(clean, candidate=candidate, shadow=shadow, rollout=rollout)
        case Phase.STEP:
            top = BUCKETS - route.holdout
            upper = cut(share)
            stepped = replace(
                clean, candidate=candidate, candidate_cut=upper, control_from=min(upper, top),
                control_to=min(2 * upper, top), rollout=rollout, control_hosted=timed, within=within,
            )  # fmt: skip
            check_route(stepped)
            return stepped
        case Phase.ROLLING_BACK | Phase.ROLLED_BACK:
            return clean if route.rollout == rollout else route
        case Phase.PROMOTED:
            return _promoted(clean, candidate)
        case _:
            assert_never(phase)


def table_for(
    table: RoutingTable, route: ModelRoute, *, now: int, fence: int, cause: Literal["promote", "rollout", "rollback"]
) -> RoutingTable:
    """Return the next table: `table` with one route replaced."""
    return table.following(route, fence=fence, now=now, cause=cause)


def _promoted(route: ModelRoute, candidate: VersionRef) -> ModelRoute:
    if route.champion.version == candidate.version:
        return route
    hosted = candidate.hosted or route.serving.hosted
    return replace(route, champion=replace(candidate, trusted=not hosted), warm=(route.champion,))
