"""Every strategy from start to end on a real project: trained versions, gateway, log, control database, in domain time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import project_kit as kit
import pytest

from flyball.project import Project
from flyball.rollout.routing import BUCKETS

MINUTE = timedelta(minutes=1)
RAILS = 'guardrails=[fb.guard.errors(margin="20pp"), fb.guard.metric("mae", margin="30%")]'
PRIMARY = 'primary=fb.guard.metric("mae", margin="{margin}")'


class Live:
    """One project with a champion and a candidate, and its callers."""

    def __init__(self, project: Project) -> None:
        self.project, self.caller = project, kit.caller(project)
        self.handle = project.rollout("eta", "v2")
        self.versions: dict[str, str] = {}  # who answered, by prediction

    def minutes(self, count: int, *, rows: int = 30, **attributes: str) -> Live:
        """Ask so many rows in each minute, then let the controller look."""
        for _ in range(count):
            self.ask(rows, **attributes)
            self.caller.step(MINUTE)
            self.caller.http.refresh()
        return self

    def ask(self, rows: int, **attributes: str) -> None:
        for _ in range(rows):
            self.caller._units += 1
            zone, far = int(self.caller.rng.integers(1, 7)), float(self.caller.rng.gamma(3.0, 1.0))
            body = {"model": "eta", "rows": [{"zone": zone, "distance": far}], "unit": f"u{self.caller._units}"}
            answer = self.caller.http.post("/predict", json={**body, "attributes": attributes})
            assert answer.status_code == 200, answer.text
            self.versions[answer.json()["prediction_id"]] = answer.json()["model_version"]
            truth = 3 + 3.5 * far + zone + self.caller.rng.normal(scale=1.5)
            self.caller.report({answer.json()["prediction_id"]: truth})

    def until(self, done: str, *, most: int = 60, **how: object) -> Live:
        for _ in range(most):
            if self.phase == done:
                return self
            self.minutes(1, **how)  # type: ignore[arg-type]
        raise AssertionError(f"{self.phase} is not {done} after {most} minutes: {self.waits}")

    @property
    def phase(self) -> str:
        return str(self.handle.status.phase)

    @property
    def waits(self) -> str:
        status = self.handle.status
        return str(status.state.get("waiting") or status.reason)

    @property
    def share(self) -> float:
        return self.route.candidate_cut / BUCKETS

    @property
    def route(self):
        return self.project.database.routing.current().models["eta"]

    def version_of(self, prediction: str) -> str:
        return self.versions[prediction]

    def replays(self) -> bool:
        return bool(self.handle.replay()["same"])


@contextmanager
def live(
    folder: Path, strategy: str, *, first: str = "", second: str = "", skip_shadow: bool = False
) -> Iterator[Live]:
    """Train v1 and v2, `first` and `second` being what `train` returns if not the usual; start the rollout."""
    begin = kit.DEFINITIONS.index("    rollout=")
    end = kit.DEFINITIONS.index("    monitors=")
    text = kit.DEFINITIONS[:begin] + f"    rollout={strategy},\n" + kit.DEFINITIONS[end:]
    text = text.replace("    gates=[fb.gate.beats", "    gates=[], #")
    usual = "LinearRegression(**params).fit(data.X, data.y)"
    kit.write_project(folder, definitions=text.replace(usual, first or usual))
    with Project.open(folder) as project:
        project.apply()
        project.models["eta"].promote(kit.train_here(project))
    (folder / "definitions.py").write_text(text.replace(usual, second or usual))
    with Project.open(folder) as project:
        project.apply()
        kit.train_here(project)
        made = Live(project)
        made.handle.start(skip_shadow=skip_shadow)
        made.caller.step(timedelta(seconds=1))
        yield made
        made.caller.http.close()


def test_a_canary_waits_for_a_person_and_is_promoted_after(tmp_path):
    plan = f'fb.strategy.canary(["20%", fb.strategy.step("50%", approval=True)], bake="4m", min_requests=10, {RAILS})'
    with live(tmp_path, plan) as story:
        story.minutes(8)
        assert (story.share, "waits for approval" in story.waits) == (0.2, True), story.waits
        story.handle.approve("looks good", actor="ann")
        story.until("Promoted")
        assert story.route.champion.version == "v2"
        assert any(e.kind == "OrderGiven" and e.details["actor"] == "ann" for e in story.handle.events())
        assert story.replays()


def test_a_gradual_release_takes_each_share_for_its_time(tmp_path):
    plan = f'fb.strategy.gradual({{"10%": "2m", "25%": "4m", "50%": "4m"}}, min_requests=5, {RAILS})'
    with live(tmp_path, plan) as story:
        story.until("Promoted")
        steps = [e.details["share"] for e in story.handle.events() if e.kind == "WeightsChanged"]
        assert steps == [0.1, 0.25, 0.5]
        assert story.replays()


def test_a_segment_comes_first_and_the_others_stay_with_the_champion(tmp_path):
    plan = (
        'fb.strategy.segment_first(where={"country": "NL"}, share="50%", then=["60%"], bake="4m", '
        f"min_requests=10, {RAILS})"
    )
    with live(tmp_path, plan) as story:
        story.minutes(2, country="DE")
        assert story.route.within != ()
        assert story.handle.status.state["evidence"]["candidate"]["requests"] == 0
        story.minutes(6, country="NL")
        assert story.handle.status.step == 1, story.waits
        story.until("Promoted", country="DE")
        assert story.replays()


def test_shadow_answers_come_before_any_share(tmp_path):
    plan = f'fb.strategy.shadow_first("4m", ["50%"], bake="4m", min_requests=10, {RAILS})'
    with live(tmp_path, plan) as story:
        story.minutes(2)
        assert (story.phase, story.share) == ("Shadow", 0.0)
        story.until("Promoted")
        assert story.replays()


def test_blue_green_switches_all_and_returns_at_once(tmp_path):
    plan = f'fb.strategy.blue_green(shadow="5m", bake="5m", min_requests=20, {RAILS})'
    with live(tmp_path, plan) as story:
        story.until("Step")
        assert story.share == 1.0
        story.handle.abort("no", actor="ann")
        story.minutes(1)
        assert (story.phase, story.route.champion.version, story.share) == ("RolledBack", "v1", 0.0)
        assert story.replays()
        story.project.rollout("eta", "v2").start()
        story.handle = story.project.rollout("eta", "v2")
        story.until("Promoted")
        assert [ref.version for ref in story.route.warm] == ["v1"]
        assert story.project.models["eta"].switch(reason="return").version == "v1"
        assert story.replays()


@pytest.mark.parametrize(("first", "second", "ends"), [("bad", "", "Promoted"), ("", "bad", "RolledBack")])
def test_an_a_b_test_ends_both_ways(tmp_path, first, second, ends):
    bad = "LinearRegression(**params).fit(data.X, data.y + 4)"
    chosen = {"bad": bad, "": ""}
    primary = PRIMARY.format(margin="0.05")
    plan = f'fb.strategy.ab({primary}, bake="5m", min_requests=20, guardrails=[fb.guard.errors(margin="20pp")])'
    with live(tmp_path, plan, first=chosen[first], second=chosen[second]) as story:
        story.until(ends)
        verdict = next(e for e in story.handle.events() if e.kind == "VerdictReached")
        assert verdict.details["verdict"] == ("better" if ends == "Promoted" else "worse")
        assert story.replays()


def test_a_bandit_gives_the_better_one_more_until_it_has_won(tmp_path):
    bad = "LinearRegression(**params).fit(data.X, data.y + 1.5)"
    primary = PRIMARY.format(margin="0.05")
    plan = (
        f'fb.strategy.bandit({primary}, bake="3m", pace="2m", min_requests=20, '
        'guardrails=[fb.guard.errors(margin="20pp")])'
    )
    with live(tmp_path, plan, first=bad) as story:
        story.until("Promoted")
        assert story.replays()


def test_a_challenger_reports_and_never_takes_over(tmp_path):
    bad = "LinearRegression(**params).fit(data.X, data.y + 4)"
    primary = PRIMARY.format(margin="0.05")
    plan = f'fb.strategy.challenger({primary}, share="50%", bake="3m", min_requests=20)'
    with live(tmp_path, plan, first=bad) as story:
        story.minutes(14)
        assert (story.phase, story.route.champion.version) == ("Step", "v1")
        assert "the challenger is better" in story.waits
        story.handle.promote("we want it", actor="ann")
        story.until("Promoted")
        assert story.replays()
