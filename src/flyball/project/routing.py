"""What definitions say about routing goes into the table; splits and switches made by hand.

The surprise: applying definitions leaves arms alone. Shares, candidates and variants are decisions of rollouts and
people; an apply only changes how a model is served, its segments and its flags, and writes no table for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flyball.errors import Refused, UnknownName
from flyball.rollout.routing import BUCKETS, Flag, ModelRoute, RoutingTable, ServingSpec, check_route
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.definitions import Definitions
    from flyball.project.root import Project

__all__ = ["apply_routing", "as_defined", "flags_for", "former", "refuse_during_experiment", "split"]


def apply_routing(project: Project, definitions: Definitions) -> bool:
    """Commit a table that serves as the definitions say; return whether it differs from the one in force."""
    from flyball.project.releases import exclusive

    if not _differs(project, project.database.routing.current(), definitions):
        return False
    with exclusive(project) as (routes, fence):
        table = routes.current()
        models = _defined(project, table, definitions)
        flags = flags_for(table.flags, definitions.flags)
        new = table.following(
            *models, fence=fence, now=to_micros(project.clock.now()), cause="apply", flags=flags
        )  # fmt: skip
        routes.commit(new, expected=table.version, fence=fence)
    return True


def _differs(project: Project, table: RoutingTable, definitions: Definitions) -> bool:
    changed = any(route != table.models[route.model] for route in _defined(project, table, definitions))
    return changed or flags_for(table.flags, definitions.flags) != table.flags


def _defined(project: Project, table: RoutingTable, definitions: Definitions) -> list[ModelRoute]:
    deadline = project.settings.server.deadline.total_seconds()
    return [
        as_defined(route, definitions.models[name].serving, deadline=deadline)
        for name, route in table.models.items()
        if name in definitions.models
    ]


def as_defined(route: ModelRoute, spec: ServingSpec, *, deadline: float) -> ModelRoute:
    """Return a route served as its model's `fb.Serving` says, with the arms it has.

    A holdout that a split made stays while the definition names none.

    Raises:
        ConflictError: the holdout needs units that a variant has.
    """
    holdout = spec.holdout or (route.holdout if route.variants else 0)
    top = BUCKETS if route.draw else BUCKETS - holdout
    trusted = not (spec.hosted or route.champion.hosted)
    made = replace(
        route,
        champion=replace(route.champion, trusted=trusted),
        serving=replace(spec, segments=(), holdout=0, testers=False),
        segments=spec.segments,
        testers=spec.testers,
        holdout=holdout,
        control_from=min(route.control_from, top),
        control_to=min(route.control_to, top),
        deadline=deadline if spec.deadline is None else spec.deadline,
    )
    check_route(made)
    return made


def flags_for(known: Mapping[str, Flag], defined: Mapping[str, Flag]) -> dict[str, Flag]:
    """Return the flags of the next table: a definition that did not change leaves a flag as it was set since.

    A flag that an experiment owns stays as it is until that ends, whatever became of its definition.
    """
    made = {name: flag for name, flag in known.items() if flag.experiment}
    for name, flag in defined.items():
        old = known.get(name)
        if name in made:
            continue
        if old is None or old.defined != flag.defined:
            made[name] = replace(flag, revision=0 if old is None else old.revision + 1)
        else:
            made[name] = old
    return made


def split(
    project: Project,
    model: str,
    shares: Mapping[str, str | float],
    *,
    holdout: str | float | None = None,
    reason: str = "",
    actor: str = "cli",
) -> ModelRoute:
    """Give versions shares of a model's units beside the champion; see `ModelHandle.split`."""
    from flyball import units
    from flyball.project.models import ref_of
    from flyball.project.releases import exclusive, require_passing
    from flyball.project.views import restore
    from flyball.rollout.routing import cut
    from flyball.rollout.splits import split_for

    handle = project.models[model]
    versions = {name: handle.version(name) for name in shares}
    for version in versions.values():
        require_passing(version)
        restore(project, version)
    cuts = {name: cut(units.share(share)) for name, share in shares.items()}
    with exclusive(project) as (routes, fence):
        _refuse_during_rollout(project, model)
        table = routes.current()
        route = table.models.get(model)
        if route is None:
            raise Refused(f"{model} has no champion yet to split its traffic with; promote a version first")
        refuse_during_experiment(route)
        defined = project.applied.model(model).serving.holdout
        top = cut(units.share(holdout)) if holdout is not None else (route.holdout if shares else defined)
        refs = {name: ref_of(project, version, trusted=_was_trusted(route, name)) for name, version in versions.items()}
        made = split_for(route, refs, cuts, holdout=top)
        if made != route:
            new = table.following(made, fence=fence, now=to_micros(project.clock.now()), cause="split")
            routes.commit(new, expected=table.version, fence=fence)
        details = {"shares": {n: c / BUCKETS for n, c in cuts.items()}, "holdout": made.holdout / BUCKETS}
        now = project.clock.now()
        project.database.audit.record(now, actor, "split", model, {**details, "reason": reason})
    return made


def _was_trusted(route: ModelRoute, version: str) -> bool:
    """Return whether a version served as champion before, so that it needs no process of its own."""
    return any(ref.version == version and ref.trusted for ref in (*route.warm, *(v.version for v in route.variants)))


def _refuse_during_rollout(project: Project, model: str) -> None:
    for _, status in project.database.rollouts.list(model, active=True):
        raise Refused(
            f"rollout {status.id} of {model} {status.candidate} is under way ({status.phase}) and needs its units; "
            f"wait for it, or use: flyball rollout abort {status.candidate} --model {model}"
        )


def refuse_during_experiment(route: ModelRoute | None) -> None:
    """Raise Refused when an experiment owns a model's units."""
    if route is not None and route.experiment:
        raise Refused(
            f"experiment {route.experiment} has the units of {route.model} until it ends; "
            f"end it first with: flyball exp stop {route.experiment}"
        )


def former(project: Project, model: str) -> str:
    """Return the version that served before the champion and is still warm.

    Raises:
        UnknownName: nothing is served under that name.
        Refused: no former version is kept.
    """
    route = project.database.routing.current().models.get(model)
    if route is None:
        raise UnknownName.of("served model", model, project.database.routing.current().models)
    if not route.warm:
        raise Refused(f"{model} has no former version to switch back to; name one: flyball model switch VERSION")
    return route.warm[0].version
