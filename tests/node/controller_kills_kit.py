"""A release whose controller is killed with SIGKILL at random moments: real database, tables, logs; forked controllers.

The surprise: a controller is a fork of this process, so that a thousand of them take minutes instead of half an hour.
It opens everything anew, as a restarted control process does, and gets the same lease under a new fence.
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from flyball.adapters.local.routes import NodeRoutes
from flyball.control import Database, connect
from flyball.layout import Layout
from flyball.records.log import Cursor, follow
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.reconcile import Reconciler, order, start
from flyball.rollout.replay import walk
from flyball.rollout.routing import BUCKETS, ModelRoute, RoutingTable, VersionRef
from flyball.rollout.types import TERMINAL, Phase
from flyball.testing.scenarios import CANDIDATE, CHAMPION, MODEL, Behaviour, Traffic
from flyball.units import to_micros

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
SPEC = Rollout(
    steps=["10%", "50%"], bake="3m", min_requests=5, max_wait="2h",
    guardrails=[guard.errors(margin="20pp"), guard.metric("mae", margin="5.0")],
)  # fmt: skip
STORIES = {
    "good": Behaviour(),
    "failing": Behaviour(candidate_error_rate=0.7),
    "ordered": Behaviour(),
}


class Killed:
    """One release and its short-lived controllers."""

    def __init__(self, folder: Path, story: str, rng: np.random.Generator) -> None:
        self.layout = Layout(folder, folder / "state")
        self.layout.state.mkdir(parents=True)
        self.url = f"sqlite:///{folder / 'control.db'}"
        self.story, self.rng, self.now = story, rng, BEGIN
        self.traffic = Traffic(self.layout.log, seed=int(rng.integers(1 << 30)))
        self.kills, self.finished_steps = 0, 0
        self._usual = 0.03  # seconds until a controller has done one step; learned
        champion = VersionRef(CHAMPION, f"artifacts/{MODEL}/{CHAMPION}", "0" * 64, trusted=True)
        with self.database() as database:
            fence = database.leases.acquire("control", "node", timedelta(hours=1)).fence
            table = RoutingTable(1, to_micros(BEGIN), fence, {MODEL: ModelRoute(MODEL, "salt", champion)})
            self.routes(database).commit(table, expected=0, fence=fence)
        begun = time.monotonic()
        self.controller(kill=False)  # nothing to do yet
        self._usual = 1.5 * (time.monotonic() - begun)
        with self.database() as database:
            self.id = start(
                database.rollouts, SPEC, model=MODEL, candidate=CANDIDATE, champion=CHAMPION, now=BEGIN
            ).id  # fmt: skip

    def database(self) -> Database:
        return connect(self.url)

    def routes(self, database: Database) -> NodeRoutes:
        return NodeRoutes(self.layout, database.routing)

    def run(self, most: int) -> int:
        """Kill controllers until the release is over, at most so many; return how many were killed while it ran."""
        while self.kills < most:
            with self.database() as database:
                if database.rollouts.get(self.id)[1].phase in TERMINAL:
                    break
                if self.story == "ordered" and self.rng.random() < 0.2:
                    wanted = str(self.rng.choice(["pause", "run", "run", "abort"], p=[0.4, 0.25, 0.25, 0.1]))
                    order(database.rollouts, self.id, wanted, now=self.now, reason="a person said so")
                table = database.routing.current()
            self.minute(table)
            self.controller(kill=True)
        return self.kills

    def minute(self, table: RoutingTable) -> None:
        """Let callers ask for a minute of domain time."""
        begin = to_micros(self.now)
        times = [begin + k * 1_000_000 for k in range(60)]
        self.traffic.send(table.models[MODEL], table.version, times, STORIES[self.story])
        self.now += timedelta(minutes=1)

    def controller(self, *, kill: bool) -> None:
        """Let a controller turn; kill it at a random moment around its first step, or let it come to rest."""
        ready, tell = os.pipe()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(ready)
            self._control(tell, ever=kill)
        os.close(tell)
        if kill:
            wait = float(self.rng.uniform(0.0, 1.6 * self._usual))
            done = bool(select.select([ready], [], [], wait)[0])
            if done:
                self.finished_steps += 1
                self._usual += 0.1 * (time.monotonic() - begun - self._usual)
            else:
                self._usual *= 1.05
            os.kill(child, signal.SIGKILL)
            self.kills += 1
        _, status = os.waitpid(child, 0)
        os.close(ready)
        expected = -signal.SIGKILL if kill else 0
        assert os.waitstatus_to_exitcode(status) == expected, (self.layout.state / "died.txt").read_text()

    def _control(self, tell: int, *, ever: bool) -> None:
        """Be a controller: never returns."""
        try:
            with self.database() as database:
                lease = database.leases.acquire("control", "node", timedelta(hours=1))
                reconciler = self._reconciler(database)
                cursor: Cursor = {}
                while True:
                    events = reconciler.step(follow(self.layout.log, cursor), self.now, lease.fence)
                    if not ever and not events:
                        os._exit(0)
                    os.write(tell, b".")
                    while ever and not events:  # its work is done; wait for the end
                        time.sleep(1)
        except BaseException:
            (self.layout.state / "died.txt").write_text(traceback.format_exc())
            os._exit(1)

    def _reconciler(self, database: Database) -> Reconciler:
        return Reconciler(
            store=database.rollouts, routes=self.routes(database), log_root=self.layout.log,
            evidence_root=self.layout.evidence,
            refs=lambda model, version: VersionRef(version, f"artifacts/{model}/{version}", "1" * 64, trusted=False),
            promoted=lambda model, version, now: None, rolled_back=lambda model, version, now: None,
        )  # fmt: skip

    def check(self) -> Phase:
        """Come to rest and assert that nothing was lost, doubled or left apart; return how it ended."""
        self.controller(kill=False)
        with self.database() as database:
            _, status = database.rollouts.get(self.id)
            events = database.rollouts.events(self.id)
            tables = [table.models[MODEL] for table in database.routing.history()]
            versions = [table.version for table in database.routing.history()]
        self.controller(kill=False)
        with self.database() as database:  # a second look does nothing
            assert database.rollouts.get(self.id)[1] == status
            assert database.routing.current().version == versions[-1]
        kinds = Counter(event.kind for event in events)
        steps = [event.details["step"] for event in events if event.kind == "WeightsChanged"]
        assert steps == [*range(len(steps))], steps
        assert kinds["RolloutStarted"] == 1
        assert kinds["GuardrailBreached"] <= 1
        assert kinds["Promoted"] + kinds["RolledBack"] == (status.phase in TERMINAL)
        assert kinds["RollbackStarted"] == kinds["RolledBack"]
        assert versions == [*range(1, len(versions) + 1)]
        cuts = [route.candidate_cut for route in tables]
        peak = cuts.index(max(cuts))
        assert cuts[: peak + 1] == sorted(set(cuts[: peak + 1])), cuts  # each share once, rising
        assert all(cut in {0, max(cuts)} for cut in cuts[peak:])
        self._agree(status.phase, tables[-1], round(status.share * BUCKETS))
        replayed = walk(SPEC, self.layout.log, self.layout.evidence, self.id)
        assert replayed.same, [v for v in replayed.verdicts if not v.same]
        assert replayed.bins > 0 or len(steps) == 0
        self.traffic.close()
        return status.phase

    def _agree(self, phase: Phase, route: ModelRoute, cut: int) -> None:
        champion = CANDIDATE if phase is Phase.PROMOTED else CHAMPION
        assert route.champion.version == champion
        if phase in TERMINAL:
            assert (route.candidate, route.rollout, route.candidate_cut) == (None, None, 0)
        else:
            assert route.candidate_cut == cut
