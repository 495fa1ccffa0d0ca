"""`flyball demo`: the whole loop on real trips, from an empty folder to a promoted retraining.

Nothing is scripted to succeed. The demo makes a project, starts its real processes, is its callers for six weeks of
domain time, makes two bad releases as people make them, and reports what flyball did about all that.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.config import set_value
from flyball.demo import releases, trips
from flyball.demo.memory import PeakPss
from flyball.demo.replay import Action, Replay, Served
from flyball.demo.report import summarise
from flyball.demo.traffic import Traffic
from flyball.errors import InputError, MissingExtra, Refused
from flyball.project import Project
from flyball.templates import write_template

if TYPE_CHECKING:
    from flyball.adapters.local.running import Running

__all__ = ["DRIFTING", "QUIET", "Demo", "Story", "run_demo"]

HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Story:
    """Which days are replayed, and what else happens.

    `learn_until`: history ends and the first champion is trained here; `warm`: first day pushed but not asked for;
    `first` and `end`: days asked for; `shift`: how far the replayed trips are moved.
    """

    learn_until: date
    warm: date
    first: date
    end: date
    shift: timedelta = timedelta(0)
    bad_releases: bool = True
    schedule: bool = True


DRIFTING = Story(date(2020, 3, 11), date(2020, 3, 11), date(2020, 3, 11), date(2020, 4, 21))
QUIET = Story(
    date(2020, 3, 11), date(2020, 3, 15), date(2020, 3, 16), date(2020, 3, 25), timedelta(days=14), False, False
)


@dataclass(slots=True)
class Demo:
    """What the demo did, for the report."""

    folder: Path
    story: Story
    served: Served
    trips: trips.Trips
    champion: str
    wall: float = 0.0
    peak_pss: int = 0
    causes: dict[str, str] = field(default_factory=dict)  # version -> why it was made


def run_demo(
    folder: Path,
    *,
    story: Story = DRIFTING,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    tick: Callable[[datetime, int], None] = lambda _now, _served: None,
) -> dict[str, Any]:
    """Run the demo in an empty folder and return its report (the document of `flyball demo --json`).

    Args:
        folder: Where the project is made; must be empty or not exist.
        story: Which days, and whether bad releases are made.
        seed: Other seeds give units other buckets.
        say: Told in words what happens.
        tick: Told the domain time and how many trips were served.

    Raises:
        InputError: the folder is not empty.
    """
    from flyball.adapters.local.running import start, stop

    started = time.perf_counter()
    with PeakPss() as memory:
        project = _prepare(folder, story, say)
        champion = _first_champion(project, say)
        project.features.close()
        running = start(project.root, project.layout)
        say(f"serving on {running.url}")
        try:
            demo = asyncio.run(_replay(project, running, story, seed, champion, say, tick))
        finally:
            stop(project.layout)
    demo.wall = time.perf_counter() - started
    demo.peak_pss = memory.peak
    report = summarise(project, demo)
    project.close()
    return report


def _prepare(folder: Path, story: Story, say: Callable[[str], None]) -> Project:
    if find_spec("sklearn") is None:
        raise MissingExtra.of("the demo", "standard")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give the demo an empty folder, or remove this one")
    write_template("eta", folder, data=False)
    config = folder / "flyball.toml"
    for key in ("server.port", "control.port"):
        set_value(config, key, str(_free_port()))
    first = trips.local_midnight(story.learn_until)
    set_value(config, "clock.start", first.isoformat())
    if not story.schedule:
        definitions = folder / "definitions.py"
        definitions.write_text(
            definitions.read_text().replace('fb.on.drift(), fb.on.schedule("0 4 1,15 * *")', "fb.on.drift()")
        )
    rows = trips.write_history(folder / "data" / "trips" / "history.parquet", story.learn_until)
    say(f"project in {folder}: {rows:,} trips until {story.learn_until:%-d %B %Y}")
    project = Project.open(folder)
    project.apply()
    return project


def _first_champion(project: Project, say: Callable[[str], None]) -> str:
    run = project.train("eta", train_on="9d", cause="first")
    if run.version is None or run.state != "succeeded":
        raise Refused(f"the first version did not pass its gate: {run.state} {run.error}")
    version = project.models["eta"].promote(run.version, reason="first champion", actor="demo")
    say(f"eta {version.version} is champion: mean error {version.metrics['mae']:.2f} minutes on the holdout")
    return str(version.version)


async def _replay(
    project: Project,
    running: Running,
    story: Story,
    seed: int,
    champion: str,
    say: Callable[[str], None],
    tick: Callable[[datetime, int], None],
) -> Demo:
    replayed = trips.read(story.warm - story.shift, story.end - story.shift, shift=story.shift)
    async with (
        Traffic(running.host, running.port) as gateway,
        Traffic(running.control_host, running.control_port, connections=1) as control,
    ):
        replay = Replay(
            replayed, gateway=gateway, control=control, salt=f"{seed}/", score_from=trips.first_tick(story.first)
        )
        demo = Demo(project.root, story, replay.served, replayed, champion, causes={champion: "first champion"})
        actions = _bad_releases(project, demo, say) if story.bad_releases else []
        await replay.run(trips.first_tick(story.warm), trips.first_tick(story.end), actions, tick)
    return demo


def _bad_releases(project: Project, demo: Demo, say: Callable[[str], None]) -> list[Action]:
    plans = (
        (date(2020, 3, 11), "kilometres", releases.KILOMETRES),
        (date(2020, 3, 12), "rare zones", releases.RARE_ZONES),
    )
    return [
        Action(trips.first_tick(day) + 8 * HOUR, partial(_release, project, demo, cause, edits, say))
        for day, cause, edits in plans
    ]


def _release(
    project: Project, demo: Demo, cause: str, edits: tuple[tuple[str, str], ...], say: Callable[[str], None]
) -> None:
    """Edit, apply, train, release with the shadow skipped; then put the definitions back."""
    path = project.root / project.settings.project.definitions
    before = releases.edit(path, edits)
    try:
        fresh = Project.open(project.root)
        fresh.apply()
        run = fresh.train("eta", cause=f"release: {cause}")
        say(f"{cause}: {run.version} {'passed its gate' if run.state == 'succeeded' else 'was refused by its gate'}")
        if run.state == "succeeded" and run.version is not None:
            demo.causes[run.version] = cause
            fresh.rollout("eta", run.version).start(skip_shadow=True, cause=cause, actor="demo")
    finally:
        path.write_text(before)
        after = Project.open(project.root)
        after.apply()
        after.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
