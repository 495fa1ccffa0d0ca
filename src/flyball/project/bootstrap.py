"""What a new project lacks before it can serve: applied definitions, and a first champion."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from flyball.errors import StageFailed, Unavailable
from flyball.project.access import write_access
from flyball.training.types import RunState

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["bootstrap"]


def bootstrap(project: Project, *, say: Callable[[str], None], progress: Callable[[str, int, int], None]) -> None:
    """Apply if nothing was ever applied; train and promote for models that have no version at all.

    A project that was applied before is left as it is: an edit goes live by `flyball apply` only.

    Raises:
        Refused: the project is up already.
        Unavailable: a port is in use, or the control database is away and nothing was ever served here; nothing was
            applied or trained.
    """
    _check_ports(project)
    if _without_database(project, say):
        return
    if project.database.deployments.applied() is None:
        say("applying the definitions")
        project.apply(progress=progress)
    else:
        _restore_views(project, say)
        _refill_store(project, say, progress)
        write_access(project)  # should it be lost, nobody would get in
    if _edited(project):
        say("Python files here differ from what was applied; to make an edit live: flyball apply")
    for name in project.models:
        if project.models[name].versions:
            continue
        say(f"{name} has no version yet: training one")
        try:
            run = project.train(
                name, cause="first", progress=lambda r: say(f"  {r.stages[-1].stage} {r.stages[-1].state}")
            )
        except StageFailed as error:  # features are served and taken in all the same
            say(f"{name} could not be trained, so it is not served: {error}; try again: flyball run --model {name}")
            continue
        if run.state is RunState.SUCCEEDED and run.version is not None:
            project.models[name].promote(run.version, reason="first champion")
            say(f"{name} {run.version} is champion")
        else:
            say(
                f"{name} {run.version} did not pass its gate, so {name} is not served; "
                f"see: flyball model show {run.version} --model {name}"
            )


def _without_database(project: Project, say: Callable[[str], None]) -> bool:
    """Say so when the database is away although this project has served: then it serves on what it served last.

    Raises:
        Unavailable: it is away, and nothing was ever served here.
    """
    from flyball.adapters.local.tables import newest_table

    try:
        _ = project.database
    except Unavailable as error:
        table = newest_table(project.layout)
        if not table:
            raise
        say(f"{error}; serving routing table {table}, the last one, which cannot be changed until then")
        return True
    return False


def _restore_views(project: Project, say: Callable[[str], None]) -> None:
    """Write the list of views again when it was lost; without it ingest takes no row."""
    from flyball.adapters.local.views import read_views
    from flyball.project.views import in_use

    wanted = project.applied.view_specs
    if wanted and not read_views(project.layout):
        say("views.json was lost; writing it again")
        project.features.attach(in_use(project, wanted))


def _refill_store(project: Project, say: Callable[[str], None], progress: Callable[[str, int, int], None]) -> None:
    """Fill views whose online rows are gone although they were built: a lost store would answer "never seen"."""
    from flyball.project.views import in_use

    features = project.features
    lost = [v for v in in_use(project, project.applied.view_specs) if features.is_filled(v) and features.is_lost(v)]
    for view in lost:
        say(f"the online rows of view {view.name} were lost; filling them again from history")
        features.fill(view, full=True, progress=partial(progress, view.name))


def _edited(project: Project) -> bool:
    from flyball.project.runs import working_code

    applied = project.database.deployments.applied()
    return applied is not None and applied.code != working_code(project)


def _check_ports(project: Project) -> None:
    """Say now what the server would say after minutes of training."""
    from flyball.adapters.local.running import bind, lock

    held = lock(project.layout)
    try:
        server, control = project.settings.server, project.settings.control
        bind(server.host, server.port, setting="server.port").close()
        bind(control.host, control.port, setting="control.port").close()
    finally:
        os.close(held)
