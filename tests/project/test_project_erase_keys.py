"""Erasing by keys of every type, in whatever form they were sent: the log, history, logged inputs, files."""

from __future__ import annotations

import base64
import datetime as dt
import subprocess
import sys
from pathlib import Path

import numpy as np
import project_kit as kit
import pyarrow as pa
import pytest

import flyball as fb
from flyball.adapters.lmdb_compact import is_due
from flyball.features.erase import is_value, mask, raw_mask
from flyball.project import Project

DEFINITIONS = """\
import datetime as dt
import flyball as fb

one = fb.Entity("one", keys={{"k": {python}}})
events = fb.PushSource("events", schema={{"k": {schema}, "x": float}}, event_time="at", timezone="Europe/Berlin")
values = fb.FeatureView("values", entity=one, source=events, features=[fb.Feature("x", float)])
"""
NOON = dt.datetime(2020, 3, 1, 12, tzinfo=dt.UTC)
OTHER = NOON + dt.timedelta(days=1)
KEYS = {
    "int": (42, 43, [42], [43]),
    "str": ("42", "43", ["42"], ["43"]),
    "bool": (True, False, [True], [False]),
    "bytes": (b"zebra", b"horse", [base64.b64encode(b"zebra").decode(), b"zebra"], [base64.b64encode(b"horse").decode()]),
    "dt.date": (dt.date(1999, 1, 2), dt.date(1999, 1, 3), ["1999-01-02", dt.date(1999, 1, 2)], ["1999-01-03"]),
    "dt.datetime": (
        NOON, OTHER,
        ["2020-03-01T12:00:00Z", "2020-03-01T13:00:00", "2020-03-01T14:00:00+02:00", NOON, int(NOON.timestamp() * 1e6)],
        ["2020-03-01T12:00:00", OTHER.isoformat()],
    ),
}  # fmt: skip


def project_of(folder: Path, python: str) -> Project:
    schema = "'timestamp'" if python == "dt.datetime" else python
    kit.write_project(folder, toml=kit.TOML, definitions=DEFINITIONS.format(python=python, schema=schema))
    project = Project.open(folder)
    project.apply()
    return project


def history(project: Project, keys: list[object]) -> list[object]:
    kind = None if not isinstance(keys[0], dt.datetime) else pa.timestamp("us", "UTC")
    asked = pa.table({"k": pa.array(keys, kind), "T": pa.array([project.clock.now()] * len(keys))})
    return project.features.history(asked, ["values"], at="T").to_arrow().column("x").to_pylist()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("python", KEYS)
def test_a_key_is_found_in_the_log_however_it_was_pushed(tmp_path, python, together):
    mine, other, sent, others = KEYS[python]
    with project_of(tmp_path / "p", python) as project:
        at = (kit.NOW - kit.HOUR).isoformat()
        rows = [{"k": value, "x": float(i), "at": at} for i, value in enumerate([*sent, *others])]
        for some in [rows] if together else [[row] for row in rows]:
            project.features.push("events", some)
        project.clock.set(kit.NOW + kit.HOUR)
        before = history(project, [mine, other])
        assert None not in before
        assert project.features.erase({"k": mine}, dry_run=True).places[0].removed == len(sent)
        proof = project.features.erase({"k": mine})
        gone = {place.kind: place.removed for place in proof.places}
        assert (gone["ingest log"], gone["online store"]) == (len(sent), 1)
        assert proof.clean
        assert history(project, [mine, other]) == [None, before[1]]
        project.features.materialize("values", full=True)
        found = project.features.online([{"k": mine}, {"k": other}], ["values"]).to_dicts()
        assert [row["x"] for row in found] == [None, before[1]]


@pytest.mark.parametrize("python", KEYS)
def test_a_logged_input_is_the_value_in_each_form_that_a_request_may_have(python):
    mine, other, sent, _ = KEYS[python]
    asked = [value for value in sent if value != "2020-03-01T13:00:00"]  # requests are not in a source's timezone
    assert all(is_value(value, mine) and not is_value(value, other) for value in asked)
    assert not is_value(None, mine)
    assert not is_value("nothing of the kind", mine)
    assert not is_value("42", 42)
    assert not is_value(42, "42")


def test_raw_times_of_files_are_in_the_timezone_of_their_source():
    source = fb.ParquetSource("trips", "trips.parquet", event_time="k", timezone="Europe/Berlin").spec
    local = pa.array([dt.datetime(2020, 3, 1, h) for h in (12, 13)], pa.timestamp("ns"))
    text = pa.array(["2020-03-01 12:00:00", "2020-03-01 13:00:00"])
    utc = pa.array([NOON - dt.timedelta(hours=1), NOON])
    for column in (local, text, utc, text.dictionary_encode(), utc.cast(pa.int64())):
        assert raw_mask(source, pa.table({"k": column}), {"k": NOON}).tolist() == [False, True]


def test_texts_of_a_csv_file_are_the_values_that_they_spell():
    rows = pa.table({"n": ["41", "42", ""], "b": ["true", "false", ""], "d": ["1999-01-02", "1999-01-03", ""]})
    assert mask(rows, {"n": 42}).tolist() == [False, True, False]
    assert mask(rows, {"b": True}).tolist() == [True, False, False]
    assert mask(rows, {"d": dt.date(1999, 1, 3)}).tolist() == [False, True, False]


def test_a_value_of_another_type_is_another_subject():
    assert not mask(pa.table({"k": [42.5, 43.0]}), {"k": 42}).any()
    assert not mask(pa.table({"k": [True, False]}), {"k": 1}).any()
    assert not mask(pa.table({"k": [42, 43]}), {"k": "42"}).any()
    assert not mask(pa.table({"k": [[1], [2]]}), {"k": NOON}).any()
    assert not mask(pa.table({"k": pa.array([2**64 - 1], pa.uint64())}), {"k": NOON}).any()


def test_a_derived_key_is_found_in_rows_that_the_source_leaves_out_too():
    source = fb.PushSource(
        "e", schema={"a": int, "x": float}, event_time="at", derive={"k": "a + 1"}, where="x > 0"
    ).spec
    raw = pa.table({"a": [1, 2, 1], "x": [1.0, 1.0, -1.0], "at": [NOON.isoformat()] * 3})
    assert np.flatnonzero(raw_mask(source, raw, {"k": 2})).tolist() == [0, 2]


HOLDER = """
import sys
from pathlib import Path
from flyball.adapters.lmdb import LMDBStore
store = LMDBStore(Path(sys.argv[1]), readonly=True)
print("open", flush=True)
sys.stdin.readline()
store.close()
"""


def files_with(folder: Path, word: bytes) -> list[str]:
    return [p.name for p in sorted(folder.rglob("*")) if p.is_file() and word in p.read_bytes()]


def zebras(folder: Path) -> Project:
    project = project_of(folder, "str")
    at = (kit.NOW - kit.HOUR).isoformat()
    for i in range(30):
        name = "zebra-subject" if i % 3 == 0 else f"other-{i}"
        project.features.push("events", [{"k": name, "x": float(i), "at": at}])
    project.features.materialize("values")
    return project


def test_no_file_holds_the_subject_afterwards_not_even_free_pages(tmp_path):
    with zebras(tmp_path / "p") as project:
        assert "data.mdb" in files_with(tmp_path, b"zebra-subject")
        proof = project.features.erase({"k": "zebra-subject"})
        assert proof.clean
        assert not any("free pages" in text for text in proof.remaining)
        assert files_with(tmp_path, b"zebra-subject") == []
        found = project.features.online([{"k": "zebra-subject"}, {"k": "other-28"}], ["values"]).to_dicts()
        assert [row["x"] for row in found] == [None, 28.0]
        at = kit.NOW.isoformat()
        project.features.push("events", [{"k": "other-1", "x": 7.0, "at": at}])  # the store is writable as before
    assert files_with(tmp_path, b"zebra-subject") == []


def test_the_proof_says_that_free_pages_remain_while_another_process_reads(tmp_path):
    online = tmp_path / "p" / ".flyball" / "online"
    with zebras(tmp_path / "p") as project:
        reader = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(online)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout.readline() == "open\n"
        proof = project.features.erase({"k": "zebra-subject"})
        assert any("free pages" in text and "flyball down, then flyball up" in text for text in proof.remaining)
        assert is_due(online)
        reader.communicate("\n", timeout=30)
    with Project.open(tmp_path / "p") as project:
        assert project.features.online([{"k": "zebra-subject"}], ["values"]).to_dicts()[0]["x"] is None
        assert not is_due(online)
        assert files_with(tmp_path, b"zebra-subject") == []
        again = project.features.erase({"k": "zebra-subject"})
        assert not any("free pages" in text for text in again.remaining)
