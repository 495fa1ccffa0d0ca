"""A/B/n: give registered versions ranges of units beside the champion. Pure.

The surprise: variants do not lie side by side. They are spread over the units so that each can grow where it is, and a
share that grows never moves a unit from one variant to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flyball.errors import ConflictError, InputError
from flyball.rollout.routing import (
    BUCKETS,
    CHAMPION_ARMS,
    MAX_VARIANTS,
    ModelRoute,
    Variant,
    VersionRef,
    check_route,
)

__all__ = ["split_for"]

_Range = tuple[int, int]


def split_for(
    route: ModelRoute, versions: Mapping[str, VersionRef], cuts: Mapping[str, int], *, holdout: int
) -> ModelRoute:
    """Return a route whose variants have these numbers of buckets; none ends the split.

    Args:
        route: The route in force.
        versions: Where each variant's version lies, by its name.
        cuts: Buckets of each variant.
        holdout: Buckets at the top that always get the champion.

    Raises:
        InputError: a share is none, or there are too many variants.
        ConflictError: the shares are more than all units, or one cannot grow without moving another's units.
    """
    top = BUCKETS - holdout
    _check(route, cuts, top)
    kept = {v.name: (v.start, v.start + cuts[v.name]) for v in route.variants if v.name in cuts}
    _check_room(route.model, kept, top)
    places = dict(kept) if kept else _spread(cuts, top)
    for name, size in cuts.items():
        if name not in places:
            places[name] = _into_gap(route.model, name, size, list(places.values()), top)
    variants = tuple(Variant(name, versions[name], *places[name]) for name in cuts)
    made = replace(route, variants=variants, holdout=holdout)
    check_route(made)
    return made


def _check(route: ModelRoute, cuts: Mapping[str, int], top: int) -> None:
    if len(cuts) > MAX_VARIANTS:
        raise InputError(f"{len(cuts)} variants of {route.model} are too many; {MAX_VARIANTS} are the most")
    for name, size in cuts.items():
        if name in CHAMPION_ARMS or name == route.champion.version:
            raise InputError(f"{name} gets what the others leave; name only versions beside the champion")
        if size <= 0:
            raise InputError(f"variant {name} has no share; leave it out to end it")
    if sum(cuts.values()) > top:
        share, most = sum(cuts.values()) / BUCKETS, top / BUCKETS
        raise ConflictError(f"the variants of {route.model} ask for {share:.2%} of the units; {most:.2%} are there")


def _spread(cuts: Mapping[str, int], top: int) -> dict[str, _Range]:
    """Give each variant room to grow in proportion to its share."""
    total, before, places = sum(cuts.values()), 0, {}
    for name, size in cuts.items():
        start = top * before // total
        places[name] = (start, start + size)
        before += size
    return places


def _check_room(model: str, kept: Mapping[str, _Range], top: int) -> None:
    ordered = sorted((start, end, name) for name, (start, end) in kept.items())
    for n, (start, end, name) in enumerate(ordered):
        limit, other = (ordered[n + 1][0], ordered[n + 1][2]) if n + 1 < len(ordered) else (top, "the holdout")
        if end > limit:
            raise ConflictError(
                f"variant {name} of {model} has room for {(limit - start) / BUCKETS:.2%} where it lies; more would "
                f"move units of {other}. Give it less, or begin anew after: flyball model split --stop --model {model}"
            )


def _into_gap(model: str, name: str, size: int, taken: list[_Range], top: int) -> _Range:
    """Return the middle of the widest free range."""
    edges = [0, *(edge for place in sorted(taken) for edge in place), top]
    gaps = [(end - start, start) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    width, start = max(gaps)
    if width < size:
        raise ConflictError(
            f"variant {name} of {model} finds no {size / BUCKETS:.2%} of the units in one piece ({width / BUCKETS:.2%} "
            f"at most); give it less, or begin anew after: flyball model split --stop --model {model}"
        )
    begin = start + (width - size) // 2
    return begin, begin + size
