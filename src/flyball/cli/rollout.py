"""rollout start|watch|pause|resume|approve|promote|abort|explain|history."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.cli.run import only_model

if TYPE_CHECKING:
    from flyball.project import Project

_model = click.option("--model", help="May be left out when there is one.")
_reason = click.option("--reason", default="", help="For the record.")
_version = click.argument("version")


@_version
@_model
@click.option("--skip-shadow", is_flag=True, help="Begin with the first step; audited.")
@click.option("--dry-run", is_flag=True, help="Only say how long it would take to detect harm and to promote.")
@click.option("--per-day", type=float, help="Requests a day, for --dry-run; counted from the log by default.")
@click.option("--force", is_flag=True, help="Also when rollbacks of the model come too fast; audited.")
@_reason
def _start(
    project: Project,
    version: str,
    *,
    model: str | None,
    skip_shadow: bool,
    dry_run: bool,
    per_day: float | None,
    force: bool,
    reason: str,
    show: Callable[..., None],
) -> None:
    """Release VERSION step by step."""
    handle = project.rollout(model or only_model(project), version)
    if dry_run:
        show(handle.expected(per_day=per_day, skip_shadow=skip_shadow), _print_forecast)
        return
    show(handle.start(skip_shadow=skip_shadow, cause=reason or "manual", force=force), _print_status)


def _print_forecast(forecast: dict[str, Any]) -> None:
    click.echo(f"{forecast['strategy']} at {forecast['per_day']:,.0f} requests a day")
    print_table(("phase", "share", "days"), [(p["name"], p["share"], p["days"]) for p in forecast["phases"]])
    columns = ("guardrail", "step", "share", "harm", "requests to detect it", "days")
    rows = [
        (d["guardrail"], d["step"], d["share"], d["harm"], d["candidate_requests"], d["days"])
        for d in forecast["detect"]
    ]
    print_table(columns, rows)
    click.echo(f"expected to promote: {forecast['promotes']}")


@_version
@_model
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds.")
def _watch(project: Project, version: str, *, model: str | None, timeout: float, show: Callable[..., None]) -> int:
    """Follow a release until it ends; exit code 1 when it was rolled back."""
    handle = project.rollout(model or only_model(project), version)
    last = handle.status
    for last in handle.watch(timeout=timeout):
        note(f"{last.phase} {last.share:.0%}: {last.reason}")
    show(last, _print_status)
    return 1 if last.phase in {"RolledBack", "RollingBack"} else 0


def _ordering(name: str, text: str) -> click.Command:
    @_version
    @_model
    @_reason
    def command(project: Project, version: str, *, model: str | None, reason: str, show: Callable[..., None]) -> None:
        show(getattr(project.rollout(model or only_model(project), version), name)(reason), _print_status)

    command.__doc__ = text
    return verb(command)


def _print_status(status: dict[str, Any]) -> None:
    wanted = "" if status["wanted"] == "run" else f", wanted: {status['wanted']}"
    reason = f": {status['reason']}" if status["reason"] else ""
    click.echo(f"{status['id']}: {status['phase']} at {status['share']:.0%}{wanted}{reason}")


@_version
@_model
def _explain(project: Project, version: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Show the evidence against every limit."""
    show(project.rollout(model or only_model(project), version).explain(), _print_evidence)


def _print_evidence(document: dict[str, Any]) -> None:
    click.echo(f"{document['rollout']}: {document['phase']}. {document['reason']}")
    if document["waiting"]:
        click.echo(f"  waiting: {document['waiting']}")
    for text in [document["storm"]] if document["storm"] else []:
        click.echo(f"  {text}")
    for text in document["held_back"]:
        click.echo(f"  {text}")
    if document["shadow"] is not None:
        click.echo(f"  {document['shadow']['sentence']}")
    for guardrail in document["guardrails"]:
        click.echo(f"  {guardrail['sentence']}")
    if document["primary"] is not None:
        click.echo(f"  {document['primary']['sentence']}")
    click.echo(f"  next: {document['next']['sentence']}")


@_version
@_model
@_reason
@click.option("--force", is_flag=True, help="Also while the calendar freezes; recorded.")
def _promote(
    project: Project, version: str, *, model: str | None, reason: str, force: bool, show: Callable[..., None]
) -> None:
    """Promote at once, whatever the evidence; the override needs a reason and is recorded with the evidence."""
    show(project.rollout(model or only_model(project), version).promote(reason, force=force), _print_status)


@click.argument("rollout", required=False)
@click.option("--model", help="Only of this model.")
def _history(project: Project, rollout: str | None, *, model: str | None, show: Callable[..., None]) -> None:
    """List releases with the metrics they ended with; of one ROLLOUT (its id or a version) everything that happened."""
    from flyball.project.releases import history, record

    if rollout is None:
        show(history(project, model), _print_history)
    else:
        show(record(project, rollout), _print_record)


def _print_history(rollouts: list[dict[str, Any]]) -> None:
    rows = [
        (s["candidate"], s["champion"], s["phase"], s["created"][:16], _metrics(s["metrics"]), s["reason"])
        for s in rollouts
    ]
    print_table(("candidate", "champion", "phase", "started", "harm at the end", "why"), rows)


def _metrics(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {m['harm']:+.3g}" for name, m in metrics.items() if m["harm"] is not None)


def _print_record(document: dict[str, Any]) -> None:
    _print_evidence(document | {"held_back": [], "storm": ""})
    for event in document["events"]:
        click.echo(f"  {event['at'][:19]} {event['kind']}: {event['reason']}")


start = verb(_start)
watch = verb(_watch)
pause = _ordering("pause", "Hold a release where it is.")
resume = _ordering("resume", "Let a paused release go on.")
approve = _ordering("approve", "Let a release take the step, or the promotion, that waits for a person.")
promote = verb(_promote)
abort = _ordering("abort", "Return all traffic to the champion.")
explain = verb(_explain)
history = verb(_history)
