import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from flyball.control.types import Lease
from flyball.errors import FenceLost, InputError, Refused, Unavailable
from flyball.layout import Layout
from flyball.node.control import ControlProcess
from flyball.serving.shared.slots import SharedMap
from flyball.settings import ClockSettings, ControlSettings, Settings
from flyball.units import to_micros

START = datetime(2020, 3, 11, 4, tzinfo=UTC)


class Leases:
    def __init__(self):
        self.fence = 0
        self.lost = False
        self.taken = False

    def acquire(self, name, owner, ttl):
        if self.taken:
            return None
        self.fence += 1
        return Lease(name, owner, self.fence, time.time() + ttl.total_seconds())

    def renew(self, lease):
        if self.lost:
            raise FenceLost("another owner")
        return lease

    def release(self, lease):
        self.fence += 1


class Project:
    def __init__(self, due=0):
        self.steps = []
        self.due = due
        self.running = 0
        self.overlapped = False
        self.database = SimpleNamespace(leases=Leases())
        self.trouble = None

    def control_step(self, now, fence):
        self.overlapped |= self.running > 0
        self.running += 1
        time.sleep(0.002)
        self.running -= 1
        if self.trouble:
            raise self.trouble
        self.steps.append((now, fence))
        if self.due:
            self.due -= 1
            return [f"did {self.due}"]
        return []


class Routes:
    def __init__(self):
        self.ensured = 0

    def ensure(self):
        self.ensured += 1
        return 0


def play(tmp_path, story, *, project=None, domain="simulated", opens=None, lease=0.4):
    layout = Layout(tmp_path, tmp_path)
    SharedMap.create(layout.map, slots=1)
    project = project or Project()
    settings = Settings(
        control=ControlSettings(interval=timedelta(milliseconds=10), lease=timedelta(seconds=lease)),
        clock=ClockSettings(domain=domain),
    )

    async def main():
        control = ControlProcess(layout, settings, open_project=opens or (lambda: project), routes=lambda _: Routes())
        await control.start()
        try:
            return await story(control, project)
        finally:
            await control.close()

    return asyncio.run(main())


async def until(claim, seconds=10.0):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "the claim did not come true in time"
        await asyncio.sleep(0.005)


def test_a_clock_step_does_everything_that_is_due_before_it_answers(tmp_path):
    async def story(control, project):
        return await control.set_clock(START)

    project = Project(due=3)
    answer = play(tmp_path, story, project=project)
    assert answer == {"now": START.isoformat(), "did": ["did 2", "did 1", "did 0"]}
    assert {now for now, _ in project.steps} == {START}
    assert SharedMap.open(tmp_path / "map").domain_time == to_micros(START)


def test_the_clock_does_not_go_back(tmp_path):
    async def story(control, project):
        await control.set_clock(START)
        with pytest.raises(InputError, match="may not go back"):
            await control.set_clock(START - timedelta(seconds=1))

    play(tmp_path, story)


def test_a_machine_clock_is_not_stepped(tmp_path):
    async def story(control, project):
        with pytest.raises(Refused, match=r"clock\.domain"):
            await control.set_clock(START)

    play(tmp_path, story, domain="system")


def test_passes_follow_each_other_and_never_overlap(tmp_path):
    async def story(control, project):
        await until(lambda: len(project.steps) >= 5)
        await asyncio.gather(*(control.order(lambda: project.control_step(START, 1)) for _ in range(5)))

    project = Project()
    play(tmp_path, story, project=project, domain="system")
    assert not project.overlapped


def test_a_failing_pass_is_told_and_tried_again(tmp_path):
    async def story(control, project):
        project.trouble = Unavailable("the database is away")
        await until(lambda: "the database is away" in control.health()["trouble"])
        project.trouble = None
        await until(lambda: control.health()["status"] == "ok")

    play(tmp_path, story, domain="system")


def test_it_comes_up_without_its_database_and_opens_it_later(tmp_path):
    tries = []

    def opens():
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("no connection to the control database")
        return Project()

    async def story(control, project):
        assert control.health()["status"] == "degraded"
        with pytest.raises(Unavailable, match="no connection"):
            _ = control.project
        await until(lambda: control.health()["status"] == "ok" and control.acting)

    play(tmp_path, story, opens=opens, domain="system")


def test_only_the_holder_of_the_lease_acts(tmp_path):
    async def story(control, project):
        await until(lambda: control.health()["status"] == "ok")
        await asyncio.sleep(0.05)
        acted = len(project.steps)
        project.database.leases.taken = False
        await until(lambda: len(project.steps) > 0)
        return acted

    project = Project()
    project.database.leases.taken = True
    assert play(tmp_path, story, project=project, domain="system") == 0


def test_a_lost_lease_stops_the_passes_until_it_is_held_again(tmp_path):
    async def story(control, project):
        await until(lambda: project.steps)
        leases = project.database.leases
        leases.lost = leases.taken = True
        await until(lambda: not control.acting)
        leases.lost = leases.taken = False
        await until(lambda: control.acting and project.steps[-1][1] > 1)

    play(tmp_path, story, domain="system")


def test_the_clock_stays_within_the_calendar(tmp_path):
    async def story(control, project):
        await control.set_clock(START)
        for far in (
            datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14))),
            datetime(2200, 1, 1, tzinfo=UTC),
        ):
            with pytest.raises(InputError, match="ends with the year 2199"):
                await control.set_clock(far)
        return control.health()["now"]

    assert play(tmp_path, story) == START.isoformat()
