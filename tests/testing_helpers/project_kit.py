"""A small project that is made in a second: 4000 synthetic trips, one view, one linear model, everything of issue 2.

The surprise: its domain time is simulated and begins where the trips end, so a test steps through days by `Caller.day`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flyball.project import Project
from flyball.testing.in_process import GatewayClient, client

DAYS = 10
START = datetime(2020, 3, 2, tzinfo=UTC)  # a Monday
NOW = START + timedelta(days=DAYS)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

TOML = f"""\
# where things run
[project]
name = "small"

[server]
port = 18080 # the gateway

[control]
port = 18081

[tracking]
enabled = false

[clock]
domain = "simulated"
start = "{NOW.isoformat()}"

[env.production.server]
port = 9000
"""

DEFINITIONS = """\
import flyball as fb

zone = fb.Entity("zone", keys={"zone": int})
trips = fb.ParquetSource(
    "trips", "data/*.parquet", event_time="dropoff_at",
    derive={"minutes": "(dropoff_at - pickup_at) / 1m"}, where="minutes between 1 and 60",
)
traffic = fb.FeatureView("traffic", entity=zone, source=trips, ttl="7d", features=[
    fb.count("trips_1h", window="1h"),
    fb.mean("minutes_24h", of="minutes", window="24h", default=0.0),
])


def train(data, params):
    from sklearn.linear_model import LinearRegression

    return LinearRegression(**params).fit(data.X, data.y)


eta = fb.Model(
    "eta",
    examples=fb.Examples(trips, at="pickup_at"),
    features=[traffic, fb.Field("distance", float)],
    label=fb.Label("minutes", matures="1h"),
    train=train,
    train_on="9d",
    gates=[fb.gate.beats_champion("mae", margin="5%"), fb.gate.metric("mae", max=10), fb.gate.bounds(low=-50, high=400)],
    rollout=fb.Rollout(shadow="1h", steps=["50%"], bake="1h", min_requests=50,
                       guardrails=[fb.guard.errors(margin="5pp"), fb.guard.metric("mae", margin="10%")]),
    monitors=[fb.monitor.drift(window="1d"), fb.monitor.performance("mae")],
    retrain=fb.Retrain(on=[fb.on.drift()], cooldown="24h", budget="3/week"),
)
"""


def trips(
    days: float = DAYS, per_day: int = 400, *, start: datetime = START, scale: float = 1.0, seed: int = 0
) -> pa.Table:
    """Make trips: 3 minutes, 3.5 a mile, a bit for the zone, noise."""
    rng = np.random.default_rng(seed)
    rows = int(days * per_day)
    pickup = np.sort(rng.uniform(0, days * 86_400, rows))
    distance = (rng.gamma(3.0, 1.0, rows) * scale).round(2)
    zone = rng.integers(1, 7, rows)
    minutes = np.clip(3 + 3.5 * distance + zone + rng.normal(scale=1.5, size=rows), 0.5, 90.0)
    begun = ((start.timestamp() + pickup) * 1e6).astype(np.int64)
    ended = begun + (minutes * 6e7).astype(np.int64)
    stamp = pa.timestamp("us")
    return pa.table({
        "zone": zone, "distance": distance,
        "pickup_at": pa.array(begun).cast(stamp), "dropoff_at": pa.array(ended).cast(stamp),
    }).sort_by("dropoff_at")  # fmt: skip


def write_project(
    folder: Path, *, definitions: str = DEFINITIONS, toml: str = TOML, table: pa.Table | None = None
) -> Path:
    """Write flyball.toml, definitions.py and the trips."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "flyball.toml").write_text(toml)
    (folder / "definitions.py").write_text(definitions)
    if table is None:  # what has ended by now: a file holds no rows of the future
        table = trips()
        table = table.filter(
            pc.less_equal(table["dropoff_at"], pa.scalar(NOW.replace(tzinfo=None), pa.timestamp("us")))
        )
    pq.write_table(table, folder / "data" / "trips.parquet")
    return folder


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    """Replace texts in definitions.py."""
    path = folder / "definitions.py"
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def train_here(project: Project, **run: Any) -> str:
    """Run all stages in this process, without a child, and return the version."""
    from flyball.project.runs import new_run

    done = project.run_stages_here(new_run(project, "eta", {}, **run).id)
    assert done.state == "succeeded", done.error
    assert done.version is not None
    return done.version


def write_trained(folder: Path) -> Path:
    """Write a project, apply it, train v1 and v2, make v1 champion."""
    write_project(folder)
    with Project.open(folder) as project:
        project.apply()
        project.models["eta"].promote(train_here(project))
        train_here(project)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    """Copy a project with its state."""
    shutil.copytree(folder, target)
    return target


def temporary(root: Path, *, text: str = DEFINITIONS) -> Project:
    """Make a temporary project of the definitions' objects, its data below `root`."""
    write_project(root, definitions=text)
    scope: dict[str, Any] = {}
    exec(compile(text, "definitions.py", "exec"), scope)
    return Project.temporary([scope[n] for n in scope if n in {"eta", "traffic", "trips"}], root=root, now=NOW)


class Caller:
    """Ask a project's in-process gateway, report outcomes, step domain time, turn the loop."""

    def __init__(self, project: Project, http: GatewayClient, *, seed: int = 1) -> None:
        self.project, self.http, self.rng = project, http, np.random.default_rng(seed)
        self.did: list[str] = []
        self.ids: list[str] = []
        self._units = 0
        begun = project.clock.now()
        self.stream = trips(12, start=begun - HOUR, seed=seed + 1)
        self._pushed = np.datetime64(begun.replace(tzinfo=None), "us")

    def ask(self, rows: int, *, scale: float = 1.0, per_request: int = 1) -> list[str]:
        """Ask for trips of many units; outcomes follow at once."""
        made = []
        for _ in range(rows // per_request):
            asked = [
                {"zone": int(z), "distance": float(d)}
                for z, d in zip(
                    self.rng.integers(1, 7, per_request), self.rng.gamma(3.0, 1.0, per_request) * scale, strict=True
                )
            ]
            self._units += 1
            answer = self.http.infer("eta", asked, unit=f"u{self._units}")
            first = answer["prediction_id"]
            ids = [first] + [f"{first}#{k}" for k in range(1, per_request)]
            truth = [3 + 3.5 * r["distance"] + r["zone"] + self.rng.normal(scale=1.5) for r in asked]
            self.report(dict(zip(ids, truth, strict=True)))
            made += ids
        self.ids += made
        return made

    def report(self, values: dict[str, float]) -> None:
        now = self.project.clock.now().isoformat()
        rows = [{"prediction_id": i, "value": v, "event_time": now} for i, v in values.items()]
        assert self.http.post("/v1/outcomes", json=rows).status_code == 200

    def push(self, table: pa.Table) -> None:
        """Push completed trips."""
        rows = [
            r | {k: r[k].replace(tzinfo=UTC).isoformat() for k in ("pickup_at", "dropoff_at")}
            for r in table.to_pylist()
        ]
        self.project.features.push("trips", rows)

    def push_ended(self) -> None:
        """Push the trips that ended since the last call."""
        now = np.datetime64(self.project.clock.now().replace(tzinfo=None), "us")
        ended = self.stream["dropoff_at"].to_numpy()
        chosen = self.stream.filter(pa.array((ended > self._pushed) & (ended <= now)))
        self._pushed = now
        if chosen.num_rows:
            self.push(chosen)

    def step(self, by: timedelta) -> list[str]:
        """Step domain time and do what is due."""
        self.project.clock.set(self.project.clock.now() + by)  # type: ignore[attr-defined]
        did = self.project.loop.once()
        self.did += did
        return did

    def hours(self, count: int, per_hour: int = 60, **how: Any) -> None:
        """Live for hours: trips end and are pushed, callers ask near the end of each hour, the controller looks."""
        for _ in range(count):
            begun = self.project.clock.now()
            self.project.clock.set(begun + timedelta(minutes=58))  # type: ignore[attr-defined]
            self.push_ended()
            self.ask(per_hour, **how)
            self.step(timedelta(minutes=2))


def caller(project: Project, *, seed: int = 1) -> Caller:
    """Open an in-process gateway of the project and return who asks it."""
    return Caller(project, client(project), seed=seed)


def lines(text: str) -> Sequence[str]:
    """Return the lines that are not empty."""
    return [line for line in text.splitlines() if line.strip()]
