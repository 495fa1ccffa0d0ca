"""Training runs: made here, executed in a child process (or in this one for a temporary project)."""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flyball.errors import DefinitionError
from flyball.training.types import Run, RunState

if TYPE_CHECKING:
    from flyball.adapters.local.children import StageChild
    from flyball.project.root import Project
    from flyball.training.context import StageContext

__all__ = [
    "code_digest", "context", "new_run", "run_stages_here", "signing_key", "snapshot_working", "spawn_run", "train",
    "working_code",
]  # fmt: skip


def new_run(
    project: Project,
    model: str,
    params: Mapping[str, Any],
    *,
    train_on: str | None = None,
    cause: str = "manual",
    trigger: str | None = None,
    now: datetime | None = None,
) -> Run:
    """Record a run of the applied definitions, looking back from `now` (the project's own by default)."""
    project.applied.model(model)
    now = now or project.clock.now()
    run = Run(
        id=f"{model}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        model=model,
        cause=cause,
        state=RunState.PENDING,
        created=now,
        until=now,
        code=code_digest(project),
        params=dict(params),
        train_on=train_on,
        trigger=trigger,
    )
    project.database.runs.create(run)
    return run


def train(
    project: Project,
    model: str,
    params: Mapping[str, Any],
    *,
    train_on: str | None,
    cause: str,
    progress: Callable[[Run], None] | None,
) -> Run:
    """Make a run, execute it, return its record."""
    run = new_run(project, model, params, train_on=train_on, cause=cause)
    return resume(project, run.id, progress=progress)


def resume(
    project: Project, run: str, *, stage: str | None = None, progress: Callable[[Run], None] | None = None
) -> Run:
    """Execute what a run still lacks and return its record.

    Raises:
        StageFailed: a stage failed; what was done before it is kept.
    """
    from flyball.adapters.local.children import run_stages

    if project.is_temporary:
        return run_stages_here(project, run, stage)
    runs = project.database.runs
    told = {s.stage: s.state for s in runs.get(run).stages if s.state == "done"}

    def tell() -> None:
        record = runs.get(run)
        for place, found in enumerate(record.stages):
            if progress is not None and told.get(found.stage) != found.state:
                told[found.stage] = found.state
                progress(replace(record, stages=record.stages[: place + 1]))

    run_stages(spawn_run(project, run, stage), each=tell if progress is not None else None)
    tell()
    return runs.get(run)


def spawn_run(project: Project, run: str, stage: str | None = None) -> StageChild:
    """Start a run's child process and return at once."""
    from flyball.adapters.local.children import spawn

    limits = project.settings.training
    return spawn(
        project.root,
        run,
        project.layout.state / "logs" / f"run-{run}.log",
        stage=stage,
        environment=project.config.environment,
        threads=limits.threads,
        memory=limits.memory,
        timeout=limits.timeout,
    )


def run_stages_here(project: Project, run: str, stage: str | None) -> Run:
    """Run the stages in this process."""
    from flyball.training.pipeline import run_stages

    record = project.database.runs.get(run)
    plan = project.definitions_of(record.code).model(record.model).plan
    run_stages(run, plan, context(project), stage=stage)
    return project.database.runs.get(run)


def context(project: Project) -> StageContext:
    """Return what the stages need of this project."""
    from flyball.gates.run import run_gate
    from flyball.project.labelled import AnsweredLog
    from flyball.training.context import StageContext

    return StageContext(
        gate=run_gate,
        layout=project.layout,
        engine=project.engine,
        runs=project.database.runs,
        versions=project.database.versions,
        datasets=project.database.datasets,
        tracker=project.tracker,
        clock=project.clock,
        settings=project.settings.training,
        served=AnsweredLog(project),
    )


def signing_key(project: Project) -> bytes:
    """Return the registry's HMAC key, made on first use."""
    from flyball.registry.artifacts import ensure_signing_key

    return ensure_signing_key(project.layout)


def code_digest(project: Project) -> str:
    """Return the digest of the code that new runs use: the applied snapshot, or a temporary project's source."""
    if project.is_temporary:
        return working_code(project)
    record = project.database.deployments.applied()
    if record is None:
        raise DefinitionError("nothing is applied yet; make the definitions live with: flyball apply")
    return record.code


def working_code(project: Project) -> str:
    """Return the digest of the code as it stands now."""
    if not project.is_temporary:
        from flyball.registry.code import code_digest as digest_of_folder

        return digest_of_folder(project.root, project.layout)
    text = "".join(_source_text(m.train) for m in project.working.models.values())
    return hashlib.sha256(text.encode()).hexdigest()


def snapshot_working(project: Project) -> str:
    """Keep the code as it stands now by its digest, and note which Python functions it declares."""
    if project.is_temporary:
        return working_code(project)
    from flyball.adapters.local.snapshots import record_refs
    from flyball.features.callables import refs_of
    from flyball.project.shared import pin
    from flyball.registry.code import snapshot_code

    pin(project)
    code = snapshot_code(project.root, project.layout)
    found = project.definitions_of(code)
    columns = [column for model in found.models.values() for column in model.service.columns]
    refs = refs_of([*found.view_specs, *found.sources.values(), *columns])
    record_refs(project.layout, refs, code=code, module=project.settings.project.definitions)
    return code


def _source_text(function: Callable[..., Any]) -> str:
    """Return a function's source; of one typed at a prompt only its name is known."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return repr(getattr(function, "__qualname__", function))
