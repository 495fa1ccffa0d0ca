"""Erasing a subject: gone online, in logs and training sets, the proof is honest, others are left alone."""

from __future__ import annotations

import json

import numpy as np
import project_kit as kit
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flyball.adapters.erase_files import count_rows, rewrite_file
from flyball.cli.app import run
from flyball.errors import InputError, UnknownName
from flyball.features.erase import mask
from flyball.project import Project
from flyball.project import erase as erasing
from flyball.records.log import follow
from flyball.records.types import Erased, Outcome, Prediction


@pytest.fixture(scope="module")
def asked_template(trained_template, tmp_path_factory):
    """A trained project with pushed rows of all zones, predictions and outcomes."""
    folder = kit.copy_of(trained_template, tmp_path_factory.mktemp("asked") / "small")
    with Project.open(folder) as project:
        ask = kit.caller(project)
        begun = project.clock.now()
        project.clock.set(begun + kit.HOUR)
        project.features.push(
            "trips",
            [
                {
                    "zone": zone,
                    "distance": 2.0,
                    "pickup_at": begun.isoformat(),
                    "dropoff_at": (begun + kit.HOUR / 3).isoformat(),
                }
                for zone in (1, 2, 3, 3, 4, 5, 6)
            ],
        )
        ask.ask(60, per_request=2)
        end = project.clock.now()
        ask.http.close()
    assert run(["config", "set", "clock.start", end.isoformat(), "-p", str(folder)]) == 0
    return folder


@pytest.fixture
def asked(asked_template, tmp_path):
    return kit.copy_of(asked_template, tmp_path / "asked")


def records(folder):
    return [r for b in follow(folder / ".flyball" / "log", {}) for r in b.records]


def by_kind(proof):
    found: dict[str, int] = {}
    for place in proof.places:
        found[place.kind] = found.get(place.kind, 0) + place.removed
    return found


def test_a_subject_goes_from_everything_that_flyball_keeps(asked):
    with Project.open(asked) as project:
        values = project.features.online([{"zone": 3}], ["traffic"]).status()[0]
        assert {s.name for s in values.values()} == {"PRESENT"}
        proof = project.features.erase({"zone": 3})
        assert proof.clean
        assert by_kind(proof).keys() == {"training sets", "prediction log", "ingest log", "online store"}
        assert min(by_kind(proof).values()) > 0, by_kind(proof)
        after = project.features.online([{"zone": 3}, {"zone": 2}], ["traffic"]).status()
        assert {s.name for s in after[0].values()} == {"MISSING"}
        assert {s.name for s in after[1].values()} == {"PRESENT"}
    left = records(asked)
    assert {r.inputs["zone"] for r in left if isinstance(r, Prediction)} == {1, 2, 4, 5, 6}
    ids = {r.id for r in left if isinstance(r, Prediction)}
    assert {r.id for r in left if isinstance(r, Outcome)} <= ids
    assert any(isinstance(r, Erased) for r in left)


def test_a_dry_run_counts_the_same_and_changes_nothing(asked):
    with Project.open(asked) as project:
        before = [
            len(records(asked)),
            project.data.versions("eta"),
            project.features.count_online(project.features.views()[0]),
        ]
        dry = project.features.erase({"zone": 3}, dry_run=True)
        after = [
            len(records(asked)),
            project.data.versions("eta"),
            project.features.count_online(project.features.views()[0]),
        ]
        assert before == after
        assert by_kind(dry) == by_kind(project.features.erase({"zone": 3}))


def test_a_training_set_is_superseded_and_its_rows_are_gone(asked):
    with Project.open(asked) as project:
        old = project.data.versions("eta")
        rows = pq.read_table(asked / "data" / "trips.parquet")
        proof = project.features.erase({"zone": 3})
        now = project.data.versions("eta")
        for manifest in now[: len(old)]:
            new = project.data.get(manifest.superseded_by)
            assert new.supersedes == manifest.digest
            assert not (asked / ".flyball" / "datasets" / f"{manifest.digest}.parquet").exists()
            kept = pq.read_table(asked / ".flyball" / "datasets" / f"{new.digest}.parquet")
            mine = rows.filter(pc.equal(rows["zone"], 3))["dropoff_at"].cast(pa.int64()).to_numpy()
            assert not np.isin(kept["__event"].to_numpy(), mine).any()
            assert (
                new.rows
                == kept.num_rows
                == manifest.rows - next(p.removed for p in proof.places if p.was == manifest.digest)
            )
        from flyball.datasets.files import open_dataset

        assert open_dataset(now[0], project.layout).table.num_rows == project.data.get(now[0].superseded_by).rows
        assert any("eta v1 learned from" in text for text in proof.remaining)


def test_your_own_files_remain_and_the_proof_says_so(asked):
    with Project.open(asked) as project:
        (text,) = [t for t in project.features.erase({"zone": 3}).remaining if "data/trips.parquet" in t]
    rows = pq.read_table(asked / "data" / "trips.parquet")
    assert f"{pc.sum(pc.equal(rows['zone'], 3)).as_py()} rows" in text
    assert "--rewrite-sources" in text


def test_your_own_files_are_written_again_when_you_say_so(asked):
    path = asked / "data" / "trips.parquet"
    before = pq.read_table(path)
    with Project.open(asked) as project:
        proof = project.features.erase({"zone": 3}, rewrite_sources=True)
        assert proof.clean
        assert not [t for t in proof.remaining if "trips.parquet" in t]
        assert proof.rebuilt == ("traffic",)
        assert pq.read_table(path).equals(before.filter(pc.not_equal(before["zone"], 3)))
        project.features.materialize("traffic", full=True)
        assert project.features.count_online(project.features.views()[0]) == 5


def test_erasing_again_finds_nothing(asked):
    with Project.open(asked) as project:
        project.features.erase({"zone": 3}, rewrite_sources=True)
        again = project.features.erase({"zone": 3}, rewrite_sources=True)
        assert again.removed == 0
        assert again.clean


@pytest.mark.parametrize("step", ["_predictions", "_stored", "_quarantine", "_files"])
def test_a_killed_erasure_goes_on_and_the_proof_counts_both_parts(asked, monkeypatch, step):
    class Killed(BaseException):
        pass

    def kill(self):
        raise Killed

    with Project.open(asked) as project:
        whole = by_kind(project.features.erase({"zone": 3}, dry_run=True))
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(erasing._Work, step, kill)
            project.features.erase({"zone": 3})
    with Project.open(asked) as project:
        proof = project.features.erase({"zone": 3})
        assert proof.clean
        assert by_kind(proof) == whole
        assert [e["state"] for e in project.database.erasures.list()] == ["done"]


def test_proof_and_audit_trail_do_not_name_the_subject(asked):
    with Project.open(asked) as project:
        proof = project.features.erase({"zone": 3})
        entry = project.database.audit.list()[-1]
        (kept,) = project.database.erasures.list()
        assert entry.action == "erased"
        assert entry.subject == proof.subject[:16]
        assert kept["subject"] == proof.subject
        assert "zone=3" not in json.dumps([entry.details, kept], default=str)
        assert project.features.erase({"zone": 4}, dry_run=True).subject != proof.subject


@pytest.mark.parametrize(
    ("subject", "error", "said"),
    [
        ({"zon": 3}, UnknownName, "zone"),
        ({"zone": "three"}, InputError, "int64"),
        ({"zone": None}, InputError, "null"),
        ({}, InputError, "nobody"),
    ],
)
def test_nobody_is_erased_by_a_wrong_name_or_type(trained_template, subject, error, said):
    with Project.open(trained_template) as project, pytest.raises(error, match=said):
        project.features.erase(subject)


def test_types_count():
    table = pa.table({"a": [1, 2], "s": ["1", "x"], "b": [True, False], "f": [1.0, 2.0]})
    assert mask(table, {"a": 1}).tolist() == [True, False]
    assert mask(table, {"s": "1"}).tolist() == [True, False]
    assert mask(table, {"a": "1"}).tolist() == [False, False]
    assert mask(table, {"b": 1}).tolist() == [False, False]
    assert mask(table, {"a": True}).tolist() == [False, False]
    assert mask(table, {"a": 1, "s": "x"}).tolist() == [False, False]
    assert mask(table, {"missing": 1}).tolist() == [False, False]


def test_a_csv_keeps_every_other_letter(tmp_path):
    path = tmp_path / "t.csv"
    text = 'user;note;x\r\n42;"two\nlines; 42";1\r\n7;"42";  2\r\n42;last;3'
    path.write_bytes(text.encode())
    path.chmod(0o640)

    def mine(table):
        return mask(table, {"user": 42})

    assert count_rows(path, mine) == 2
    assert rewrite_file(path, mine) == 2
    assert path.read_bytes() == b'user;note;x\r\n7;"42";  2\r\n'
    assert path.stat().st_mode & 0o777 == 0o640
    assert rewrite_file(path, mine) == 0


def test_the_command_line_prints_the_proof(asked, capsys):
    assert run(["feature", "erase", "-e", "zone=3", "--dry-run", "-p", str(asked)]) == 0
    out, err = capsys.readouterr()
    assert "would go" in out
    assert "nothing was erased" in err
    assert run(["feature", "erase", "--entity", "zone=3", "--json", "-p", str(asked)]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert {p["left"] for p in proof["places"]} == {0}
    assert run(["feature", "erase", "-e", "zone=3", "-p", str(asked)]) == 0
    assert "a second search found nothing" in capsys.readouterr().out
    assert run(["feature", "erase", "-e", "zone", "-p", str(asked)]) == 2
