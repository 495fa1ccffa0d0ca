"""monitor status|drift|performance|alerts|report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.cli.run import only_model

if TYPE_CHECKING:
    from flyball.project import Project

_model = click.option("--model", help="May be left out when there is one.")
_limit = click.option("--limit", default=30, show_default=True, help="How many of the newest windows.")


@verb
def status(project: Project, *, show: Callable[..., None]) -> None:
    """Newest window of every monitor."""
    document = {}
    for name in sorted(project.applied.models):
        handle = project.monitor(name)
        document[name] = {"drift": handle.drift(limit=1), "performance": handle.performance(limit=1)}
    show(document, _print_newest)


def _print_newest(document: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for model, found in document.items():
        rows += [(model, "drift", w["start"][:16], w["level"], w["text"]) for w in found["drift"]]
        rows += [(model, w["metric"], w["start"][:16], w["state"], _performance(w)) for w in found["performance"]]
    print_table(("model", "monitor", "window", "state", "what"), rows, empty="no window has closed yet")


def _performance(window: dict[str, Any]) -> str:
    value = "-" if window["value"] is None else f"{window['value']:.3g}"
    return f"{value} on {window['rows']:,} predictions, {window['coverage']:.0%} labelled"


@_model
@_limit
def _drift(project: Project, *, model: str | None, limit: int, show: Callable[..., None]) -> None:
    """Drift by window and feature."""
    found = project.monitor(model or only_model(project)).drift(limit=limit)
    show(found, _print_drift)


def _print_drift(windows: list[dict[str, Any]]) -> None:
    rows = []
    for window in windows:
        worst = sorted(window["features"], key=lambda f: f["usual"] - f["distance"])[:3]
        moved = ", ".join(f"{f['feature']} {f['distance']:.2f} (usual {f['usual']:.2f})" for f in worst)
        rows.append((window["start"][:10], window["version"], window["rows"], window["level"], moved))
    print_table(("window", "champion", "rows", "level", "moved most"), rows, empty="no window has closed yet")


@_model
@_limit
def _performance_verb(project: Project, *, model: str | None, limit: int, show: Callable[..., None]) -> None:
    """Performance by window of the prediction's time, with label coverage."""
    found = project.monitor(model or only_model(project)).performance(limit=limit)
    show(found, _print_performance)


def _print_performance(windows: list[dict[str, Any]]) -> None:
    rows = [(w["start"][:16], w["version"], w["metric"], _performance(w), w["state"]) for w in windows]
    print_table(("window", "version", "metric", "value", "state"), rows, empty="no window has closed yet")


@verb
def alerts(project: Project, *, show: Callable[..., None]) -> None:
    """Alerts, newest last."""
    found = project.database.monitors.alerts()
    show(found, _print_alerts)


def _print_alerts(alerts: list[dict[str, Any]]) -> None:
    rows = [(a["at"][:16], a["severity"], a["model"], a["text"]) for a in alerts]
    print_table(("at", "severity", "model", "what"), rows, empty="no alerts")


@click.argument("file", type=click.Path())
@_model
def _report(project: Project, file: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Write one self-contained HTML page to FILE."""
    written = project.monitor(model or only_model(project)).report(file)
    show({"file": str(written)}, lambda d: note(f"written to {d['file']}"))


drift = verb(_drift)
performance = verb(_performance_verb)
report = verb(_report)
