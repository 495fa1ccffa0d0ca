"""demo: the whole loop on real trips."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flyball.cli.output import emit, note, print_table


@click.command()
@click.argument("folder", default="flyball-demo")
@click.option("--no-drift", is_flag=True, help="Replay days like those learned from: nothing should happen.")
@click.option("--seed", default=0, show_default=True, help="Other seeds give callers other buckets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def demo(folder: str, no_drift: bool, seed: int, as_json: bool) -> int:
    """Watch the whole loop on real trips: six weeks of New York's spring of 2020 in about four minutes.

    The project is made in FOLDER (flyball-demo when left out), which must be empty, and stays there.
    """
    from flyball.demo.story import DRIFTING, QUIET, run_demo
    from flyball.ui.timeline import render_timeline

    target = Path(folder)
    report = run_demo(target, story=QUIET if no_drift else DRIFTING, seed=seed, say=_say, tick=_ticker())
    page = target / "timeline.html"
    page.write_text(render_timeline(report), encoding="utf-8")
    report["page"] = str(page)
    emit(report, _print, as_json=as_json)
    return 0


def _say(text: str) -> None:
    note(f"\r{text:<78}" if sys.stderr.isatty() else text)


def _ticker() -> Callable[[datetime, int], None]:
    seen = ""

    def tick(now: datetime, served: int) -> None:
        nonlocal seen
        text = f"{now:%a %-d %B %H:00}  {served:,} trips served"
        if sys.stderr.isatty():
            if text != seen:
                sys.stderr.write(f"\r{text:<78}")
                sys.stderr.flush()
        elif f"{now:%a %-d %B}" != seen:
            note(f"{now:%a %-d %B}  {served:,} trips served")
        seen = text if sys.stderr.isatty() else f"{now:%a %-d %B}"

    return tick


def _print(report: dict[str, Any]) -> None:
    from flyball.demo.report import judge

    click.echo("\nReleases")
    rows = [
        (
            r["started_at"][:16],
            r["version"],
            r["cause"],
            r["verdict"].replace("_", " "),
            r["candidate_requests"],
            r["reason"],
        )
        for r in report["rollouts"]
    ]
    print_table(("when", "version", "why it was made", "verdict", "requests", "why it ended so"), rows, empty="none")
    click.echo("\nMean error in minutes by day")
    print_table(
        ("day", "trips", "with the loop", "without"),
        [(d["day"], d["trips"], d["with_loop"], d["without_loop"]) for d in report["error_by_day"]],
    )
    with_loop, without = judge(report)
    if without:
        click.echo(f"\nWeekdays from 23 March: {with_loop:.2f} minutes with the loop, {without:.2f} without it.")
    click.echo(
        f"{report['trips_served']:,} trips served, {report['failed_requests']} failed requests, "
        f"p50 {report['latency_ms']['p50']} ms, p99 {report['latency_ms']['p99']} ms, {report['wall_s']:.0f} s in all, "
        f"{report['peak_pss_mb']:,} MB at most; {report['skew']['different']} of {report['skew']['values']:,} served "
        f"feature values differ from history; {len(report['retrainings'])} retrainings took "
        f"{report['own_overhead_s']:.0f} s."
    )
    click.echo(f"The timeline: {report['page']}\nOpen the project live: flyball up --project {report['folder']}")
