"""Erasing where it is hard: remote stores, composite and long keys, event ids, frames, quarantine, dead letters, builds
at the same time, a node under load."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import project_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import servers_kit

from flyball.adapters.lmdb_compact import is_due
from flyball.adapters.upkeep import FolderUpkeep
from flyball.errors import ConflictError
from flyball.features.ingest import Batch
from flyball.project import Project
from flyball.project import erase as erasing
from flyball.records.types import DeadLetter

LONG = "c" * 900
CARTS = """\
import flyball as fb
import pyarrow as pa
from datetime import datetime, UTC

person = fb.Entity("person", keys={"user": int})
cart = fb.Entity("cart", keys={"user": int, "cart": str})
events = fb.PushSource("events", schema={"id": str, "at": "timestamp", "user": int, "cart": str, "price": float},
                       event_time="at", event_id="id")
carts = fb.FeatureView("carts", entity=cart, source=events, features=[fb.Feature("price", float)])
spent = fb.FeatureView("spent", entity=person, source=events, features=[fb.sum("spent_1d", of="price", window="1d")])
kept = fb.DataFrameSource("kept", pa.table({
    "user": [41, 42, 42], "at": pa.array([datetime(2020, 3, 10, h, tzinfo=UTC) for h in (1, 2, 3)]), "age": [30, 50, 51],
}), event_time="at")
ages = fb.FeatureView("ages", entity=person, source=kept, features=[fb.Feature("age", int)])
checked = fb.ParquetSource("checked", "data/checked.parquet", event_time="at",
                           checks=[fb.check.range("score", 0, 1, policy="quarantine")])
scores = fb.FeatureView("scores", entity=person, source=checked, features=[fb.Feature("score", float)])
"""


def carts_in(folder: Path, store: str) -> Project:
    """A project with pushed events of two users, a frame and a file with rows for quarantine."""
    url = {"redis": lambda: servers_kit.redis_server().url, "postgres": servers_kit.postgres_url}.get(store, str)()
    toml = kit.TOML + f'\n[online]\nstore = "{store}"\nnamespace = "{servers_kit.fresh_namespace()}"\nurl = "{url}"\n'
    kit.write_project(folder, toml=toml, definitions=CARTS)
    at = pa.array([kit.NOW - kit.HOUR * h for h in (5, 4, 3)])
    table = pa.table({"user": [41, 42, 42], "at": at, "score": [0.5, 7.0, 0.25]})
    pq.write_table(table, folder / "data" / "checked.parquet")
    project = Project.open(folder)
    project.apply()
    project.features.push("events", [event(f"e{u}{n}", u, c) for u in (41, 42) for n, c in enumerate(("a", LONG))])
    project.clock.set(kit.NOW + kit.HOUR)  # type: ignore[attr-defined]
    return project


def event(name: str, user: int, cart: str) -> dict[str, object]:
    return {"id": name, "at": kit.NOW.isoformat(), "user": user, "cart": cart, "price": 3.0}


def there(project: Project, user: int) -> list[str]:
    """Statuses of everything that is online about a user."""
    rows = [{"user": user, "cart": c} for c in ("a", LONG)]
    found = project.features.online(rows, ["carts", "ages", "scores"]).status()
    spent = project.features.online([{"user": user}], ["spent"]).to_dicts()[0]["spent_1d"]
    return [s.name for row in found for s in row.values()] + [str(spent)]


def removed(proof: erasing.Erasure) -> dict[str, int]:
    found: dict[str, int] = {}
    for place in proof.places:
        found[place.kind] = found.get(place.kind, 0) + place.removed
    return found


@pytest.mark.parametrize("store", ["lmdb", "redis", "postgres"])
def test_every_place_of_every_store_is_cleaned_and_others_stay(tmp_path, store):
    if store == "redis":
        pytest.importorskip("redis")
    with carts_in(tmp_path / "p", store) as project:
        other = there(project, 41)
        assert there(project, 42) == ["PRESENT"] * 6 + ["6.0"]
        dry = removed(project.features.erase({"user": 42}, dry_run=True))
        proof = project.features.erase({"user": 42})
        assert proof.clean
        assert removed(proof) == dry
        assert {k: v for k, v in dry.items() if v} == {
            "online store": 5, "ingest log": 2, "event ids": 2, "quarantine": 1, "frames": 2,
        }  # fmt: skip
        assert there(project, 42) == ["MISSING"] * 6 + ["0.0"]
        assert there(project, 41) == other
        for view in ("carts", "spent", "ages"):
            project.features.materialize(view, full=True)
        assert there(project, 42)[:2] == ["MISSING", "MISSING"]
        assert there(project, 41) == other
        table = project.features.quarantined("checked")
        assert table is None or table.num_rows == 0
        assert any("checked.parquet" in text for text in proof.remaining)


def test_one_cart_of_a_person_goes_and_the_others_stay(tmp_path):
    with carts_in(tmp_path / "p", "lmdb") as project:
        assert project.features.erase({"user": 42, "cart": LONG}).clean
        names = [s.name for row in project.features.online(
            [{"user": 42, "cart": c} for c in ("a", LONG)], ["carts"]).status() for s in row.values()]  # fmt: skip
        assert names == ["PRESENT", "MISSING"]
        assert project.features.online([{"user": 42}], ["spent"]).to_dicts()[0]["spent_1d"] == 3.0


def test_long_keys_are_found_after_a_kill_between_store_and_log(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    with carts_in(tmp_path / "p", "lmdb") as project, monkeypatch.context() as patched:
        patched.setattr("flyball.adapters.ingest_files.FileIngestLog.rewrite", kill)
        with pytest.raises(Killed):
            project.features.erase({"user": 42})
    with Project.open(tmp_path / "p") as project:
        proof = project.features.erase({"user": 42})
        assert proof.clean
        project.clock.set(kit.NOW + kit.HOUR)
        assert there(project, 42)[:6] == ["MISSING"] * 6
        assert not any("long keys" in text for text in proof.remaining)


def test_an_event_id_is_forgotten_with_its_event_and_no_other_is(tmp_path):
    with carts_in(tmp_path / "p", "lmdb") as project:
        proof = project.features.erase({"user": 42})
        assert any("delivers the subject's events again" in text for text in proof.remaining)
        again = project.features.push("events", [event("e420", 42, "a"), event("e410", 41, "a")])
        assert (again.accepted, again.duplicates) == (1, 1)


def test_dead_letters_that_name_the_subject_go(tmp_path):
    with carts_in(tmp_path / "p", "lmdb") as project:
        letters = [DeadLetter("events", "s", "0", str(n), 1, b, "no row") for n, b in
                   enumerate([b'{"user": 42, "price": "x"}', b'{"user": 421}', b"\xff\x00 42 torn"])]  # fmt: skip
        project.features._writer.push_many([Batch("events", [], dead=tuple(letters))])
        assert len(project.features._writer.dead("events")) == 3
        assert project.features.erase({"user": 42}).clean
        assert [d["payload"] for d in project.features._writer.dead("events")] == [b'{"user": 421}']


def test_an_erasure_waits_for_a_build_and_keeps_builds_away(tmp_path, monkeypatch):
    with carts_in(tmp_path / "p", "lmdb") as project:
        upkeep = FolderUpkeep(project.layout.state)
        view = project.applied.view("spent").spec
        spilled = upkeep.spill(view)
        spilled.mkdir(parents=True)
        (spilled / "part-0.arrow").write_bytes(b"42")
        with monkeypatch.context() as patched, upkeep.claim(view):
            patched.setattr(erasing, "_PATIENCE", 0.2)
            with pytest.raises(ConflictError, match="'spent' is being materialized"):
                project.features.erase({"user": 42})
            assert there(project, 42)[-1] == "6.0"
        tried: list[str] = []

        def build(self):
            with pytest.raises(ConflictError):
                project.features.materialize("spent", full=True)
            tried.append("spent")
            return ()

        monkeypatch.setattr(erasing._Work, "_quarantine", build)
        project.features.erase({"user": 42})
        assert tried
        assert not spilled.exists()
        assert there(project, 42)[-1] == "0.0"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(claim, seconds=60.0):
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "the claim did not come true in time"
        time.sleep(0.02)


def answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/v2/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def started_again(command: list[str], base: str, folder: Path) -> str:
    """Start the node until it answers, end it; return its log when it failed."""
    log = folder / "again.log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as node:
        try:
            until(lambda: answers(base) or node.poll() is not None, 90)
            return "" if node.poll() is None else log.read_text()
        finally:
            node.terminate()
            node.wait(30)


@pytest.mark.slow
def test_a_node_erases_while_others_push_and_ask(trained_template, tmp_path):
    """Other zones' rows pour in and predictions are asked; the subject goes from every process's view of things."""
    folder, ports = kit.copy_of(trained_template, tmp_path / "p"), [free_port(), free_port()]
    toml = kit.TOML.replace("18080", str(ports[0])).replace("18081", str(ports[1]))
    (folder / "flyball.toml").write_text(toml)
    base, control = (f"http://127.0.0.1:{port}" for port in ports)
    begun = kit.NOW - kit.HOUR
    ending = threading.Event()
    failures: list[str] = []
    sent = [0]

    def trip(zone: int) -> dict[str, object]:
        ended = begun + kit.HOUR / 3
        return {"zone": zone, "distance": 2.0, "pickup_at": begun.isoformat(), "dropoff_at": ended.isoformat()}

    def load() -> None:
        with httpx.Client(base_url=base, timeout=20) as http:
            while not ending.is_set():
                for path, body in (("/v1/sources/trips/events", [trip(z) for z in (1, 2, 4)]),
                                   ("/predict", {"model": "eta", "rows": [{"zone": 2, "distance": 2.0}]})):  # fmt: skip
                    answer = http.post(path, json=body)
                    if answer.status_code != 200:
                        failures.append(answer.text)
                sent[0] += 3

    command = [sys.executable, "-c", "from flyball.cli import main; main()", "up", "-p", str(folder)]
    with (tmp_path / "up.log").open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as node:
        try:
            until(lambda: answers(base) or node.poll() is not None, 90)
            assert node.poll() is None, (tmp_path / "up.log").read_text()
            assert httpx.post(f"{base}/v1/sources/trips/events", json=[trip(3)] * 5).json()["accepted"] == 5
            httpx.post(f"{base}/predict", json={"model": "eta", "rows": [{"zone": 3, "distance": 2.0}]})
            asked = {"names": ["traffic"], "rows": [{"zone": 3}, {"zone": 2}]}
            before = httpx.post(f"{control}/v1/features/online", json=asked, timeout=30).json()
            assert before["statuses"][0] == ["PRESENT", "PRESENT"], before
            past = {"names": ["traffic"], "requests": [{"zone": 3, "asked": kit.NOW.isoformat()}], "at": "asked"}
            assert httpx.post(f"{control}/v1/features/history", json=past, timeout=60).json()["values"][0][0] > 0
            thread = threading.Thread(target=load)
            thread.start()
            until(lambda: sent[0] > 30)
            with Project.open(folder) as project:
                proof = project.features.erase({"zone": 3}, rewrite_sources=True)
            until(lambda: sent[0] > 90)
            ending.set()
            thread.join()
            assert failures == []
            assert proof.clean, proof
            assert any("free pages" in text for text in proof.remaining)  # the node has the store open
            assert is_due(folder / ".flyball" / "online")
            assert {p.kind for p in proof.places if p.removed} >= {
                "ingest log", "online store", "prediction log", "training sets", "source files"}  # fmt: skip
            after = httpx.post(f"{control}/v1/features/online", json=asked, timeout=30).json()
            never = {"names": ["traffic"], "rows": [{"zone": 999}]}
            gone = httpx.post(f"{control}/v1/features/online", json=never, timeout=30).json()
            assert after["statuses"][0] == gone["statuses"][0], after
            assert after["values"][0][0] in {0, None}
            assert after["values"][1][0] > before["values"][1][0]
            found = httpx.post(f"{control}/v1/features/history", json=past, timeout=60).json()
            assert found["values"][0][0] in {0, None}  # the control process forgot what it held
        finally:
            ending.set()
            node.terminate()
            node.wait(30)
    assert started_again(command, base, tmp_path) == ""
    assert not is_due(folder / ".flyball" / "online")
    with Project.open(folder) as project:  # restarted: nothing comes back from the log
        project.features.materialize("traffic", full=True)
        assert project.features.erase({"zone": 3}).removed == 0
    shutil.rmtree(folder)
