"""Run the stages of one training run in order, journaled, each idempotent, so that any crash can be resumed.

The surprise: a stage's folder appears by one rename after all its files are written, and its record turns to "done"
only after that; so a kill between any two lines leaves either nothing of a stage or all of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from flyball.disk import sync
from flyball.errors import ConflictError, FlyballError, StageFailed, UnknownName
from flyball.training.context import StageContext
from flyball.training.plan import TrainingPlan
from flyball.training.stages import WORK, Work, stage_inputs
from flyball.training.types import STAGES, Run, RunState, StageRecord

__all__ = ["run_stages"]

_OUTPUTS = "outputs.json"


def run_stages(run_id: str, plan: TrainingPlan, context: StageContext, stage: str | None = None) -> Run:
    """Execute what a run still lacks, or one stage alone, and return its record.

    A stage that is done and whose inputs have the same digest is skipped. A run that already ended well is left alone.

    Args:
        run_id: A run that the run store knows.
        plan: What its model says about training.
        context: Stores, engine, clock, limits.
        stage: Run only this one; those before it must be done.

    Raises:
        UnknownName: no such run or stage.
        StageFailed: a stage failed; names run, stage and cause, and how to go on. What was done is kept.
        ConflictError: another process is running this run.
    """
    if stage is not None and stage not in STAGES:
        raise UnknownName.of("stage", stage, STAGES)
    run = context.runs.get(run_id)
    if stage is None and run.state in {RunState.SUCCEEDED, RunState.GATED_OUT}:
        return run
    work = Work(run, plan, context)
    with _alone(work.folder, run_id):
        _sweep(work.folder)
        context.runs.set_state(run_id, RunState.RUNNING, now=context.clock.now())
        for name in STAGES:
            if stage is not None and STAGES.index(name) < STAGES.index(stage):
                work.outputs[name] = _done_before(work, name, stage)
            elif stage is None or name == stage:
                work.outputs[name] = _run_stage(work, name)
        _finish(work)
    return context.runs.get(run_id)


def _run_stage(work: Work, name: str) -> dict[str, Any]:
    """Run one stage unless it is done already, and return its outputs."""
    context, run = work.context, work.run
    inputs = ""
    started = context.clock.now()
    try:
        inputs = stage_inputs(name, work)
        if (outputs := _journaled(work, name, inputs)) is not None:
            context.progress(name, "skipped")
            return outputs
        record = StageRecord(name, "started", inputs, started)
        context.runs.record_stage(run.id, record)
        context.progress(name, "started")
        begun = time.monotonic()
        outputs = _execute(work, name)
        done = replace(record, state="done", finished=context.clock.now(), outputs=outputs)
        context.runs.record_stage(run.id, replace(done, seconds=round(time.monotonic() - begun, 3)))
    except Exception as error:
        raise _failed(work, name, inputs, started, error) from error
    context.progress(name, "done")
    return outputs


def _execute(work: Work, name: str) -> dict[str, Any]:
    """Let the stage write into a draft folder, then put that in place by one rename."""
    final = work.folder / name
    draft = work.folder / f".{name}.{os.getpid()}"
    draft.mkdir(parents=True)
    outputs = WORK[name](work, draft)
    (draft / _OUTPUTS).write_bytes(msgspec.json.encode(outputs, order="deterministic"))
    for path in (*draft.iterdir(), draft):
        sync(path)
    if final.exists():
        old = work.folder / f".{name}.{os.getpid()}.old"
        final.rename(old)
        draft.rename(final)
        shutil.rmtree(old)
    else:
        draft.rename(final)
    sync(work.folder)
    return outputs


def _journaled(work: Work, name: str, inputs: str) -> dict[str, Any] | None:
    """Return the outputs of a stage that is done with these inputs and whose folder is there."""
    for record in work.run.stages:
        if record.stage == name and record.state == "done" and record.inputs == inputs:
            return record.outputs if (work.folder / name / _OUTPUTS).exists() else None
    return None


def _done_before(work: Work, name: str, wanted: str) -> dict[str, Any]:
    outputs = _journaled(work, name, stage_inputs(name, work))
    if outputs is None:
        raise StageFailed(
            f"stage {wanted} of run {work.run.id} needs {name}, which is not done or whose inputs have changed; "
            f"run it first with: flyball run {name} --run {work.run.id}"
        )
    return outputs


def _failed(work: Work, name: str, inputs: str, started: datetime, error: Exception) -> StageFailed:
    """Record a failed stage and return the one sentence that says so."""
    context, run = work.context, work.run
    what = str(error) if isinstance(error, FlyballError) else f"{type(error).__name__}: {error}{_place(work, error)}"
    cause = " ".join(what.split())
    now = context.clock.now()
    context.runs.record_stage(run.id, StageRecord(name, "failed", inputs, started, now, error=cause))
    message = (
        f"run {run.id} failed in stage {name}: {cause}; after an edit: flyball apply, then flyball run; "
        f"or go on with the code it began with: flyball run --run {run.id}"
    )
    context.runs.set_state(run.id, RunState.FAILED, now=now, error=message)
    context.progress(name, "failed")
    return StageFailed(message)


def _place(work: Work, error: Exception) -> str:
    """Return the innermost place in the project's own files, such as " (definitions.py line 35)"."""
    code = work.context.layout.code.resolve()
    inside = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(code)]
    return f" ({Path(inside[-1].filename).name} line {inside[-1].lineno})" if inside else ""


def _finish(work: Work) -> None:
    """Set the run's state by its gate's verdict; a run of single stages is finished when its gate is."""
    version = work.outputs.get("package", {}).get("version")
    judged = work.outputs.get("gate")
    now = work.context.clock.now()
    if judged is None:
        work.context.runs.set_state(work.run.id, RunState.PENDING, now=now, version=version)
        return
    state = RunState.SUCCEEDED if judged["verdict"] == "passing" else RunState.GATED_OUT
    work.context.runs.set_state(work.run.id, state, now=now, version=version)


@contextmanager
def _alone(folder: Path, run: str) -> Iterator[None]:
    """Hold the run's lock; it ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"run {run} is running in another process; wait for it or end it first") from error
        yield


def _sweep(folder: Path) -> None:
    """Remove drafts of a process that was killed; put back a folder that it had moved aside."""
    for path in folder.glob(".*"):
        name = path.name.split(".")[1]
        if path.name.endswith(".old") and not (folder / name).exists():
            path.rename(folder / name)
        else:
            shutil.rmtree(path)
