"""Which arm answers a unit: a hash, integer cut points, nothing stored.

Pure. A unit's bucket never changes (one salt), so a growing share only adds units, and every replica and every restart
gives the same answer. In this order: a tester's header, holdout, segments, the candidate's share and the variants'
ranges, the control cohort, the champion. The kill switch and a worker's veto come before all of them: they turn what
another arm would have answered into the champion's, and leave the control cohort alone.

The surprise: a request that fits a segment with a share takes no part in any comparison, also when it lies above that
share. Within the segment the next rule no longer draws from all units, so what it draws is no fair sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import xxhash

from flyball.rollout.routing import BUCKETS, ModelRoute, Segment
from flyball.serving.routing.conditions import Test, compile_where

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "CONTROL",
    "HOLDOUT",
    "KILLED",
    "OUTSIDE",
    "PINNED",
    "UNHOSTED",
    "VETOED",
    "Assignment",
    "Router",
    "assign",
    "bucket",
    "compile_route",
    "mirrored",
    "taken",
]

_hash = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of a unit and why.

    `control` says that it lies in the control cohort; `rival` that another arm than the champion answers, which falls
    back on it; `drawn` that chance chose it, so that it counts in comparisons and for the breaker.
    """

    arm: str
    why: str
    control: bool = False
    rival: bool = False
    drawn: bool = True


CHAMPION = Assignment("champion", "champion")
CONTROL = Assignment("champion", "control", control=True)
CANDIDATE = Assignment("candidate", "share", rival=True)
HOLDOUT = Assignment("champion", "holdout")
VETOED = Assignment("champion", "veto")
KILLED = Assignment("champion", "kill switch")
OUTSIDE = Assignment("champion", "outside the segment", drawn=False)  # a request that a rollout's step leaves out
UNHOSTED = Assignment("champion", "control")  # of the control cohort, but not answered by the hosted copy
PINNED = Assignment("pinned", "version", drawn=False)

_COMPARED = frozenset({"champion", "candidate"})
_NOBODY: Set[str] = frozenset()
_NOTHING: Mapping[str, Any] = {}
Router = Callable[[str, Mapping[str, Any] | None, str, Set[str], bool], Assignment]
"""(unit, attributes, the arm a tester wishes or "", vetoed arms, kill switch) -> Assignment."""


def bucket(salt: str, unit: str) -> int:
    """Return a unit's bucket in [0, BUCKETS)."""
    return int(_hash((salt + unit).encode())) % BUCKETS


def assign(
    route: ModelRoute,
    unit: str,
    *,
    attributes: Mapping[str, Any] | None = None,
    wish: str = "",
    veto: bool = False,
    kill: bool = False,
    off: Set[str] = _NOBODY,
) -> Assignment:
    """Return the arm of `unit`; who asks often uses `compile_route` once.

    Args:
        route: The model's route.
        unit: Whose request it is.
        attributes: What segments look at.
        wish: The arm a tester asked for; looked at only where the route allows testers.
        veto: Whether the candidate is vetoed.
        kill: Whether the kill switch is on.
        off: Names of vetoed arms, variants too.
    """
    router = compile_route(route)
    return CHAMPION if router is None else router(unit, attributes, wish, off | {"candidate"} if veto else off, kill)


def compile_route(route: ModelRoute) -> Router | None:
    """Return the function that assigns units under a route; None when all of them get the champion."""
    if not (route.holdout or route.variants or route.segments or route.testers or route.within):
        return None if route.candidate is None else _plain(route)
    return _whole(route)


def _plain(route: ModelRoute) -> Router:
    """Candidate and control cohort only: what most rollouts are, in as few steps as possible."""
    salt, upper, control_from, control_to = route.salt, route.candidate_cut, route.control_from, route.control_to

    def assign(unit: str, attributes: Any, wish: str, off: Set[str], kill: bool) -> Assignment:
        cell = _hash((salt + unit).encode()) % BUCKETS
        if cell < upper:
            if kill:
                return KILLED
            return VETOED if off and "candidate" in off else CANDIDATE
        return CONTROL if control_from <= cell < control_to else CHAMPION

    return assign


def _whole(route: ModelRoute) -> Router:
    """Everything a route may say."""
    salt, testers, top = route.salt, route.testers, BUCKETS - route.holdout
    arms = _arms(route)
    wishes = {name: replace(arm, why="header", drawn=False) for name, arm in arms.items()}
    points, drawn = _ranges(route, arms)
    rules = [_rule(segment, arms) for segment in route.segments if segment.to in arms]
    compared = compile_where(route.within) if route.within else None
    choose = _chooser("" if route.draw == salt else route.draw, compared, points, drawn)

    def assign(unit: str, attributes: Mapping[str, Any] | None, wish: str, off: Set[str], kill: bool) -> Assignment:
        if testers and wish:
            found = wishes.get(wish) or wishes["champion"]
        else:
            cell = _hash((salt + unit).encode()) % BUCKETS
            if cell >= top:
                return HOLDOUT if compared is None or compared(attributes or _NOTHING) else OUTSIDE
            given, above = attributes or _NOTHING, None
            for holds, cut, here, beyond in rules:
                if holds(given):
                    if cell < cut:
                        found = here
                        break
                    above = above or beyond
            else:
                found = drawn[bisect_right(points, cell)] if choose is None else choose(unit, given, cell)
                if above is not None:
                    found = above[found.arm]
        if found.rival and (kill or (off and found.arm in off)):
            return taken(found, kill=kill)
        return found

    return assign


def _chooser(
    draw: str, compared: Test | None, points: list[int], drawn: list[Assignment]
) -> Callable[[str, Mapping[str, Any], int], Assignment] | None:
    """Return what draws an arm while an experiment or a segment's step runs; None without, so that neither costs."""
    if compared is None and not draw:
        return None

    def choose(unit: str, given: Mapping[str, Any], cell: int) -> Assignment:
        if draw:  # an experiment's own salt: independent of the holdout and of all experiments before
            cell = _hash((draw + unit).encode()) % BUCKETS
        found = drawn[bisect_right(points, cell)]
        left_out = compared is not None and found.arm in _COMPARED and not compared(given)
        return OUTSIDE if left_out else found

    return choose


def _arms(route: ModelRoute) -> dict[str, Assignment]:
    arms = {"champion": CHAMPION, **{v.name: Assignment(v.name, "variant", rival=True) for v in route.variants}}
    if route.candidate is not None:
        arms["candidate"] = CANDIDATE
    return arms


def _ranges(route: ModelRoute, arms: Mapping[str, Assignment]) -> tuple[list[int], list[Assignment]]:
    """Return (points, arms): a bucket below the holdout is arms[k]'s, where k points lie at or below it."""
    claims = [(v.start, v.end, arms[v.name]) for v in route.variants]
    if route.experiment:
        claims.append((route.control_from, route.control_to, CONTROL))
    if route.candidate is not None:
        claims = [(0, route.candidate_cut, CANDIDATE), *claims, (route.control_from, route.control_to, CONTROL)]
    points = sorted({0, *(point for start, end, _ in claims for point in (start, end))})
    drawn = [next((arm for start, end, arm in claims if start <= point < end), CHAMPION) for point in points]
    return points[1:], drawn  # of several claims the first has a bucket


Rule = tuple[Test, int, Assignment, dict[str, Assignment]]


def _rule(segment: Segment, arms: Mapping[str, Assignment]) -> Rule:
    """Return a segment's test, its cut, who answers below, and what becomes of others' answers above it."""
    why = f"segment {segment.name}"
    above = {name: replace(arm, why=f"{why}, above its share", drawn=False) for name, arm in arms.items()}
    return compile_where(segment.where), segment.cut, replace(arms[segment.to], why=why, drawn=False), above


def taken(rival: Assignment, *, kill: bool = False) -> Assignment:
    """Return the champion's assignment instead of another arm's: by the kill switch, or else by a veto."""
    if rival is CANDIDATE:
        return KILLED if kill else VETOED
    return Assignment("champion", f"{rival.why}, {'kill switch' if kill else 'veto'}", drawn=False)


def mirrored(route: ModelRoute, unit: str) -> bool:
    """Return whether a champion unit's row is also sent to the candidate as shadow."""
    if route.candidate is None or route.shadow <= 0.0:
        return False
    if route.holdout and bucket(route.salt, unit) >= BUCKETS - route.holdout:
        return False
    return route.shadow >= 1.0 or bucket(route.salt + "shadow:", unit) < route.shadow * BUCKETS
