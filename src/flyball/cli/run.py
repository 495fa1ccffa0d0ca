"""run: train."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.errors import DefinitionError
from flyball.training.types import STAGES, Run, RunState

if TYPE_CHECKING:
    from flyball.project import Project


@click.argument("stage", required=False, type=click.Choice(STAGES))
@click.option("--model", help="The model to train; may be left out when there is one.")
@click.option("--run", "run_id", help="Resume this run instead of starting one.")
@click.option("--train-on", help="How far back examples are taken, such as 9d.")
def _run(
    project: Project,
    stage: str | None,
    *,
    model: str | None,
    run_id: str | None,
    train_on: str | None,
    show: Callable[..., None],
) -> int:
    """Run all stages of a model, or STAGE of a run alone."""
    from flyball.project.runs import new_run, resume

    record = (
        project.database.runs.get(run_id)
        if run_id
        else new_run(project, model or only_model(project), {}, train_on=train_on)
    )
    note(f"run {record.id}")
    done = resume(project, record.id, stage=stage, progress=tell)
    show(done, _print_run)
    return 1 if done.state is RunState.GATED_OUT else 0


def only_model(project: Project) -> str:
    """Return the project's model when there is exactly one."""
    names = sorted(project.applied.models)
    if len(names) != 1:
        raise DefinitionError(f"the project has {len(names)} models; name one with --model ({', '.join(names)})")
    return names[0]


def tell(run: Run) -> None:
    """Print the newest stage of a run under way."""
    stage = run.stages[-1]
    note(f"  {stage.stage} {stage.state}")


def _print_run(run: dict[str, Any]) -> None:
    rows = [(s["stage"], s["state"], s["seconds"]) for s in run["stages"]]
    print_table(("stage", "state", "seconds"), rows)
    why = f" - {run['error']}" if run["error"] else ""
    click.echo(f"{run['model']} {run['version'] or '-'}: {run['state'].replace('_', ' ')}{why}")


run = verb(_run)
