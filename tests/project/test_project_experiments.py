"""Experiments from start to archive, on a model's versions and on flags, by real traffic through the gateway."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import project_kit as kit
import pytest

import flyball.project.experiments as lifecycle
from flyball.errors import ConflictError, DefinitionError, Refused, UnknownName
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.plans import plan
from flyball.experiments.design.types import Experiment
from flyball.experiments.lifecycle import State
from flyball.project import Project
from flyball.rollout.routing import BUCKETS

FLAGS = kit.DEFINITIONS + '\nnew_map = fb.Flag("new_map", share="10%")\n'
VERSIONS = {"champion": 0.5, "v2": 0.5}
SWITCH = {"false": 0.5, "true": 0.5}


def on_versions(name: str = "minutes", **more: object) -> Experiment:
    given: dict = {"arms": VERSIONS, "model": "eta", "metrics": [Metric("minutes", of="outcome")]}
    return Experiment(name, hypothesis="v2 is no slower", **{**given, **more})


def on_flag(name: str = "map", **more: object) -> Experiment:
    metrics = [Metric("trips", kind="count", of="trips.*")]
    given: dict = {"arms": SWITCH, "flag": "new_map", "unit": "zone", "metrics": metrics}
    return Experiment(name, **{**given, **more})


@pytest.fixture
def served(trained):
    """The trained project with a flag, and who calls it."""
    (trained / "definitions.py").write_text(FLAGS)
    with Project.open(trained) as project:
        project.apply()
        ask = kit.caller(project)
        yield ask
        ask.http.close()


def flag_of(ask: kit.Caller, unit: str) -> dict:
    answer = ask.http.post("/v1/flags/new_map", json={"unit": unit})
    assert answer.status_code == 200, answer.text
    return answer.json()


def route_of(project: Project):
    return project.database.routing.current().models["eta"]


# -- a model's versions ------------------------------------------------------------------------------------------------


def test_an_experiment_on_versions_runs_from_start_to_archive(served):
    project = served.project
    served.ask(20)  # nobody of these is exposed
    experiment = on_versions()
    running = project.experiments.start(experiment)
    assert running.state is State.RUNNING and running.digest == experiment.digest
    served.step(timedelta(minutes=1))
    served.ask(160)
    shown = project.experiments["minutes"].status()
    assert sum(shown["exposed"].values()) == 160
    assert min(shown["exposed"].values()) > 50
    assert shown["ratio"]["verdict"] == "passing"
    assert shown["coverage"] == {"minutes": 1.0}
    result = project.experiments["minutes"].result()
    assert result.to_dict()["experiment"]
    stopped = project.experiments["minutes"].stop("seen enough")
    assert stopped.state is State.STOPPED and route_of(project).variants == ()
    served.ask(40)
    after = project.experiments["minutes"].status()
    assert after["units"] == 160, "what came after the end is no exposure"
    assert project.experiments["minutes"].archive().archived
    assert [e["name"] for e in project.experiments.list()] == []
    assert [e.kind for e in project.experiments["minutes"].events()] == [
        "Stored", "Started", "Ended", "Returned", "Archived",
    ]  # fmt: skip


def test_a_shipped_version_is_champion_in_one_table(served):
    project = served.project
    project.experiments.start(on_versions())
    before = project.database.routing.version()
    done = project.experiments["minutes"].stop("better", ship="v2")
    assert project.models["eta"].champion.version == "v2"
    assert project.database.routing.version() == before + 1 == done.tables[1]
    assert route_of(project).experiment == "" and route_of(project).draw == ""


def test_small_arms_leave_the_others_outside(served):
    project = served.project
    project.experiments.start(on_versions(arms={"champion": 0.1, "v2": 0.1}))
    served.ask(200)
    shown = project.experiments["minutes"].status()
    assert 15 < shown["units"] < 70
    assert shown["left_out"] == {"champion": 200 - shown["units"]}


def test_units_are_drawn_anew_and_a_holdout_stays_out(served):
    project = served.project
    project.models["eta"].split({}, holdout="20%")
    project.experiments.start(on_versions())
    route = route_of(project)
    assert route.draw == "exp:minutes:" != route.salt and route.holdout == BUCKETS // 5
    served.ask(150)
    shown = project.experiments["minutes"].status()
    assert shown["left_out"]["holdout"] + shown["units"] == 150 and shown["left_out"]["holdout"] > 10


@pytest.mark.parametrize("arms", [{"champion": 0.5, "v9": 0.5}, {"champion": 0.5, "v1": 0.5}])
def test_arms_that_cannot_be_served_are_refused_before_anything_is_stored(served, arms):
    with pytest.raises((UnknownName, DefinitionError)):
        served.project.experiments.start(on_versions(arms=arms))
    assert served.project.database.experiments.list() == []


def test_one_experiment_a_model_at_a_time_and_the_refusal_names_the_other(served):
    project = served.project
    project.experiments.start(on_versions())
    for forbidden in (
        lambda: project.experiments.start(on_versions("other")),
        lambda: project.models["eta"].split({"v2": "10%"}),
        lambda: project.models["eta"].promote("v2"),
        lambda: project.rollout("eta", "v2").start(),
    ):
        with pytest.raises((Refused, ConflictError), match=r"experiment minutes has the units"):
            forbidden()


def test_an_edit_after_the_start_is_refused_and_the_same_design_is_not(served):
    project = served.project
    first = project.experiments.start(on_versions())
    assert project.experiments.start(on_versions()) == first
    with pytest.raises(Refused, match="may not change once units see it"):
        project.experiments.start(on_versions(planned_units=500))


def test_a_metric_that_nothing_holds_is_refused_before_the_first_exposure(served):
    with pytest.raises(UnknownName, match="outcome"):
        served.project.experiments.start(on_versions(metrics=[Metric("conversion", kind="proportion")]))


def test_a_fixed_plan_has_no_verdict_before_its_size(served):
    project = served.project
    project.experiments.start(on_versions(plan=plan.fixed(units=1000)))
    served.ask(30)
    shown = project.experiments["minutes"].status()
    assert not shown["verdict"]["valid"] and "970 more" in shown["verdict"]["sentence"]
    with pytest.raises(Refused, match="--peek"):
        project.experiments["minutes"].result()
    assert project.experiments["minutes"].result(peek=True) is not None


# -- time and crashes --------------------------------------------------------------------------------------------------


def test_an_experiment_begins_and_ends_by_itself(served):
    project, now = served.project, served.project.clock.now()
    experiment = on_versions(starts=now + kit.HOUR, ends=now + 3 * kit.HOUR)
    assert project.experiments.start(experiment).state is State.SCHEDULED
    assert served.step(timedelta(minutes=30)) == []
    assert "Experiment minutes: scheduled -> running" in served.step(timedelta(minutes=31))
    assert route_of(project).experiment == "minutes"
    assert "Experiment minutes: running -> stopped" in served.step(2 * kit.HOUR)
    assert route_of(project).experiment == ""
    assert project.experiments["minutes"].record.reason == "its end has come"


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["take", "save"])
def test_a_start_that_was_killed_is_brought_on_by_the_next_pass(served, monkeypatch, where):
    project = served.project

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "take":
            patch.setattr("flyball.project.experiment_routing.take", killed)
        else:
            patch.setattr(project.database.experiments, "save", killed)
        with pytest.raises(Killed):
            project.experiments.start(on_versions())
    assert project.experiments["minutes"].record.state is State.STARTING
    table = project.database.routing.version()
    served.ask(5)
    assert "Experiment minutes: starting -> running" in served.step(timedelta(minutes=1))
    status = project.experiments["minutes"].record
    assert status.tables == ((table + 1, 0) if where == "take" else (table, 0))
    assert served.step(timedelta(minutes=1)) == []


def test_a_stop_that_was_killed_is_brought_on_by_the_same_command(served, monkeypatch):
    project = served.project
    project.experiments.start(on_versions())

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("flyball.project.experiment_routing.give_back", killed)
        with pytest.raises(Killed):
            project.experiments["minutes"].stop("why", ship="v2")
    assert project.experiments["minutes"].record.state is State.STOPPING
    done = project.experiments["minutes"].stop()
    assert (done.state, done.reason, done.ship) == (State.STOPPED, "why", "v2")
    assert project.models["eta"].champion.version == "v2"


def test_of_two_starts_at_once_one_wins(served):
    project = served.project

    def begin(name: str) -> str:
        try:
            return str(lifecycle.start(project, on_versions(name), actor="test").state)
        except (ConflictError, Refused):
            return "lost"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(begin, ["one", "two"])) == ["lost", "running"]
    assert len(project.database.experiments.list(active=True)) == 1


# -- flags -------------------------------------------------------------------------------------------------------------


def test_an_experiment_on_a_flag_counts_who_asked_it(served):
    project = served.project
    flag_of(served, "u0")
    assert len(project.log.table("exposures")) == 0, "a flag that no experiment owns leaves nothing behind"
    project.experiments.start(on_flag())
    answers = {f"{k}": flag_of(served, str(k))["value"] for k in range(200)}
    for k in range(200):
        assert flag_of(served, str(k))["value"] == answers[str(k)]
    served.http.get("/v1/flags", params={"unit": "zone-9"})
    table = project.log.table("exposures")
    assert len(table) == 201, "a unit is logged once"
    shown = project.experiments["map"].status()
    assert shown["units"] == 201 and 0 <= shown["exposed"]["true"] - sum(answers.values()) <= 1
    assert shown["ratio"]["verdict"] == "passing"
    assert project.flags.list()[0]["experiment"] == "map"
    with pytest.raises(Refused, match="experiment map has the shares"):
        project.flags.set("new_map", shares={True: "20%"})
    project.experiments["map"].stop()
    assert project.flags.list()[0]["shares"] == {"true": 0.1} and project.flags.list()[0]["experiment"] == ""


def test_a_shipped_value_is_everybodys(served):
    project = served.project
    project.experiments.start(on_flag())
    project.experiments["map"].stop(ship="true")
    assert {flag_of(served, str(k))["value"] for k in range(50)} == {True}


def test_an_apply_leaves_a_flag_to_its_experiment_until_that_ends(served):
    project = served.project
    project.experiments.start(on_flag())
    definitions = project.root / "definitions.py"
    definitions.write_text(FLAGS.replace('share="10%"', 'share="30%"'))
    with Project.open(project.root) as other:
        other.apply()
        assert other.flags.list()[0]["shares"] == {"false": 0.5, "true": 0.5}
        other.experiments["map"].stop()
        assert other.flags.list()[0]["shares"] == {"true": 0.3}


def test_flags_and_versions_are_experimented_with_side_by_side(served):
    project = served.project
    project.experiments.start(on_versions())
    project.experiments.start(on_flag())
    assert [s.state for _, s in project.database.experiments.list(active=True)] == [State.RUNNING] * 2


def test_events_of_a_source_count_from_the_first_exposure_within_the_window(served):
    project = served.project
    metric = Metric("trips", kind="count", of="trips.*", starts="10m", window="1h")
    project.experiments.start(on_flag(metrics=[metric]))
    for zone in range(1, 7):
        flag_of(served, str(zone))
    served.step(timedelta(hours=2))
    begun = project.experiments["map"].record.started
    served.push(kit.trips(2 / 24, 1200, start=begun, seed=5))
    arms = project.experiments["map"].gather().arms
    table = kit.trips(2 / 24, 1200, start=begun, seed=5)
    pairs = zip(table["pickup_at"].to_pylist(), table["dropoff_at"].to_pylist(), strict=True)
    rides = [(dropoff - begun.replace(tzinfo=None), (dropoff - pickup).total_seconds()) for pickup, dropoff in pairs]
    inside = sum(timedelta(minutes=10) <= end < timedelta(hours=1) and 60 <= took <= 3600 for end, took in rides)
    counted = sum(a.metrics["trips"].n * a.metrics["trips"].mean("trips.*") for a in arms.values())
    assert round(counted) == inside > 10


def test_units_whose_window_is_open_do_not_count_yet(served):
    project = served.project
    project.experiments.start(on_flag(metrics=[Metric("trips", kind="count", of="trips.*", window="1d")]))
    for k in range(20):
        flag_of(served, str(k))
    assert project.experiments["map"].status()["coverage"] == {"trips": 0.0}
    served.step(timedelta(hours=25))
    assert project.experiments["map"].status()["coverage"] == {"trips": 1.0}


# -- units assigned elsewhere, erasure, processes of the user's own ----------------------------------------------------


def test_exposures_of_another_assignment_are_taken_and_sending_them_again_changes_nothing(served):
    project = served.project
    metrics = [Metric("trips", kind="count", of="trips.*")]
    project.experiments.start(Experiment("mail", arms={"a": 0.5, "b": 0.5}, unit="zone", metrics=metrics))
    rows = [{"experiment": "mail", "unit": k, "arm": "ab"[k % 2]} for k in range(40)]
    for _ in range(2):
        answer = served.http.post("/v1/exposures", json=rows)
        assert (answer.status_code, answer.json()) == (200, {"accepted": 40})
    served.http.post("/v1/exposures", json={"experiment": "mail", "unit": 3, "arm": "a"})
    served.http.post("/v1/exposures", json={"experiment": "mail", "unit": 50, "arm": "c"})
    shown = project.experiments["mail"].status()
    assert shown["exposed"] == {"a": 20, "b": 19} and shown["crossed"] == 1
    assert shown["left_out"] == {"unknown arm": 1}
    assert served.http.post("/v1/exposures", json={"unit": 3, "arm": "a"}).status_code == 400


def test_an_erased_subject_leaves_no_exposure(served):
    project = served.project
    project.experiments.start(on_flag())
    for k in range(6):
        flag_of(served, str(k))
    proof = project.features.erase({"zone": 3})
    assert proof.clean
    assert sorted(project.log.table("exposures")["unit"].to_pylist()) == ["0", "1", "2", "4", "5"]


def test_personal_units_are_hashed_and_still_meet_their_events(trained):
    text = FLAGS.replace('fb.Flag("new_map", share="10%")', 'fb.Flag("new_map", share="10%", personal="hash")')
    (trained / "definitions.py").write_text(text)
    with Project.open(trained) as project:
        project.apply()
        ask = kit.caller(project)
        project.experiments.start(on_flag())
        for zone in range(1, 7):
            flag_of(ask, str(zone))
        assert all(u.startswith("h:") for u in project.log.table("exposures")["unit"].to_pylist())
        ask.step(timedelta(hours=1))
        ask.push(kit.trips(1 / 24, 1200, start=project.experiments["map"].record.started, seed=5))
        arms = project.experiments["map"].gather().arms
        assert sum(a.metrics["trips"].n * a.metrics["trips"].mean("trips.*") for a in arms.values()) > 10
        assert project.features.erase({"zone": 3}).clean
        assert len(project.log.table("exposures")) == 5
        ask.http.close()


def test_fb_flag_logs_exposures_from_a_process_of_the_users_own(served):
    import flyball as fb

    project = served.project
    project.experiments.start(on_flag())
    values = {k: fb.flag("new_map", f"own-{k}", project=project) for k in range(30)}
    assert values == {k: fb.flag("new_map", f"own-{k}", project=project) for k in range(30)}
    shown = project.experiments["map"].status()
    assert shown["exposed"] == {"false": 30 - sum(values.values()), "true": sum(values.values())}


def test_a_fallback_a_header_and_a_segment_expose_nobody(served):
    project = served.project
    project.experiments.start(on_versions())
    status = project.experiments["minutes"].record
    from flyball.records.segment import SegmentWriter
    from flyball.records.types import Prediction, encode
    from flyball.units import to_micros

    at = to_micros(project.clock.now())

    def row(unit: str, arm: str, why: str, *, fallback: bool = False, table: int = status.tables[0],
            ago: int = 0) -> Prediction:  # fmt: skip
        return Prediction(
            f"p-{unit}",
            "eta",
            "v2",
            arm,
            table,
            unit,
            at - ago * 1_000_000,
            {},
            [],
            b"",
            1.0,
            fallback=fallback,
            why=why,
        )

    made = [
        row("a", "v2", "variant"), row("b", "champion", "control"), row("c", "v2", "variant", fallback=True),
        row("d", "v2", "header"), row("e", "v2", "segment x"), row("f", "champion", "variant, veto", ago=10), row("i", "champion", "control", ago=11),
        row("g", "champion", "holdout"), row("h", "v2", "variant", table=status.tables[0] - 1),
    ]  # fmt: skip
    writer = SegmentWriter(project.layout.log / "w7")
    writer.append(encode([*made]))
    writer.close()
    shown = project.experiments["minutes"].status()
    assert shown["exposed"] == {"champion": 1, "v2": 1}
    assert shown["left_out"] == {
        "beside a veto": 1,
        "fallback": 1,
        "header": 1,
        "segment x": 1,
        "variant, veto": 1,
        "holdout": 1,
    }


def test_a_group_plan_remembers_its_looks(served):
    project = served.project
    project.experiments.start(on_versions(plan=plan.group(looks=4, units=400)))
    served.ask(100)
    project.experiments["minutes"].result()
    served.ask(100)
    second = project.experiments["minutes"].result()
    looks = [e.data for e in project.experiments["minutes"].events() if e.kind == "Looked"]
    assert [look["time"] for look in looks] == [0.25, 0.5] and second.look.time == 0.5
    assert "2 of 4 looks" in project.experiments["minutes"].status()["verdict"]["sentence"]
