"""A run's stages: what they leave, what stops them, champion and candidate on the same rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from training_world import UNTIL, MeanModel, World, least_squares, open_world, plan_of, trips, write_trips

import flyball as fb
from flyball.errors import ConflictError, StageFailed, UnknownName
from flyball.gates.run import read_report
from flyball.profiles.reference import Reference
from flyball.registry.artifacts import ensure_signing_key, load_version
from flyball.registry.types import Lifecycle
from flyball.training.evaluate import read_evaluation
from flyball.training.pipeline import run_stages
from flyball.training.types import STAGES, RunState


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_trips(tmp_path)
    return open_world(tmp_path)


def promote(world: World, version: str) -> None:
    world.context.versions.set_lifecycle("eta", version, Lifecycle.CHAMPION, now=UNTIL)


def test_a_run_registers_a_version_that_answers(world: World) -> None:
    run = world.run(plan_of(gates=[fb.gate.beats_champion("mae"), fb.gate.latency(p99="50ms"), fb.gate.size("1MB")]))
    assert run.state is RunState.SUCCEEDED
    assert {s.stage for s in run.stages} == set(STAGES)
    version = world.context.versions.get("eta", "v1")
    loaded = load_version(
        (world.folder / version.path), version.digest, signing_key=ensure_signing_key(world.context.layout)
    )
    assert np.isfinite(loaded.predict(loaded.sample())).all()
    assert version.metrics["mae"] < 2.5
    assert version.gate == "passing"
    reference = Reference.from_bytes(((world.folder / version.path) / "reference.bin").read_bytes())
    assert reference.names == ("trips_1h", "minutes_24h", "distance", "hour_of_day")


def test_the_report_stands_in_the_gates_folder(world: World) -> None:
    world.run(plan_of(gates=[fb.gate.metric("mae", max=0.001)]))
    report = read_report(world.context.layout.runs / "r1" / "gate" / "report.json")
    assert report.checks[0].verdict == "breached"
    assert world.context.runs.get("r1").state is RunState.GATED_OUT
    assert world.context.versions.get("eta", "v1").gate == "breached"


def test_a_finished_run_is_left_alone(world: World) -> None:
    first = world.run(plan_of())
    assert run_stages("r1", plan_of(), world.context) == first


def test_equal_runs_share_the_training_set(world: World) -> None:
    for name in ("r1", "r2"):
        world.run(plan_of(), name)
    assert len(list(world.context.layout.datasets.glob("*.parquet"))) == 1
    assert len(world.context.datasets.list("eta")) == 1


def test_candidate_and_champion_are_judged_on_rows_neither_trained_on(world: World) -> None:
    world.run(plan_of())
    promote(world, "v1")
    later = world.run(plan_of(gates=[fb.gate.beats_champion("mae", margin="1%")]), "r2", train_on="3d")
    found = read_evaluation(world.context.layout.runs / "r2" / "evaluate")
    champion = world.context.datasets.get(world.context.versions.get("eta", "v1").dataset)
    assert found.champion_version == "v1"
    assert found.champion is not None
    assert found.paired == len(found.champion) == len(found.candidate) > 200
    assert found.paired + found.left_out == found.rows
    assert champion.holdout_from < UNTIL
    assert world.context.versions.get("eta", "v2").parent == "v1"
    assert later.state is RunState.SUCCEEDED


def test_a_champion_that_saw_the_whole_holdout_makes_the_gate_inconclusive(world: World) -> None:
    world.run(plan_of(holdout=0.02))
    promote(world, "v1")
    run = world.run(plan_of(gates=[fb.gate.beats_champion("mae")], holdout=0.3), "r2", until=UNTIL - timedelta(days=1))
    assert run.state is RunState.GATED_OUT
    report = read_report(world.context.layout.runs / "r2" / "gate" / "report.json")
    assert report.verdict == "inconclusive"


def test_a_champion_with_other_features_answers_the_same_rows(world: World) -> None:
    world.run(plan_of(fields=[fb.Field("zone", int)]))
    promote(world, "v1")
    world.run(plan_of(gates=[fb.gate.beats_champion("mae", margin="5%")]), "r2", train_on="4d")
    found = read_evaluation(world.context.layout.runs / "r2" / "evaluate")
    assert found.reason == ""
    assert found.champion is not None
    assert found.champion_metrics["mae"] == pytest.approx(found.paired_metrics["mae"], rel=0.1)


def test_a_champion_whose_inputs_are_gone_says_why(world: World) -> None:
    source = trips(derive={"minutes": "(dropoff_at - pickup_at) / 1m", "extra": "distance * 2"})
    world.run(plan_of(source, fields=[fb.Field("extra", float)]))
    promote(world, "v1")
    run = world.run(plan_of(gates=[fb.gate.beats_champion("mae")]), "r2")
    report = read_report(world.context.layout.runs / "r2" / "gate" / "report.json")
    assert run.state is RunState.GATED_OUT
    assert "extra" in report.checks[0].text


def test_a_model_that_fails_to_train_is_one_sentence_and_resumable(world: World) -> None:
    def broken(data: Any, params: dict[str, Any]) -> Any:
        raise ValueError("no convergence\nafter 5 steps")

    world.new_run()
    with pytest.raises(
        StageFailed, match=r"run r1 failed in stage train: ValueError: no convergence after 5 steps;"
    ) as e:
        run_stages("r1", plan_of(train=broken), world.context)
    assert "flyball run --run r1" in str(e.value) and "flyball apply" in str(e.value)
    assert world.context.runs.get("r1").state is RunState.FAILED
    assert run_stages("r1", plan_of(), world.context).state is RunState.SUCCEEDED


def test_running_out_of_memory_names_the_limit(world: World) -> None:
    def greedy(data: Any, params: dict[str, Any]) -> Any:
        raise MemoryError

    with pytest.raises(StageFailed, match=r"ran out of memory \(limit 8 GB\)"):
        world.run(plan_of(train=greedy))


def test_a_training_set_without_information_is_refused(world: World) -> None:
    source = trips(derive={"minutes": "(dropoff_at - pickup_at) / 1m * 0", "nothing": "distance / 0"})
    with pytest.raises(StageFailed, match=r"feature 'nothing' is null in all \d+ rows; label 'minutes' is 0 in all"):
        world.run(plan_of(source, fields=[fb.Field("nothing", float)]))


def test_params_of_the_run_go_over_the_models(world: World) -> None:
    seen: list[dict[str, Any]] = []

    def watch(data: Any, params: dict[str, Any]) -> MeanModel:
        seen.append(params)
        return least_squares(data, params)

    world.run(plan_of(train=watch, params={"ridge": 1.0, "kept": 2}), params={"ridge": 0.5})
    assert seen == [{"ridge": 0.5, "kept": 2}]


def test_unseeded_randomness_gives_the_same_model(world: World) -> None:
    def noisy(data: Any, params: dict[str, Any]) -> MeanModel:
        return MeanModel(np.random.normal(size=data.X.shape[1] + 1))

    runs = [world.run(plan_of(train=noisy), name) for name in ("r1", "r2")]
    assert len({s.outputs["model"] for r in runs for s in r.stages if s.stage == "train"}) == 1


def test_a_poisoned_window_changes_the_training_set(world: World) -> None:
    world.run(plan_of())
    world.context.datasets.poison("eta", UNTIL - timedelta(days=3), UNTIL - timedelta(days=2), reason="outage")
    world.run(plan_of(), "r2")
    first, second = world.context.datasets.list("eta")
    assert second.rows < first.rows
    assert second.poisoned == ((UNTIL - timedelta(days=3), UNTIL - timedelta(days=2)),)


def test_one_stage_alone_needs_those_before_it(world: World) -> None:
    world.new_run()
    with pytest.raises(StageFailed, match="needs snapshot"):
        run_stages("r1", plan_of(), world.context, stage="train")
    with pytest.raises(UnknownName, match="did you mean train"):
        run_stages("r1", plan_of(), world.context, stage="trian")
    for stage in STAGES:
        run = run_stages("r1", plan_of(), world.context, stage=stage)
    assert run.state is RunState.SUCCEEDED


def test_two_processes_do_not_run_one_run(world: World) -> None:
    world.new_run()

    def nested(data: Any, params: dict[str, Any]) -> Any:
        run_stages("r1", plan_of(), world.context)

    with pytest.raises(StageFailed, match="running in another process"):
        run_stages("r1", plan_of(train=nested), world.context)
    assert issubclass(ConflictError, Exception)


def test_a_tracker_that_fails_stops_nothing(world: World) -> None:
    class Down:
        def log_run(self, **given: Any) -> str:
            raise OSError("store is away")

        def set_alias(self, *given: Any) -> None: ...

    sick = World(replace(world.context, tracker=Down()), world.folder)
    assert sick.run(plan_of()).state is RunState.SUCCEEDED
    noted = msgspec.json.decode((world.context.layout.runs / "r1" / "register" / "tracking.json").read_bytes())
    assert noted["problem"] == "OSError: store is away"


def test_a_classifier_is_judged_by_its_probabilities(world: World) -> None:
    def fit(data: Any, params: dict[str, Any]) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=200).fit(np.nan_to_num(data.X), data.y)

    source = trips(derive={"minutes": "(dropoff_at - pickup_at) / 1m", "long": "minutes > 15"})
    plan = replace(plan_of(source, train=fit), label=fb.Label("long"), gates=(fb.gate.metric("auc", min=0.8),))
    assert world.run(plan).state is RunState.SUCCEEDED
    assert set(world.context.versions.get("eta", "v1").metrics) == {"accuracy", "auc", "brier", "logloss"}
