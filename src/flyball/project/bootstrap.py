"""What a new project lacks before it can serve: applied definitions, and a first champion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flyball.training.types import RunState

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["bootstrap"]


def bootstrap(project: Project, *, say: Callable[[str], None], progress: Callable[[str, int, int], None]) -> None:
    """Apply if nothing was ever applied; train and promote for models that have no version at all.

    A project that was applied before is left as it is: an edit goes live by `flyball apply` only.
    """
    if project.database.deployments.applied() is None:
        say("applying the definitions")
        project.apply(progress=progress)
    for name in project.models:
        if project.models[name].versions:
            continue
        say(f"{name} has no version yet: training one")
        run = project.train(name, cause="first", progress=lambda r: say(f"  {r.stages[-1].stage} done"))
        if run.state is RunState.SUCCEEDED and run.version is not None:
            project.models[name].promote(run.version, reason="first champion")
            say(f"{name} {run.version} is champion")
        else:
            say(
                f"{name} {run.version} did not pass its gate, so {name} is not served; "
                f"see: flyball model show {run.version} --model {name}"
            )
