"""Every verb, run for real on a small project: for people, as one JSON document, and as a dry run that changes nothing.

The surprise: one project is walked by all tests of a kind, prepared once: v1 is champion, v2 was rolled out, traffic of
two days was logged with outcomes, one drift window closed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import project_kit as kit
import pyarrow.parquet as pq
import pytest

from flyball.cli.app import TREE, run
from flyball.project import Project

Cli = Callable[..., Any]


@pytest.fixture(scope="session")
def lived_template(trained_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project that served for two days, and the id of one of its predictions."""
    folder = kit.copy_of(trained_template, tmp_path_factory.mktemp("lived") / "small")
    with Project.open(folder) as project:
        ask = kit.caller(project)
        project.rollout("eta", "v2").start()
        ask.step(timedelta(0))
        ask.hours(50, 40, per_request=2)
        end = project.clock.now()
        ask.http.close()
    assert run(["config", "set", "clock.start", end.isoformat(), "-p", str(folder)]) == 0
    return folder, ask.ids[0]


@pytest.fixture
def lived(lived_template: tuple[Path, str], tmp_path: Path) -> Path:
    return kit.copy_of(lived_template[0], tmp_path / "lived")


@pytest.fixture
def human(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(folder: Path, *arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = run([*arguments, "-p", str(folder)])
        out, err = capsys.readouterr()
        assert found == code, err
        return out + err

    return call


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(folder: Path, *arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        found = run([*arguments, "--json", "-p", str(folder)])
        out, err = capsys.readouterr()
        assert found == code, err
        return json.loads(out)  # one document and nothing else

    return call


def state_of(folder: Path) -> str:
    """Return a digest of what a project keeps, the control database by content."""
    import sqlite3

    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "control.db" not in path.name and path.name not in {"lock.mdb", "data.mdb"}:
            digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    with sqlite3.connect(folder / ".flyball" / "control.db") as database:
        for line in database.iterdump():
            digest.update(line.encode())
    return digest.hexdigest()


# (arguments, keys of the JSON document or of its first row, something people read)
READING: list[tuple[tuple[str, ...], set[str], str]] = [
    (("check",), {"project", "models", "views", "sources"}, "fine"),
    (("status",), {"project", "node", "applied", "models", "alerts"}, "not running"),
    (("feature", "list"), {"name", "digest", "kind", "entity", "keys", "source", "features"}, "trips_1h"),
    (("feature", "show", "traffic"), {"name", "rows_online", "features"}, "6 entities online"),
    (("feature", "get", "traffic", "-e", "zone=1"), {"zone", "trips_1h", "minutes_24h"}, "minutes_24h"),
    (("feature", "search", "trips"), {"view", "score", "where"}, "traffic"),
    (("feature", "lineage", "traffic"), {"kind", "text", "children"}, "source trips"),
    (("feature", "quarantine", "trips"), {"source", "rows"}, "0 rows of trips"),
    (("feature", "skew"), {"broken", "skewed", "report"}, "0 of 6,000 served values differ"),
    (("data", "versions"), {"digest", "train_rows", "holdout_rows"}, "holdout"),
    (("data", "lineage", "v1"), {"model", "version", "run", "code", "dataset", "views", "sources"}, "traffic"),
    (("model", "list"), {"version", "lifecycle", "gate", "metrics"}, "champion"),
    (("model", "show", "v1"), {"version", "gate"}, "passing"),
    (("model", "compare", "v1", "v2"), {"metrics", "dataset", "code"}, "mae"),
    (
        ("rollout", "start", "v2", "--dry-run", "--per-day", "5000"),
        {"phases", "detect", "promote_days"},
        "expected to promote",
    ),
    (("rollout", "watch", "v2", "--timeout", "5"), {"id", "phase", "share"}, "Promoted"),
    (("rollout", "explain", "v2"), {"rollout", "phase", "guardrails", "events"}, "errors"),
    (("rollout", "history"), {"candidate", "champion", "phase"}, "Promoted"),
    (("monitor", "status"), {"eta"}, "drift"),
    (("monitor", "drift"), {"version", "rows", "level", "features"}, "2020-03-12"),
    (("monitor", "performance"), {"metric", "value", "coverage", "state"}, "mae"),
    (("loop", "status"), {"model", "retrains_on", "frozen"}, "drift"),
    (("config", "get", "server.port"), {"key", "value"}, "18080"),
    (("config", "explain"), {"key", "value", "origin"}, "flyball.toml line"),
]


@pytest.mark.parametrize(("arguments", "keys", "word"), READING, ids=[" ".join(a) for a, _, _ in READING])
def test_a_verb_that_reads_prints_for_people_and_as_json_and_changes_nothing(
    lived_template, as_json, human, arguments, keys, word
):
    folder = lived_template[0]
    before = state_of(folder)
    document = as_json(folder, *arguments)
    first = document[0] if isinstance(document, list) else document
    assert keys <= set(first)
    assert word in human(folder, *arguments)
    assert state_of(folder) == before


def test_check_counts_accepted_and_rejected_rows(small, as_json, human):
    table = pq.read_table(small / "data" / "trips.parquet")
    minutes = (table["dropoff_at"].to_numpy() - table["pickup_at"].to_numpy()) / np.timedelta64(1, "m")
    kit.edit(small, ("minutes between 1 and 60", "minutes between 10 and 60"))
    rejected = int(((minutes < 10) | (minutes > 60)).sum())
    assert rejected > 0
    assert as_json(small, "check")["sources"]["trips"] == {"accepted": len(minutes) - rejected, "rejected": rejected}
    assert f"{len(minutes) - rejected:,} rows accepted" in human(small, "check")


def test_config_schema_lists_every_setting(capsys):
    assert run(["config", "schema", "--json"]) == 0
    assert {"key", "type", "default", "doc"} <= set(json.loads(capsys.readouterr().out)[0])
    assert run(["config", "schema"]) == 0
    assert "server.port" in capsys.readouterr().out


def test_explain_says_how_a_prediction_came_about(lived_template, as_json, human):
    folder, prediction = lived_template
    found = as_json(folder, "explain", prediction)
    text = json.dumps(found)
    assert all(word in text for word in ("traffic", "PRESENT", "v1", "outcome"))
    assert prediction in human(folder, "explain", prediction)


def test_alerts_and_why_before_anything_happened(trained_template, as_json, human):
    assert as_json(trained_template, "monitor", "alerts") == []
    assert "no alerts" in human(trained_template, "monitor", "alerts")
    assert as_json(trained_template, "loop", "why") == []
    assert "nothing has fired yet" in human(trained_template, "loop", "why")


def test_monitor_report_is_one_page_without_addresses(lived, as_json, tmp_path):
    page = tmp_path / "report.html"
    assert as_json(lived, "monitor", "report", str(page)) == {"file": str(page)}
    text = page.read_text()
    assert (
        "<svg" in text
        and "mae" in text
        and "http://" not in text.replace("http://www.w3.org", "")
        and "<script" not in text
    )


def test_data_diff_of_a_set_with_itself(lived_template, as_json, human):
    digest = as_json(lived_template[0], "data", "versions")[0]["digest"]
    assert "manifest" in as_json(lived_template[0], "data", "diff", digest, digest)
    assert "equal" in human(lived_template[0], "data", "diff", digest[:12], digest[:12])


def test_data_diff_takes_versions_too(lived_template, as_json):
    found = as_json(lived_template[0], "data", "diff", "v1", "v2")
    digests = [as_json(lived_template[0], "model", "show", v)["version"]["dataset"] for v in ("v1", "v2")]
    assert found == as_json(lived_template[0], "data", "diff", *digests)


def test_settings_are_shown_as_they_are_written(trained_template, as_json, human):
    assert as_json(trained_template, "config", "get", "control.lease")["value"] == "15s"
    assert human(trained_template, "config", "get", "tracking.enabled").strip() in {"true", "false"}
    assert "PT" not in human(trained_template, "config", "explain")


def test_a_guardrail_is_named_once(lived_template, human):
    text = human(lived_template[0], "rollout", "explain", "v2")
    assert "  errors: " in text
    assert "errors: errors" not in text


# -- verbs that change something ---------------------------------------------------------------------------------------


def test_apply_dry_run_shows_the_difference_and_changes_nothing(trained, as_json, human):
    kit.edit(trained, ('window="1h")', 'window="2h")'))
    before = state_of(trained)
    plan = as_json(trained, "apply", "--dry-run")
    assert [(c["kind"], c["name"], c["action"]) for c in plan["changes"]] == [
        ("view", "traffic", "change"), ("model", "eta", "change"),
    ]  # fmt: skip
    assert "nothing was applied" in human(trained, "apply", "--dry-run")
    assert state_of(trained) == before


def test_apply_says_what_changed_and_then_that_nothing_does(trained, as_json, human):
    kit.edit(trained, ('window="1h")', 'window="2h")'))
    assert {"code", "changes", "filled"} <= set(as_json(trained, "apply"))
    assert "nothing changes" in human(trained, "apply")


def test_materialize_full_and_again(trained, as_json, human):
    done = as_json(trained, "feature", "materialize", "--full")
    assert done["traffic"]["rows"] > 0 and done["traffic"]["keys"] == 6
    assert "traffic" in human(trained, "feature", "materialize", "traffic")


def test_push_counts_what_was_accepted(trained, as_json, human, tmp_path):
    good = '{"zone": 1, "distance": 2.0, "pickup_at": "2020-03-11T23:30:00Z", "dropoff_at": "2020-03-11T23:40:00Z"}'
    long = good.replace("2020-03-11T23:30", "2020-03-11T13:30")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{good}\n{long}\n")
    found = as_json(trained, "feature", "push", "trips", str(rows))
    assert (found["accepted"], found["rejected"]) == (1, 1)
    assert "1 accepted, 1 left out" in human(trained, "feature", "push", "trips", str(rows))


def test_history_writes_a_file(trained_template, as_json, human, tmp_path):
    requests, out = tmp_path / "requests.parquet", tmp_path / "out.parquet"
    pq.write_table(kit.trips(0.1).select(["zone", "pickup_at"]), requests)
    arguments = (
        "feature",
        "history",
        str(requests),
        "traffic",
        "traffic:trips_1h",
        "--at",
        "pickup_at",
        "--out",
        str(out),
    )
    assert as_json(trained_template, *arguments) == {"rows": 40, "out": str(out)}
    assert {"zone", "pickup_at", "trips_1h", "minutes_24h"} <= set(pq.read_schema(out).names)
    assert "40 rows" in human(trained_template, *arguments)


def test_score_writes_a_prediction_a_row(trained_template, as_json, human, tmp_path):
    data, out = tmp_path / "data.parquet", tmp_path / "out.parquet"
    pq.write_table(kit.trips(0.1), data)
    assert as_json(trained_template, "model", "score", str(data), "--out", str(out))["rows"] == 40
    assert pq.read_table(out).column("prediction").null_count == 0
    assert "40 predictions" in human(
        trained_template, "model", "score", str(data), "--version", "v2", "--out", str(out)
    )


def test_run_trains_and_tells_each_stage_once(trained, as_json, human):
    text = human(trained, "run", "--train-on", "5d")
    for stage in ("snapshot", "check", "train", "evaluate", "package", "register", "gate"):
        assert text.count(f"{stage} done") == 1
    assert "eta v3: succeeded" in text


def test_run_as_json_and_one_stage_of_it(trained, as_json):
    first = as_json(trained, "run")
    assert {"id", "state", "version", "stages"} <= set(first)
    assert [s["stage"] for s in first["stages"]][-1] == "gate" and all(s["seconds"] >= 0 for s in first["stages"])
    assert as_json(trained, "run", "gate", "--run", first["id"])["version"] == first["version"]


def test_run_of_a_gated_out_version_is_exit_code_1(trained, as_json):
    kit.edit(trained, ('fb.gate.metric("mae", max=10)', 'fb.gate.metric("mae", max=0.01)'))
    assert as_json(trained, "apply")["changes"]
    assert as_json(trained, "run", code=1)["state"] == "gated_out"


def test_promote_and_retire(trained, as_json, human):
    assert as_json(trained, "model", "promote", "v2")["lifecycle"] == "champion"
    assert "v1 is retired" in human(trained, "model", "retire", "v1")
    assert as_json(trained, "model", "retire", "v1")["lifecycle"] == "retired"


def test_switch_and_back(trained, as_json, human):
    assert as_json(trained, "model", "switch", "v2")["version"] == "v2"
    assert "eta v1 serves" in human(trained, "model", "switch")


def test_split_and_stop(trained, as_json, human):
    assert as_json(trained, "model", "split", "v2=20%", "--holdout", "5%") == {"v1": 0.8, "v2": 0.2}
    refused = human(trained, "rollout", "start", "v2", code=1)
    assert "end it first with: flyball model split --stop" in refused
    assert "v1 100.00%" in human(trained, "model", "split", "--stop")
    assert "VERSION=SHARE" in human(trained, "model", "split", code=2)


def test_flags(trained, as_json, human):
    with (trained / "definitions.py").open("a") as file:
        file.write('\nnew_map = fb.Flag("new_map", segments=[fb.Segment("staff", where={"staff": True}, to=True)])\n')
    assert "flag new_map is new" in human(trained, "apply")
    assert as_json(trained, "flag", "list")[0]["shares"] == {"true": 0.0}
    assert "true (segment staff)" in human(trained, "flag", "get", "new_map", "u", "--attribute", "staff=true")
    assert as_json(trained, "flag", "get", "new_map", "u")["value"] is False
    assert as_json(trained, "flag", "set", "new_map", "--share", "100%")["revision"] == 1
    assert "true (share)" in human(trained, "flag", "get", "new_map", "u")
    human(trained, "apply")  # the definition did not change, so what was set stays
    assert "is off" in human(trained, "flag", "set", "new_map", "--off")
    assert "false (off)" in human(trained, "flag", "get", "new_map", "u")
    assert "new_map" in human(trained, "flag", "get", "newmap", "u", code=2)


def test_rollout_start_dry_run_changes_nothing(trained, as_json):
    before = state_of(trained)
    as_json(trained, "rollout", "start", "v2", "--dry-run", "--per-day", "2000")
    assert state_of(trained) == before


@pytest.mark.parametrize("order", ["promote", "abort"])
def test_a_rollout_by_hand(trained, as_json, human, order):
    started = as_json(trained, "rollout", "start", "v2", "--skip-shadow")
    assert started["phase"] == "Pending"
    assert "pause" in human(trained, "rollout", "pause", "v2", "--reason", "lunch")
    assert as_json(trained, "rollout", "resume", "v2")["wanted"] == "run"
    assert as_json(trained, "loop", "once")["did"]
    if order == "promote":
        refused = human(trained, "rollout", "promote", "v2", code=1)
        assert "overrides the evidence" in refused and "--reason" in refused
    assert as_json(trained, "rollout", order, "v2", "--reason", "hot fix")["wanted"] == order
    assert human(trained, "loop", "once")
    assert human(trained, "loop", "once")
    ended = as_json(trained, "rollout", "watch", "v2", "--timeout", "1", code=0 if order == "promote" else 1)
    assert ended["phase"] == ("Promoted" if order == "promote" else "RolledBack")
    champion = next(v["version"] for v in as_json(trained, "model", "list") if v["lifecycle"] == "champion")
    assert champion == ("v2" if order == "promote" else "v1")
    record = as_json(trained, "rollout", "history", "v2")
    assert "hot fix" in str(record["events"])
    assert "OrderGiven" in human(trained, "rollout", "history", "v2")


def test_an_override_is_recorded_with_the_evidence_at_that_moment(trained):
    from flyball.project import Project

    with Project.open(trained) as project:
        project.rollout("eta", "v2").start(skip_shadow=True)
        project.loop.once()
        project.rollout("eta", "v2").promote("hot fix", actor="ann")
        entry = next(e for e in project.database.audit.list() if e.action == "rollout promote")
        assert (entry.actor, entry.details["reason"], entry.details["override"]) == ("ann", "hot fix", True)
        assert [rail["name"] for rail in entry.details["evidence"]["guardrails"]] == ["errors", "mae"]


def test_the_next_act_is_said_before_it_happens(trained, as_json, human):
    as_json(trained, "rollout", "start", "v2", "--skip-shadow")
    assert "next: the controller acts" in human(trained, "rollout", "explain", "v2")
    as_json(trained, "loop", "once")
    told = as_json(trained, "rollout", "explain", "v2")["next"]
    assert told["what"] == "promotion"
    assert "errors is shown to be safe" in told["sentence"] and "in 1 h" in told["sentence"]
    human(trained, "rollout", "pause", "v2")
    as_json(trained, "loop", "once")
    assert "until a person resumes" in human(trained, "rollout", "explain", "v2")


def test_replay_compares_a_version_with_what_was_answered(lived_template, as_json, human):
    folder = lived_template[0]
    arguments = ("serve", "replay", "--model", "eta", "--version", "v1", "--limit", "200")
    found = as_json(folder, *arguments)
    assert (found["rows"], found["agreement"], found["failed"]) == (200, 1.0, 0)
    assert "100.00%" in human(folder, *arguments)
    assert "no time" in human(folder, *arguments, "--since", "soon", code=2)


def test_a_model_from_a_file_is_imported_and_looked_over_for_a_faster_form(trained, as_json):
    import lightgbm

    with Project.open(trained) as project:
        data = project.data.snapshot("eta")
    fitted = lightgbm.LGBMRegressor(n_estimators=60, n_jobs=1, verbose=-1).fit(data.X, data.y)
    fitted.booster_.save_model(str(trained / "eta.txt"))
    made = as_json(trained, "model", "import", str(trained / "eta.txt"), code=1)  # straight lines need no trees
    assert (made["state"], made["cause"]) == ("gated_out", "import")
    told = as_json(trained, "model", "optimize", made["version"], "--dry-run")
    assert (told["version"], told["run"]) == (made["version"], None)


def test_freeze_and_thaw(trained, as_json, human):
    assert as_json(trained, "loop", "freeze", "--reason", "holidays") == {"frozen": "all models"}
    assert "holidays" in human(trained, "loop", "status")
    assert "thawed" in human(trained, "loop", "thaw")
    assert as_json(trained, "loop", "status")[0]["frozen"] is None


def test_keys_have_scopes(trained, as_json, human):
    options = ("--models", "eta", "--rate", "600/m", "--burst", "20", "--expires", "90d")
    as_json(trained, "key", "create", "--role", "team", "--name", "scoped", *options)
    (found,) = as_json(trained, "key", "list")
    assert (found["models"], found["rate"], found["burst"]) == (["eta"], 10.0, 20.0)
    assert found["expires"] > found["created"]
    assert "10/s" in human(trained, "key", "list")


def test_the_audit_trail_says_who_did_what(trained, as_json, human):
    as_json(trained, "key", "create", "--role", "team", "--name", "nightly")
    (found,) = as_json(trained, "audit", "list", "--subject", "nightly")
    assert (found["action"], found["details"]) == ("key created", {"role": "team"})
    assert "key created" in human(trained, "audit", "list")


def test_keys_are_made_listed_and_revoked(trained, as_json, human):
    made = as_json(trained, "key", "create", "--role", "team", "--name", "nightly")
    assert [(k["name"], k["role"]) for k in as_json(trained, "key", "list")] == [("nightly", "team")]
    assert made["key"] not in human(trained, "key", "list")
    as_json(trained, "key", "revoke", "nightly")
    assert "revoked" in human(trained, "key", "list")


def test_erase_says_what_it_would_remove_then_removes_and_proves_it(trained, as_json):
    def minutes() -> str:
        return as_json(trained, "feature", "get", "traffic", "-e", "zone=1")["minutes_24h"]["status"]

    as_json(trained, "feature", "erase", "-e", "zone=1", "--dry-run")
    assert minutes() == "PRESENT"
    as_json(trained, "feature", "erase", "-e", "zone=1", "--rewrite-sources")
    assert minutes() == "MISSING"


def test_config_set_keeps_comments(trained, as_json):
    assert as_json(trained, "config", "set", "server.port", "9001")["value"] == "9001"
    assert "port = 9001 # the gateway" in (trained / "flyball.toml").read_text()
    assert as_json(trained, "config", "get", "server.port")["value"] == 9001


def test_an_environment_overlays_settings(trained_template, as_json):
    assert as_json(trained_template, "config", "get", "server.port", "--env", "production")["value"] == 9000


def test_every_verb_is_proven_in_this_folder():
    text = " ".join(" ".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))).split())
    groups = [(name, verb) for name, entry in TREE.items() if isinstance(entry[1], dict) for verb in entry[1]]
    missing = [f"{g} {v}" for g, v in groups if f'"{g}", "{v}"' not in text and f'"{g}", order' not in text]
    assert missing == []
