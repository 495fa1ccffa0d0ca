"""Examples out of the prediction log: served values to the bit, known outcomes only, bootstrap, erasure, the loop."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import project_kit as kit
import pyarrow.compute as pc
import pytest

import flyball as fb
from flyball.adapters.log_files import LogShipper
from flyball.cli.app import run
from flyball.datasets.served import sequence_of
from flyball.errors import DefinitionError, SourceError, StageFailed
from flyball.project import Project
from flyball.project.log import LogHandle
from flyball.records.types import Outcome, Prediction

PLAIN = 'examples=fb.Examples(trips, at="pickup_at"),'
LOGGED = 'examples=fb.Examples.from_log(at="pickup_at"),'
LATER = kit.NOW + timedelta(hours=72)
BOTH = 'examples=fb.Examples.from_log(until_enough=fb.Examples(trips, at="pickup_at"), enough=200),'


@pytest.fixture(scope="module")
def lived_template(trained_template, tmp_path_factory):
    """A project that served some days of requests with outcomes, and learns from them; read only."""
    folder = kit.copy_of(trained_template, tmp_path_factory.mktemp("lived") / "small")
    kit.edit(folder, (PLAIN, LOGGED))
    with Project.open(folder) as project:
        project.apply()
        live(project)
    return folder


def live(project, hours=24, per_hour=60):
    """Serve one busy hour in three: trips end, callers ask ten rows at a time and report what came of it."""
    ask = kit.caller(project)
    for _ in range(hours):
        project.clock.set(project.clock.now() + 3 * kit.HOUR)
        ask.push_ended()
        ask.ask(per_hour, per_request=10)
    ask.http.close()


@pytest.fixture
def lived(lived_template, tmp_path):
    with Project.open(kit.copy_of(lived_template, tmp_path / "lived")) as project:
        project.clock.set(LATER)
        yield project


def records(project, kind):
    return [r for r in project.log.records() if isinstance(r, kind)]


def reopened(project, *changes):
    """Apply an edit and return the project anew."""
    kit.edit(project.root, *changes)
    again = Project.open(project.root)
    again.clock.set(project.clock.now())
    again.apply()
    return again


def test_the_training_matrix_is_what_was_served_to_the_bit_and_the_label_the_outcome(lived):
    data = lived.data.snapshot("eta")
    truth = {o.id: o.value for o in records(lived, Outcome)}
    served = {sequence_of(p.id): p for p in records(lived, Prediction)}
    assert data.manifest.join == "as_served" and data.manifest.rows > 200
    assert data.feature_names == ("trips_1h", "minutes_24h", "distance")
    rows = data.table.to_pylist()
    assert len(rows) == data.manifest.rows == len({r["__sequence"] for r in rows})
    for row in rows:
        prediction = served[row["__sequence"]]
        mine = np.array([np.nan if row[n] is None else row[n] for n in data.feature_names])
        assert mine.tobytes() == np.array(prediction.features).tobytes()
        assert (row["__at"], row["__unit"]) == (prediction.at, prediction.unit)
        assert row["__label"] == truth[prediction.id]
    assert data.X.tobytes() == np.array([served[s].features for s in sequences(data, 0)]).tobytes()


def sequences(data, part):
    return data.table.filter(pc.equal(data.table["__part"], part))["__sequence"].to_pylist()


def test_an_outcome_is_known_when_it_was_received_and_matured(lived):
    lived.clock.set(LATER + timedelta(minutes=1))
    data = lived.data.snapshot("eta")
    outcomes = {sequence_of(o.id): o for o in records(lived, Outcome)}
    until = data.manifest.end.timestamp() * 1e6
    begin = data.manifest.holdout_from.timestamp() * 1e6
    known = {s: max(o.event + 3_600_000_000, o.received) for s, o in outcomes.items()}
    assert all(known[s] <= begin for s in sequences(data, 0))
    assert all(known[s] <= until for s in sequences(data, 1))
    late = [s for s, at in known.items() if at > until]
    assert data.manifest.immature == len(late) > 0


def test_the_newest_revision_is_the_label_and_a_later_one_changes_nothing_before_it_came(lived):
    before = lived.data.snapshot("eta").manifest
    first = records(lived, Prediction)[-100]
    now = lived.clock.now()
    with fb.testing.client(lived) as http:
        for revision, value in ((2, 77.5), (1, 11.0)):
            row = {"prediction_id": first.id, "value": value, "event_time": now.isoformat(), "revision": revision}
            lived.clock.set(lived.clock.now() + kit.HOUR)
            assert http.post("/v1/outcomes", json=[row]).status_code == 200
    with Project.open(lived.root) as back:
        back.clock.set(now)
        assert back.data.snapshot("eta").manifest.digest == before.digest
    later = lived.data.snapshot("eta").table.to_pylist()
    assert [r["__label"] for r in later if r["__sequence"] == sequence_of(first.id)] == [77.5]


def test_shipped_and_live_parts_give_the_same_training_set(lived):
    before = lived.data.snapshot("eta").manifest
    segments = sorted(lived.layout.log.glob("*/*.seg"))
    for path in segments:  # its writer has ended: a process id that is nobody's
        path.rename(path.with_name(path.name.rpartition("-")[0] + "-999999999.seg"))
    shipper = LogShipper(lived.layout.log, lived.log.files)
    assert shipper.ship() == len(segments)
    shipper.close()
    for path in lived.layout.log.glob("*/*.seg"):
        path.unlink()
    assert lived.data.snapshot("eta").manifest.digest == before.digest


def test_a_request_that_is_in_the_log_twice_is_one_example(lived, monkeypatch):
    before = lived.data.snapshot("eta").manifest
    once = LogHandle.parts

    def twice(self, *what):
        for part in once(self, *what):
            yield from (part, part)

    monkeypatch.setattr(LogHandle, "parts", twice)
    assert lived.data.snapshot("eta").manifest.digest == before.digest


def test_reading_the_log_for_training_is_written_down(lived):
    lived.data.snapshot("eta")
    assert [e.action for e in lived.audit.list(subject="eta")][-1] == "log read: trained on"


def test_a_retrained_version_is_gated_against_the_champion_on_the_same_served_rows(lived):
    version = kit.train_here(lived)
    report = lived.models["eta"].gate(version)
    assert "mae" in report.checks[0].text and report.checks[0].evidence
    assert lived.data.get(lived.models["eta"].version(version).dataset).join == "as_served"


def test_the_loop_retrains_from_the_log(lived_template, tmp_path):
    folder = kit.copy_of(lived_template, tmp_path / "loop")
    kit.edit(folder, ("retrain=fb.Retrain(on=[fb.on.drift()]", 'retrain=fb.Retrain(on=[fb.on.schedule("0 * * * *")]'))
    with Project.open(folder) as project:
        project.clock.set(LATER)
        project.apply()
        ask = kit.caller(project)
        known = {v.version for v in project.models["eta"].versions}
        for _ in range(6):
            ask.step(kit.HOUR)
            if {v.version for v in project.models["eta"].versions} - known:
                break
        ask.http.close()
        made = [v for v in project.models["eta"].versions if v.version not in known]
        assert made, ask.did
        assert project.data.get(made[0].dataset).join == "as_served"


def test_a_row_without_a_feature_is_left_out_and_the_error_names_it(lived):
    more = 'fb.count("trips_3h", window="3h"),\n    fb.mean("minutes_24h"'
    with (
        reopened(lived, ('fb.mean("minutes_24h"', more)) as project,
        pytest.raises(SourceError, match=r"served without trips_3h.*until_enough"),
    ):
        project.data.snapshot("eta")


def test_a_feature_added_to_a_view_that_the_model_does_not_read_costs_no_row(lived):
    before = lived.data.snapshot("eta")
    more = 'fb.count("trips_3h", window="3h"),\n    fb.mean("minutes_24h"'
    with reopened(
        lived,
        ('fb.mean("minutes_24h"', more),
        ("features=[traffic,", 'features=[traffic.select("trips_1h", "minutes_24h"),'),
    ) as project:
        after = project.data.snapshot("eta")
    assert after.manifest.rows == before.manifest.rows and after.manifest.unserved == 0


def test_a_feature_of_the_same_name_and_another_definition_is_another_feature(lived):
    with (
        reopened(lived, ('"trips_1h", window="1h"', '"trips_1h", window="2h"')) as project,
        pytest.raises(SourceError, match="served without trips_1h"),
    ):
        project.data.snapshot("eta")


def test_a_champion_that_reads_other_features_is_judged_on_what_was_served_to_it(lived):
    with reopened(lived, ("features=[traffic, fb.Field", 'features=[traffic.select("trips_1h"), fb.Field')) as project:
        version = project.run_stages_here(_new(project)).version  # whatever its gate says
        folder = project.layout.runs / project.models["eta"].version(version).run / "evaluate"
        found = json.loads((folder / "evaluation.json").read_bytes())
        with np.load(folder / "rows.npz") as rows:
            champion = rows["champion"]
        data = project.data.get(project.models["eta"].version(version).dataset)
        assert found["reason"] == "" and data.join == "as_served", found
        held = sequences(open_set(project, data), 1)
        loaded = project.models["eta"].load("v1")
        served = {sequence_of(p.id): p.features for p in records(project, Prediction)}
        assert champion.tolist() == pytest.approx(
            loaded.predict(np.array([served[s] for s in held])).tolist(), rel=1e-12
        )


def open_set(project, manifest):
    from flyball.datasets.files import open_dataset

    return open_dataset(manifest, project.layout)


def test_a_champion_whose_features_nobody_served_gets_what_was_known_at_their_time(lived):
    from flyball.datasets.served import as_asked, rows_of
    from flyball.features.matrix import to_matrix
    from flyball.project.labelled import AnsweredLog

    data = lived.data.snapshot("eta")
    plan = lived.applied.model("eta").plan
    log = AnsweredLog(lived)
    table = rows_of(log, "eta", plan.examples.log, data.manifest.start, data.manifest.end).slice(0, 50)
    served = to_matrix(as_asked(log, lived.engine, table, plan.service), plan.service.names)
    log._services[("eta", "v1")] = None  # as if its artifact were gone
    again = to_matrix(as_asked(log, lived.engine, table, plan.service), plan.service.names)
    np.testing.assert_allclose(again, served, rtol=1e-12)


def test_the_source_is_taken_until_the_log_holds_enough(trained):
    kit.edit(trained, (PLAIN, BOTH))
    with Project.open(trained) as project:
        project.apply()
        assert project.data.snapshot("eta").manifest.join == "as_known"
        live(project, 10, 120)
        manifest = project.data.snapshot("eta").manifest
        assert manifest.join == "as_served" and manifest.rows <= 1200
        version = kit.train_here(project)
        code, out = command(project, "data", "lineage", version)
        assert code == 0 and "as served" in json.loads(out)["features"]


def command(project, *words):
    import contextlib
    import io
    import os

    out, here = io.StringIO(), os.getcwd()
    os.chdir(project.root)
    try:
        with contextlib.redirect_stdout(out):
            code = run([*words, "--json"])
    finally:
        os.chdir(here)
    return code, out.getvalue()


def test_without_a_source_a_project_with_an_empty_log_says_what_to_do(trained):
    kit.edit(trained, (PLAIN, LOGGED))
    with Project.open(trained) as project:
        project.apply()
        with pytest.raises(StageFailed, match="until_enough"):
            project.run_stages_here(_new(project))


def _new(project):
    from flyball.project.runs import new_run

    return new_run(project, "eta", {}).id


def test_where_and_derive_read_inputs_features_and_the_log(lived):
    cut = (
        "fb.Examples.from_log(where=\"zone in (1, 2) and distance < 3 and trips_1h >= 0 and arm = 'champion'\", "
        'derive={"minutes": "outcome * 60"}),'
    )
    every = lived.data.snapshot("eta")
    with reopened(lived, ('fb.Examples.from_log(at="pickup_at"),', cut)) as project:
        data = project.data.snapshot("eta")
    by_id = {sequence_of(p.id): p for p in records(lived, Prediction)}
    wanted = {
        r["__sequence"]: r["__label"] * 60 for r in every.table.to_pylist()
        if by_id[r["__sequence"]].inputs["zone"] in {1, 2} and r["distance"] < 3 and r["trips_1h"] is not None
    }  # fmt: skip
    found = {r["__sequence"]: r["__label"] for r in data.table.to_pylist()}
    assert 0 < len(found) <= len(wanted) and all(found[s] == wanted[s] for s in found)
    assert data.manifest.rejected > 0


def test_a_poisoned_stretch_is_left_out(lived):
    before = lived.data.snapshot("eta").manifest
    begin = before.end - timedelta(days=2)
    lived.data.poison("eta", begin, begin + timedelta(hours=12), reason="a broken scale")
    after = lived.data.snapshot("eta")
    at = after.table["__at"].to_numpy()
    low, high = (t.timestamp() * 1e6 for t in (begin, begin + timedelta(hours=12)))
    assert after.manifest.poisoned and after.manifest.rows < before.rows
    assert not ((at >= low) & (at < high)).any()


def test_erasing_a_subject_takes_its_requests_out_of_the_training_set(lived):
    version = kit.train_here(lived)
    was = lived.models["eta"].version(version).dataset
    mine = {sequence_of(p.id) for p in records(lived, Prediction) if p.inputs["zone"] == 3}
    held = set(open_set(lived, lived.data.get(was)).table["__sequence"].to_pylist())
    assert mine & held
    proof = lived.features.erase({"zone": 3})
    place = next(p for p in proof.places if p.kind == "training sets" and p.was == was)
    assert place.removed == len(mine & held) and place.left == 0
    left = set(open_set(lived, lived.data.get(was)).table["__sequence"].to_pylist())
    assert left == held - mine
    assert not any("no longer holds" in text for text in proof.remaining)


def test_rows_whose_requests_the_log_no_longer_holds_are_named_as_what_remains(lived):
    kit.train_here(lived)
    for path in lived.layout.log.glob("*/*.seg"):
        path.unlink()
    proof = lived.features.erase({"zone": 3})
    assert any("no longer holds the requests" in text for text in proof.remaining)


def test_what_the_log_does_not_keep_is_refused_when_it_is_declared(lived):
    source = (lived.root / "definitions.py").read_text()
    for personal, log, words in (
        ('"distance": "hash"', "", "personal field 'distance'"),
        ('"zone": "hash"', 'where="zone = 3"', "reads 'zone'"),
        ('"zone": "hash"', 'where="zome = 3"', "zome"),
        ('"zone": "hash"', 'where="outcome + 1"', "no condition"),
        ('"zone": "hash"', 'derive={"minutes": "arm"}', "make it a number"),
    ):
        text = source.replace(
            LOGGED, f"examples=fb.Examples.from_log({log}), serving=fb.Serving(personal={{{personal}}}),"
        )
        with pytest.raises(DefinitionError, match=words):
            exec(compile(text, "definitions.py", "exec"), {})


def test_arguments_that_make_no_sense_are_refused():
    source = fb.ParquetSource("trips", "data/*.parquet", event_time="dropoff_at")
    start = fb.Examples(source, at="pickup_at")
    for wrong in (
        {"arms": "candidate"}, {"enough": 3}, {"until_enough": start, "at": "asked"}, {"timezone": "Mars/Olympus"},
        {"until_enough": start, "timezone": "UTC"}, {"until_enough": fb.Examples.from_log()},
    ):  # fmt: skip
        with pytest.raises(DefinitionError):
            fb.Examples.from_log(**wrong)


def test_hashed_inputs_and_units_leave_served_values_good_to_learn_from(trained):
    kit.edit(
        trained,
        (
            PLAIN,
            'examples=fb.Examples.from_log(unit="zone"), serving=fb.Serving(personal={"zone": "hash", "unit": "hash"}),',
        ),
    )
    with Project.open(trained) as project:
        project.apply()
        live(project)
        data = project.data.snapshot("eta")
        assert data.manifest.rows > 100 and all(u.startswith("h:") for u in data.table["__unit"].to_pylist())
        version = kit.train_here(project)
        was = project.models["eta"].version(version).dataset
        keys = project.personal_keys()
        mine = {sequence_of(p.id) for p in records(project, Prediction) if p.inputs["zone"] == keys.hashed(3)}
        proof = project.features.erase({"zone": 3})
        assert next(p for p in proof.places if p.was == was).removed
        assert not mine & set(open_set(project, project.data.get(was)).table["__sequence"].to_pylist())


def test_whose_features_a_fallback_carries_is_read_from_the_table_in_force(lived):
    from flyball.project.labelled import AnsweredLog

    log, table = AnsweredLog(lived), records(lived, Prediction)[0].table
    asked = [
        log._asked("eta", {"id": "p", "at": 0, "table": number, "arm": arm, "version": "v0"})
        for number, arm in ((table, "champion"), (table, "v7"), (table, "candidate"), (10**9, "champion"))
    ]
    assert asked == ["v1", "v7", "", ""]
