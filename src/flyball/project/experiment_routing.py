"""What an experiment does to the routing table: take a model's or a flag's units, and give them back.

Both are idempotent: a route or flag says which experiment owns it, so that a process that was killed between the
database and the table is simply followed by another one. The surprise: an experiment draws with a salt of its own. With
the model's, its arms would be cut where the last rollout's were, and its units would carry what that did to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flyball.errors import DefinitionError, Refused, UnknownName
from flyball.rollout.routing import BUCKETS, Flag, ModelRoute, RoutingTable, Scalar, Variant, check_route, cut
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.experiments.design.types import Experiment
    from flyball.experiments.lifecycle import ExperimentStatus
    from flyball.project.root import Project

__all__ = ["give_back", "salt_of", "served", "take"]

_CHAMPION = "champion"
_Change = Callable[[RoutingTable], RoutingTable | None]


def salt_of(experiment: Experiment) -> str:
    """Return the salt by which an experiment draws its units."""
    return f"exp:{experiment.name}:"


def served(project: Project, experiment: Experiment) -> dict[str, str]:
    """Return what the log calls each arm, after looking whether all of them can be served.

    Raises:
        UnknownName: there is no such model, version, flag or value.
        Refused: a gate did not pass, or a rollout, a split or another experiment has the units.
    """
    table = project.database.routing.current()
    if experiment.model:
        return _versions(project, experiment, table)
    return _values(experiment, table) if experiment.flag else {arm: arm for arm in experiment.shares}


def take(project: Project, experiment: Experiment, status: ExperimentStatus) -> int:
    """Have the experiment draw its units from now on; return the first table that does, 0 where it needs none."""
    if experiment.model:
        return _committed(project, experiment, lambda table: _with_variants(project, experiment, status, table))
    if experiment.flag:
        return _committed(project, experiment, lambda table: _with_values(experiment, status, table))
    return 0


def give_back(project: Project, experiment: Experiment, status: ExperimentStatus) -> int:
    """Return the units to what was served before, or all of them to the shipped arm; return the first such table."""
    if experiment.model:
        return _committed(project, experiment, lambda table: _without_variants(experiment, table))
    if experiment.flag:
        return _committed(project, experiment, lambda table: _without_values(project, experiment, status, table))
    return 0


def _committed(project: Project, experiment: Experiment, change: _Change) -> int:
    from flyball.project.releases import exclusive

    with exclusive(project) as (routes, fence):
        table = routes.current()
        made = change(table)
        if made is None:  # a process before did it and was killed before it could say so
            return _since(project, experiment, table)
        new = replace(made, version=table.version + 1, fence=fence, cause="experiment",
                      written=to_micros(project.clock.now()))  # fmt: skip
        routes.commit(new, expected=table.version, fence=fence)
        return new.version


def _since(project: Project, experiment: Experiment, table: RoutingTable) -> int:
    """Return the first of the tables up to `table` that say of this experiment what it does."""
    owner, version = _owner(table, experiment), table.version
    while version > 1:
        before = project.database.routing.at(version - 1)
        if before is None or _owner(before, experiment) != owner:
            break
        version -= 1
    return version


def _owner(table: RoutingTable, experiment: Experiment) -> bool:
    route, flag = table.models.get(experiment.model), table.flags.get(experiment.flag)
    found = route.experiment if route is not None else flag.experiment if flag is not None else ""
    return found == experiment.name


# -- the versions of a model ------------------------------------------------------------------------------------------


def _versions(project: Project, experiment: Experiment, table: RoutingTable) -> dict[str, str]:
    from flyball.project.releases import require_passing
    from flyball.project.routing import refuse_during_experiment
    from flyball.project.views import restore

    handle, route = project.models[experiment.model], table.models.get(experiment.model)
    if route is None:
        raise Refused(f"{experiment.model} has no champion yet to experiment beside; promote a version first")
    refuse_during_experiment(route)
    _refuse_busy(project, route)
    names = {arm: _CHAMPION if arm in {_CHAMPION, route.champion.version} else arm for arm in experiment.shares}
    if list(names.values()).count(_CHAMPION) > 1:
        raise DefinitionError(f"arms 'champion' and {route.champion.version!r} are one and the same; leave one out")
    for name in names.values():
        if name != _CHAMPION:
            version = handle.version(name)
            require_passing(version)
            restore(project, version)
    return names


def _refuse_busy(project: Project, route: ModelRoute) -> None:
    for _, status in project.database.rollouts.list(route.model, active=True):
        raise Refused(
            f"rollout {status.id} of {route.model} {status.candidate} is under way ({status.phase}) and needs its "
            f"units; wait for it, or use: flyball rollout abort {status.candidate} --model {route.model}"
        )
    if route.variants:
        names = ", ".join(variant.name for variant in route.variants)
        raise Refused(
            f"a split of {route.model} with {names} is in force and has its units; "
            f"end it first with: flyball model split --stop --model {route.model}"
        )


def _with_variants(
    project: Project, experiment: Experiment, status: ExperimentStatus, table: RoutingTable
) -> RoutingTable | None:
    from flyball.project.models import ref_of

    route = table.models.get(experiment.model)
    if route is None:
        raise Refused(f"{experiment.model} is not served any more")
    if route.experiment == experiment.name:
        return None
    _versions(project, experiment, table)
    known = {ref.version for ref in route.warm if ref.trusted}
    ranges = _ranges(experiment)
    variants = []
    for arm, name in status.served.items():
        if name != _CHAMPION:
            version = project.models[experiment.model].version(name)
            variants.append(Variant(name, ref_of(project, version, trusted=name in known), *ranges[arm]))
    control = next((ranges[arm] for arm, name in status.served.items() if name == _CHAMPION), (0, 0))
    made = replace(route, variants=tuple(variants), draw=status.salt, experiment=experiment.name,
                   control_from=control[0], control_to=control[1])  # fmt: skip
    check_route(made)
    return replace(table, models={**table.models, route.model: made})


def _ranges(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Return the buckets of each arm, side by side in the order of the design."""
    found, start = {}, 0
    for arm, share in experiment.arms:
        end = min(start + cut(share), BUCKETS)
        found[arm] = (start, end)
        start = end
    return found


def _without_variants(experiment: Experiment, table: RoutingTable) -> RoutingTable | None:
    route = table.models.get(experiment.model)
    if route is None or route.experiment != experiment.name:
        return None
    made = replace(route, variants=(), draw="", experiment="", control_from=0, control_to=0)
    return replace(table, models={**table.models, route.model: made})


# -- the values of a flag ---------------------------------------------------------------------------------------------


def _values(experiment: Experiment, table: RoutingTable) -> dict[str, str]:
    flag = table.flags.get(experiment.flag)
    if flag is None:
        raise UnknownName.of("flag", experiment.flag, table.flags)
    if flag.experiment:
        raise Refused(
            f"experiment {flag.experiment} has the units of flag {flag.name} until it ends; "
            f"end it first with: flyball exp stop {flag.experiment}"
        )
    if not flag.on:
        raise Refused(f"flag {flag.name} is off, so everybody gets {flag.default!r}; use: flyball flag set --on")
    for segment in flag.segments:
        if segment.cut < BUCKETS:
            raise Refused(
                f"segment {segment.name} of flag {flag.name} takes a share of its units, so that chance does not "
                "draw evenly from the others; give it all of them, or none"
            )
    return {arm: json.dumps(_value(experiment, flag, arm)) for arm in experiment.shares}


def _value(experiment: Experiment, flag: Flag, arm: str) -> Scalar:
    """Return the value that an arm names: by its JSON text, or by itself where it is a text."""
    for value in (*flag.values, flag.default):
        if arm in {json.dumps(value), value if isinstance(value, str) else None}:
            return value
    known = dict.fromkeys(json.dumps(value) for value in (*flag.values, flag.default))
    raise UnknownName.of(f"value of flag {flag.name}, which the arms of experiment {experiment.name} are", arm, known)


def _with_values(experiment: Experiment, status: ExperimentStatus, table: RoutingTable) -> RoutingTable | None:
    flag = table.flags.get(experiment.flag)
    if flag is not None and flag.experiment == experiment.name:
        return None
    _values(experiment, table)
    assert flag is not None  # _values saw it
    values = tuple(json.loads(status.served[arm]) for arm in experiment.shares)
    cuts = tuple(end for _, end in _ranges(experiment).values())
    made = replace(flag, salt=status.salt, values=values, cuts=cuts, experiment=experiment.name,
                   revision=flag.revision + 1)  # fmt: skip
    return replace(table, flags={**table.flags, flag.name: made})


def _without_values(
    project: Project, experiment: Experiment, status: ExperimentStatus, table: RoutingTable
) -> RoutingTable | None:
    now = table.flags.get(experiment.flag)
    if now is None or now.experiment != experiment.name:
        return None
    flags = {name: flag for name, flag in table.flags.items() if name != now.name}
    before = _before(project, experiment, status, now)
    if before is not None:
        made = replace(before, on=now.on, revision=now.revision + 1)
        flags[now.name] = _all_to(made, json.loads(status.served[status.ship])) if status.ship else made
    return replace(table, flags=flags)


def _before(project: Project, experiment: Experiment, status: ExperimentStatus, now: Flag) -> Flag | None:
    """Return the flag as it was, or as its definition says where that changed; None when it is defined no more."""
    defined = project.applied.flags.get(experiment.flag)
    if defined is None or defined.defined != now.defined:
        return defined
    former = project.database.routing.at(status.tables[0] - 1) if status.tables[0] else None
    flag = former.flags.get(experiment.flag) if former is not None else None
    return defined if flag is None or flag.experiment else flag


def _all_to(flag: Flag, value: Scalar) -> Flag:
    """Return a flag that gives every unit one value."""
    at = next((k for k, v in enumerate(flag.values) if v == value and type(v) is type(value)), None)
    if at is None and (flag.default != value or type(flag.default) is not type(value)):
        return replace(flag, values=(value,), cuts=(BUCKETS,))
    cuts = tuple(BUCKETS if at is not None and k >= at else 0 for k in range(len(flag.values)))
    return replace(flag, cuts=cuts)
