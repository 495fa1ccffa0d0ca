"""Bad input through the real command line: one sentence, the right exit code, no traceback unless asked for."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import project_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flyball.cli.app import run


class Says:
    """Run a command line that must fail, and return its one sentence."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, folder: Path, *arguments: str, code: int) -> str:
        """Check what holds for every error: exit code, one sentence, the traceback only with --debug."""
        self._capsys.readouterr()
        found = run([*arguments, "-p", str(folder)])
        err = self._capsys.readouterr().err
        assert found == code, err
        assert "Traceback" not in err
        last = kit.lines(err)[-1]
        assert last.startswith("flyball: ")
        assert sum(line.startswith("flyball: ") for line in kit.lines(err)) == 1
        return last.removeprefix("flyball: ")


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    return Says(capsys)


def with_table(folder: Path, table: pa.Table) -> Path:
    pq.write_table(table, folder / "data" / "trips.parquet")
    return folder


# -- flyball.toml ------------------------------------------------------------------------------------------------------


def test_a_missing_flyball_toml(says, tmp_path):
    text = says(tmp_path, "check", code=2)
    assert "flyball.toml" in text and "flyball init" in text


def test_a_malformed_flyball_toml_names_the_line(says, small):
    (small / "flyball.toml").write_text('[project]\nname = "small\n')
    text = says(small, "check", code=2)
    assert "line 2" in text


def test_an_unknown_key_names_the_nearest(says, small):
    (small / "flyball.toml").write_text("[server]\nprot = 8080\n")
    text = says(small, "check", code=2)
    assert "server.prot" in text and "server.port" in text


def test_an_unknown_section_names_the_nearest(says, small):
    (small / "flyball.toml").write_text("[sever]\nport = 8080\n")
    assert "server" in says(small, "status", code=2)


def test_a_setting_of_a_wrong_type_names_value_and_origin(says, small):
    (small / "flyball.toml").write_text('[server]\nport = "many"\n')
    text = says(small, "status", code=2)
    assert "server.port" in text and "'many'" in text and "line 2" in text and "whole number" in text


def test_an_unknown_environment_names_the_known(says, small):
    assert "production" in says(small, "status", "--env", "prodution", code=2)


def test_an_unknown_setting_to_get(says, small):
    assert "server.port" in says(small, "config", "get", "server.prot", code=2)


def test_an_unknown_setting_to_set_changes_nothing(says, small):
    before = (small / "flyball.toml").read_text()
    assert "server.port" in says(small, "config", "set", "server.prot", "1", code=2)
    assert (small / "flyball.toml").read_text() == before


def test_a_bad_value_to_set_changes_nothing(says, small):
    before = (small / "flyball.toml").read_text()
    assert "'many'" in says(small, "config", "set", "server.port", "many", code=2)
    assert (small / "flyball.toml").read_text() == before


def test_a_simulated_clock_without_a_start(says, small):
    (small / "flyball.toml").write_text('[clock]\ndomain = "simulated"\n')
    assert "start" in says(small, "apply", code=2)


# -- definitions -------------------------------------------------------------------------------------------------------


def test_a_missing_definitions_module(says, small):
    (small / "definitions.py").unlink()
    text = says(small, "check", code=2)
    assert "definitions.py" in text and "project.definitions" in text


def test_a_syntax_error_names_file_and_line(says, small):
    (small / "definitions.py").write_text("import flyball as fb\nzone = fb.Entity(\n")
    assert "definitions.py line 2" in says(small, "check", code=2)


def test_an_exception_names_file_line_and_cause(says, small):
    (small / "definitions.py").write_text("import flyball as fb\n\nlimit = {}['missing']\n")
    text = says(small, "check", code=2)
    assert "definitions.py line 3" in text and "KeyError" in text and "missing" in text


def test_an_import_that_is_not_installed(says, small):
    (small / "definitions.py").write_text("import no_such_library\n")
    text = says(small, "apply", code=2)
    assert "definitions.py line 1" in text and "no_such_library" in text


@pytest.mark.parametrize("verb", ["check", "apply"])
def test_nothing_defined(says, small, verb):
    (small / "definitions.py").write_text("import flyball as fb\n")
    text = says(small, verb, code=2)
    assert "neither a model nor a feature view" in text


def test_a_feature_named_twice(says, small):
    kit.edit(small, ('fb.mean("minutes_24h"', 'fb.mean("trips_1h"'))
    text = says(small, "check", code=2)
    assert "trips_1h" in text and "traffic" in text and "definitions.py" in text


def test_a_name_of_the_library_that_does_not_exist(says, small):
    kit.edit(small, ("fb.mean(", "fb.maen("))
    text = says(small, "check", code=2)
    assert "maen" in text and "mean" in text.replace("maen", "")


def test_a_bad_duration(says, small):
    kit.edit(small, ('ttl="7d"', 'ttl="7 apples"'))
    assert "7 apples" in says(small, "check", code=2)


def test_two_models_of_one_name(says, small):
    path = small / "definitions.py"
    path.write_text(path.read_text() + "\nother = fb.Model('eta', examples=fb.Examples(trips, at='pickup_at'), "
                    "features=[fb.Field('distance', float)], label=fb.Label('minutes'), train=train)\n")  # fmt: skip
    text = says(small, "check", code=2)
    assert "'eta'" in text and "rename" in text


# -- sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "apply"])
def test_a_missing_column(says, small, verb):
    with_table(small, kit.trips(1).drop_columns(["zone"]))
    text = says(small, verb, code=2)
    assert "'zone'" in text and "'trips'" in text


def test_a_missing_event_time(says, small):
    with_table(small, kit.trips(1).rename_columns({"dropoff_at": "dropof_at"}))
    text = says(small, "check", code=2)
    assert "dropoff_at" in text and "did you mean dropof_at" in text


def test_a_column_of_a_wrong_type(says, small):
    table = kit.trips(1)
    with_table(small, table.set_column(0, "zone", table["zone"].cast(pa.string())))
    text = says(small, "check", code=2)
    assert "'zone'" in text and "int64" in text and "string" in text


def test_times_that_are_text(says, small):
    table = kit.trips(1)
    place = table.column_names.index("pickup_at")
    with_table(small, table.set_column(place, "pickup_at", table["pickup_at"].cast(pa.string())))
    assert "pickup_at" in says(small, "check", code=2)


def test_an_empty_source(says, small):
    with_table(small, kit.trips(1).slice(0, 0))
    text = says(small, "check", code=2)
    assert "'trips'" in text and "no rows" in text


def test_no_file_at_all(says, small):
    (small / "data" / "trips.parquet").unlink()
    text = says(small, "apply", code=2)
    assert "data/*.parquet" in text and "folder" in text


def test_a_file_that_is_no_parquet(says, small):
    (small / "data" / "trips.parquet").write_text("not parquet")
    text = says(small, "check", code=2)
    assert "trips.parquet" in text


def test_a_failed_apply_changes_nothing(says, small):
    with_table(small, kit.trips(1).drop_columns(["zone"]))
    says(small, "apply", code=2)
    with_table(small, kit.trips(1))
    with kit.Project.open(small) as project:
        assert project.database.deployments.applied() is None


def test_a_label_before_its_request(says, small):
    table = kit.trips(2)
    begun, ended = table.column_names.index("pickup_at"), table.column_names.index("dropoff_at")
    swapped = table.set_column(begun, "pickup_at", table["dropoff_at"]).set_column(
        ended, "dropoff_at", table["pickup_at"]
    )
    kit.edit(small, ('where="minutes between 1 and 60"', 'where="minutes < 0"'))
    with_table(small, swapped)
    run(["apply", "-p", str(small)])
    text = says(small, "run", code=3)
    assert "snapshot" in text and "417 examples" in text and "older" in text and "pickup_at" in text


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_unknown_view(says, trained_template):
    assert "did you mean traffic?" in says(trained_template, "feature", "show", "trafic", code=2)
    assert "did you mean traffic?" in says(trained_template, "feature", "materialize", "trafic", code=2)


def test_an_unknown_feature_of_a_view(says, trained_template):
    text = says(trained_template, "feature", "get", "traffic:trips_2h", "-e", "zone=1", code=2)
    assert "did you mean trips_1h?" in text


def test_an_unknown_model(says, trained_template):
    text = says(trained_template, "model", "list", "--model", "eat", code=2)
    assert "'eat'" in text and "eta" in text


def test_an_unknown_version(says, trained_template):
    for verb in (["model", "show"], ["model", "promote"], ["rollout", "start"], ["data", "lineage"]):
        text = says(trained_template, *verb, "v9", code=2)
        assert "'v9'" in text and "v1" in text, verb


def test_an_unknown_run(says, trained_template):
    text = says(trained_template, "run", "--run", "eta-never", code=2)
    assert "eta-never" in text


def test_an_unknown_dataset(says, trained_template):
    assert "ffff" in says(trained_template, "data", "diff", "ffff", "eeee", code=2)


def test_an_unknown_prediction(says, trained_template):
    assert "'nothing'" in says(trained_template, "explain", "nothing", code=2)


def test_an_unknown_source_to_push_to(says, trained_template, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"zone": 1}\n')
    assert "did you mean trips?" in says(trained_template, "feature", "push", "trps", str(rows), code=2)


def test_a_verb_without_its_argument(says, trained_template):
    text = says(trained_template, "model", "show", code=2)
    assert "VERSION" in text and "flyball model show --help" in text


def test_an_unknown_option(says, trained_template):
    assert "--modle" in says(trained_template, "model", "list", "--modle", "x", code=2)


# -- values ------------------------------------------------------------------------------------------------------------


def test_an_entity_that_is_no_pair(says, trained_template):
    text = says(trained_template, "feature", "get", "traffic", "-e", "74", code=2)
    assert "'74'" in text and "--entity zone=1" in text


def test_an_entity_of_a_wrong_type(says, trained_template):
    text = says(trained_template, "feature", "get", "traffic", "-e", "zone=north", code=2)
    assert "'north'" in text and "whole number" in text


def test_an_entity_with_an_unknown_key(says, trained_template):
    text = says(trained_template, "feature", "get", "traffic", "-e", "zon=1", code=2)
    assert "zone" in text


def test_pushed_rows_that_are_no_json(says, trained, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("zone,distance\n1,2\n")
    assert "JSON lines" in says(trained, "feature", "push", "trips", str(rows), code=2)


def test_pushed_rows_without_a_column(says, trained, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"zone": 1, "distance": 2.0}\n')
    text = says(trained, "feature", "push", "trips", str(rows), code=2)
    assert "dropoff_at" in text


def test_history_without_the_time_column(says, trained_template, tmp_path):
    requests = tmp_path / "requests.parquet"
    pq.write_table(pa.table({"zone": [1]}), requests)
    out = str(tmp_path / "out.parquet")
    text = says(trained_template, "feature", "history", str(requests), "traffic", "--at", "when", "--out", out, code=2)
    assert "'when'" in text


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_promoting_a_version_whose_gate_did_not_pass(says, trained):
    with kit.Project.open(trained) as project:
        project.database.versions.set_gate("eta", "v2", "breached")
    text = says(trained, "model", "promote", "v2", code=1)
    assert "breached" in text and "flyball model show v2 --model eta" in text


def test_exposing_a_version_whose_gate_did_not_pass(says, trained):
    with kit.Project.open(trained) as project:
        project.database.versions.set_gate("eta", "v2", "inconclusive")
    assert "inconclusive" in says(trained, "rollout", "start", "v2", code=1)


def test_retiring_the_champion(says, trained):
    assert "champion" in says(trained, "model", "retire", "v1", code=1)


def test_training_before_anything_is_applied(says, small):
    assert "flyball apply" in says(small, "run", code=2)


def test_scoring_without_a_champion(says, small, tmp_path):
    run(["apply", "-p", str(small)])
    data = tmp_path / "requests.parquet"
    pq.write_table(kit.trips(0.1), data)
    text = says(small, "model", "score", str(data), "--out", str(tmp_path / "out.parquet"), code=1)
    assert "no champion" in text


# -- outside systems ---------------------------------------------------------------------------------------------------


def test_a_model_that_fails_to_train_says_where_and_how_to_resume(says, small):
    kit.edit(small, ("    from sklearn", "    raise ValueError('no luck today')\n    from sklearn"))
    run(["apply", "-p", str(small)])
    text = says(small, "run", code=3)
    assert "no luck today (definitions.py line " in text and "train" in text and "flyball run --run eta-" in text


def test_a_control_database_of_a_newer_version(says, small):
    run(["apply", "-p", str(small)])
    with sqlite3.connect(small / ".flyball" / "control.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    text = says(small, "status", code=3)
    assert "9999" in text and "newer" in text


def test_a_control_database_that_is_no_database(says, small):
    (small / ".flyball").mkdir()
    (small / ".flyball" / "control.db").write_text("x" * 5000)
    assert "control.db" in says(small, "status", code=3)


@pytest.mark.parametrize("how", [(), ("--no-bootstrap",)], ids=["before training", "by the server"])
def test_a_port_in_use(small, how):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run(["config", "set", "server.port", str(port), "-p", str(small)])
        run(["config", "set", "control.port", "0", "-p", str(small)])
        command = [sys.executable, "-c", "from flyball.cli import main; main()", "up", *how, "-p", str(small)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in kit.lines(done.stderr) if line.startswith("flyball: ")]
    assert len(said) == 1 and str(port) in said[0] and "server.port" in said[0]
    assert "training" not in done.stderr


def test_up_of_a_project_that_is_up_already(says, small):
    from flyball.adapters.local.running import lock

    held = lock(kit.Project.open(small).layout)
    try:
        assert "runs already" in says(small, "up", code=1)
    finally:
        os.close(held)


# -- how it is said ----------------------------------------------------------------------------------------------------


def test_debug_adds_the_traceback_and_keeps_the_sentence(small, capsys):
    (small / "definitions.py").write_text("limit = 1 / 0\n")
    assert run(["--debug", "check", "-p", str(small)]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "ZeroDivisionError" in err
    assert kit.lines(err)[-1].startswith("flyball: ")


def test_a_mistake_of_flyball_is_one_sentence_too(says, small, monkeypatch):
    from flyball.project import Project

    monkeypatch.setattr(Project, "open", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("oops")))
    text = says(small, "status", code=3)
    assert "RuntimeError: oops" in text and "--debug" in text


def test_feature_get_with_a_key_that_no_feature_has_names_the_keys(says, trained_template):
    text = says(trained_template, "feature", "get", "traffic", "-e", "zone=1", "-e", "hour=3", code=2)
    assert "--entity 'hour=3' is no key of these features; their keys are zone" in text


def test_history_that_cannot_be_written_says_so(says, trained_template, tmp_path):
    (tmp_path / "asked.csv").write_text("zone,at\n1,2020-03-01T00:00:00\n")
    out = str(tmp_path / "missing" / "answers.parquet")
    asked = ("feature", "history", str(tmp_path / "asked.csv"), "traffic", "--at", "at", "--out", out)
    assert "cannot be written" in says(trained_template, *asked, code=2)


def test_feature_get_before_any_apply_says_why_all_is_missing(capsys, small):
    assert run(["feature", "get", "traffic", "-e", "zone=1", "--project", str(small)]) == 0
    text = capsys.readouterr().err
    assert "traffic has no online rows yet" in text and "flyball apply" in text
