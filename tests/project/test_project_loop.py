"""Releases and the loop in one process: rollouts by evidence, drift, retraining, why, freeze."""

from __future__ import annotations

from datetime import timedelta

import project_kit as kit
import pytest

import flyball as fb
from flyball.errors import ConflictError, Refused
from flyball.project import Project

KILOMETRES = (
    'examples=fb.Examples(trips, at="pickup_at"),',
    'examples=fb.Examples(trips, at="pickup_at", derive={"distance": "distance * 1.609344"}),',
)


@pytest.fixture
def served(trained):
    """The trained project and who calls it."""
    with Project.open(trained) as project:
        ask = kit.caller(project)
        yield ask
        ask.http.close()


def infer_v2(ask: kit.Caller, zones: list[int], **request: object) -> dict:
    """Send a V2 request with one value of each input a zone."""
    inputs = [
        {"name": "zone", "shape": [len(zones)], "datatype": "INT64", "data": zones},
        {"name": "distance", "shape": [len(zones)], "datatype": "FP64", "data": [2.0] * len(zones)},
    ]
    answer = ask.http.post("/v2/models/eta/infer", json={"inputs": inputs, **request})
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- serving -----------------------------------------------------------------------------------------------------------


def test_the_client_answers_v2_infer(served):
    answer = infer_v2(served, [1, 2, 3], id="mine")
    assert answer["id"] == "mine" and answer["model_version"] == "v1"
    assert answer["outputs"][0]["shape"] in ([3], [3, 1]) and len(answer["outputs"][0]["data"]) == 3


def test_a_bad_request_is_one_sentence(served):
    answer = served.http.post("/predict", json={"rows": [{"zone": "north", "distance": 1.0}]})
    assert answer.status_code == 400 and "zone" in answer.json()["error"]


def test_a_prediction_is_explained_with_its_outcome(served):
    prediction = served.ask(1)[0]
    found = served.project.explain(prediction)
    text = str(found)
    assert all(word in text for word in ("v1", "champion", "trips_1h", "PRESENT"))
    assert found["outcome"] is not None


def test_events_posted_to_the_gateway_are_features_of_the_next_request(served):
    end = served.project.clock.now() - timedelta(minutes=1)
    row = {
        "zone": 77,
        "distance": 1.0,
        "pickup_at": (end - timedelta(minutes=8)).isoformat(),
        "dropoff_at": end.isoformat(),
    }
    assert served.http.post("/v1/sources/trips/events", json=[row]).json()["accepted"] == 1
    answer = served.http.infer("eta", [{"zone": 77, "distance": 2.0}])
    features = {f["name"]: f["value"] for f in served.project.explain(answer["prediction_id"])["features"]}
    assert features["trips_1h"] == 1


# -- rollouts ----------------------------------------------------------------------------------------------------------


def test_a_good_release_goes_through_shadow_and_steps_and_is_promoted(served):
    handle = served.project.rollout("eta", "v2")
    handle.start()
    served.step(timedelta(0))
    served.hours(8, 60)
    kinds = [e.kind for e in handle.events()]
    assert kinds == ["RolloutStarted", "ShadowStarted", "WeightsChanged", "Promoted"]
    assert served.project.models["eta"].champion.version == "v2"


def bad_release(served: kit.Caller) -> str:
    """Train on kilometres: the gate reads the same rows and passes, callers send miles."""
    kit.edit(served.project.root, KILOMETRES)
    with Project.open(served.project.root) as other:
        other.apply()
        return kit.train_here(other)


def test_a_bad_release_passes_its_gate_and_is_rolled_back_by_evidence(served):
    version = bad_release(served)
    handle = served.project.rollout("eta", version)
    handle.start(skip_shadow=True)
    served.step(timedelta(0))
    served.hours(5, 60)
    assert handle.status.phase == "RolledBack" and "mae" in handle.status.reason
    assert served.project.models["eta"].champion.version == "v1"
    assert served.project.models["eta"].version(version).lifecycle == "retired"


def test_a_verdict_replayed_from_the_log_is_the_same(served):
    version = bad_release(served)
    handle = served.project.rollout("eta", version)
    handle.start(skip_shadow=True)
    served.step(timedelta(0))
    served.hours(4, 60)
    again = handle.replay()
    assert again["same"] and again["bins_same"] and again["verdicts"]


def test_traffic_goes_to_both_arms_during_a_step_and_a_unit_stays_on_one(served):
    served.project.rollout("eta", "v2").start(skip_shadow=True)
    served.step(timedelta(0))
    arms = {u: {infer(served, u) for _ in range(3)} for u in (f"unit-{k}" for k in range(30))}
    assert all(len(versions) == 1 for versions in arms.values())
    assert {v for versions in arms.values() for v in versions} == {"v1", "v2"}


def infer(ask: kit.Caller, unit: str) -> str:
    return ask.http.infer("eta", [{"zone": 1, "distance": 2.0}], unit=unit)["model_version"]


def test_a_rollout_waits_without_traffic(served):
    handle = served.project.rollout("eta", "v2")
    handle.start()
    for _ in range(6):
        served.step(kit.HOUR)
    assert handle.status.phase == "Shadow"


def test_two_rollouts_of_a_model_at_once_are_refused(served):
    served.project.rollout("eta", "v2").start()
    with pytest.raises(ConflictError, match="v2"):
        served.project.rollout("eta", "v2").start()
    with pytest.raises(Refused, match="under way"):
        served.project.models["eta"].promote("v2")


def test_expected_names_days_to_detect_and_to_promote(served):
    forecast = served.project.rollout("eta", "v2").expected(per_day=10_000)
    assert forecast["promote_days"] > 0 and forecast["detect"]


def test_a_rollout_goes_on_in_another_process(trained):
    with Project.open(trained) as project:
        project.rollout("eta", "v2").start()
        ask = kit.caller(project)
        ask.step(timedelta(0))
        ask.hours(1, 60)
        ask.http.close()
        at = project.clock.now()
    with Project.open(trained) as project:
        project.clock.set(at)
        ask = kit.caller(project, seed=5)
        ask.hours(7, 60)
        ask.http.close()
        assert project.rollout("eta", "v2").status.phase == "Promoted"


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lived(temp):
    """A temporary project with a champion, and who calls it."""
    temp.apply()
    temp.models["eta"].promote(kit.train_here(temp))
    ask = kit.caller(temp)
    yield ask
    ask.http.close()


def days(ask: kit.Caller, count: int, **how: object) -> None:
    for _ in range(count):
        ask.hours(24, 12, per_request=2, **how)


@pytest.mark.slow
def test_drift_fires_retrains_and_releases_by_itself(lived):
    days(lived, 4, scale=2.0)
    project = lived.project
    (chapter, *_) = project.loop.why("eta")
    assert chapter["kind"] == "drift" and chapter["run"]["state"] == "succeeded"
    assert {f["kind"] for f in chapter["facts"]} >= {"TriggerFired", "RunStarted", "RunFinished", "RolloutStarted"}
    assert project.models["eta"].version("v2").cause == "drift"
    pages = [w for w in project.monitor("eta").drift(version="v1") if w.level == "page"]
    assert pages and "distance" in {f.feature for f in pages[0].features if f.level == "page"}


@pytest.mark.slow
def test_a_frozen_loop_sees_drift_and_trains_nothing_until_thawed(lived):
    project = lived.project
    project.loop.freeze("eta", reason="holidays")
    days(lived, 2, scale=2.0)
    assert [v.version for v in project.models["eta"].versions] == ["v1"]
    assert any("holidays" in str(chapter) for chapter in project.loop.why("eta"))
    project.loop.thaw("eta")
    days(lived, 3, scale=2.0)  # a weekend, of which the reference knows too little to page, and a Monday
    assert [v.version for v in project.models["eta"].versions] == ["v1", "v2"]


def test_performance_windows_carry_value_and_coverage(lived):
    lived.hours(26, 20)
    (window, *_) = lived.project.monitor("eta").performance()
    assert window.metric == "mae" and window.value == pytest.approx(1.3, abs=0.5) and window.coverage > 0.9


def test_once_is_refused_while_a_controller_holds_the_lease(lived):
    leases = lived.project.database.leases
    lease = leases.acquire("control", "somebody", timedelta(minutes=1))
    with pytest.raises(ConflictError, match="lease"):
        lived.project.loop.once()
    leases.release(lease)
    assert lived.project.loop.once() == []


def test_the_in_process_client_is_a_public_name(lived):
    with fb.testing.client(lived.project) as http:
        assert http.get("/v2/health/ready").json() == {"ready": True}
