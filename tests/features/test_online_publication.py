"""What online saw and what history says, while rows stream in: concurrent threads, hot keys, every read logged with T."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from online_world import MINUTE, same, views

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import SystemClock
from flyball.features.ingest import Ingest
from flyball.features.lookup import lookup
from flyball.features.offline import history
from flyball.features.publication import Lead, LocalGate
from flyball.features.spec import Status

ZONES = (1, 2, 3)


def trip(rng: random.Random, now: int) -> dict[str, Any]:
    event = now - rng.choice([0, 0, 0, 1, 5, 60, 3000]) * 1_000_000
    return {"at": event, "made": rng.choice([None, event]), "zone": rng.choice(ZONES), "v": rng.random() * 9,
            "n": rng.randrange(9), "word": "a", "flag": True}  # fmt: skip


class SlowStore(LMDBStore):
    """Writes that sometimes take far longer than any lead."""

    rng = random.Random(5)

    def write(self, **given: Any) -> int:
        if self.rng.random() < 0.15:
            time.sleep(0.03)
        done = super().write(**given)
        if self.rng.random() < 0.15:
            time.sleep(0.03)
        return done


def served(ingest: Ingest, store: LMDBStore, specs: Any, seconds: float) -> list[tuple[int, list[Any], list[Any]]]:
    """Push from one thread and read hot keys from two; return every answer with its T."""
    answers: list[tuple[int, list[Any], list[Any]]] = []
    ending = threading.Event()
    failures: list[BaseException] = []
    gate = ingest.gate
    assert isinstance(gate, LocalGate)

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def push() -> None:
        rng = random.Random(1)
        while not ending.is_set():
            now = time.time_ns() // 1000
            ingest.push_many([("trips", [trip(rng, now) for _ in range(rng.randrange(1, 6))], None)])

    def read() -> None:
        while not ending.is_set():
            at = gate.limit(time.time_ns() // 1000)
            found = lookup(store, [{"zone": z} for z in ZONES], specs, None, at)
            answers.append((at, found.to_dicts(), found.status()))
            time.sleep(0.0005)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (push, read, read)]
    for thread in threads:
        thread.start()
    ending.wait(seconds)
    ending.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return answers


def mismatches(folder: Path, specs: Any, answers: list[tuple[int, list[Any], list[Any]]]) -> list[Any]:
    """Recompute what was served from the log, as known, and return what differs."""
    times = [at for at, _, _ in answers for _ in ZONES]
    requests = pa.table({
        "zone": pa.array(list(ZONES) * len(answers), pa.int64()), "T": pa.array(times).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip
    table = history(DuckDBEngine(folder, FileIngestLog(folder / "log")), requests, specs, None, at="T")
    rows = table.to_arrow().select(list(table.names)).to_pylist()
    statuses = {name: table.status(name).tolist() for name in table.names}
    wrong = []
    for k, (at, found, status) in enumerate(answers):
        for z in range(len(ZONES)):
            other = rows[len(ZONES) * k + z]
            for name, value in found[z].items():
                theirs = Status(statuses[name][len(ZONES) * k + z])
                if status[z][name] != theirs or not same(name, value, other[name], other):
                    wrong.append((at, ZONES[z], name, value, other[name], status[z][name], theirs))
    return wrong


@pytest.mark.parametrize("store", [LMDBStore, SlowStore])
def test_history_says_what_online_answered_while_rows_were_published(tmp_path: Path, store: type[LMDBStore]) -> None:
    specs = views()
    online = store(tmp_path / "online", 1_000_000)
    ingest = Ingest(online, FileIngestLog(tmp_path / "log"), specs, clock=SystemClock(), root=tmp_path)
    answers = served(ingest, online, specs, 2.5)
    ingest.close()
    online.close()
    assert len(answers) > 100
    assert len({str(found) for _, found, _ in answers}) > 20
    assert mismatches(tmp_path, specs, answers) == []


def test_without_the_gate_the_same_run_would_not_agree(tmp_path: Path) -> None:
    """The proof that the test above can fail: the same slow store, readers that do not ask the gate."""
    specs = views()
    online = SlowStore(tmp_path / "online", 1_000_000)
    gate = LocalGate()
    gate.hold = lambda at: None  # type: ignore[method-assign]
    ingest = Ingest(online, FileIngestLog(tmp_path / "log"), specs, clock=SystemClock(), root=tmp_path, gate=gate)
    answers = served(ingest, online, specs, 1.5)
    ingest.close()
    online.close()
    assert mismatches(tmp_path, specs, answers)


def test_a_push_returns_when_its_rows_can_be_read(tmp_path: Path) -> None:
    specs = views()
    store = LMDBStore(tmp_path / "online", 1_000_000)
    ingest = Ingest(store, FileIngestLog(tmp_path / "log"), specs, clock=SystemClock(), root=tmp_path)
    rng = random.Random(3)
    for k in range(1, 20):
        now = time.time_ns() // 1000
        row = trip(rng, now) | {"zone": 1, "at": now - MINUTE, "made": None}
        ingest.push("trips", [row])
        found = lookup(store, [{"zone": 1}], specs, ["windows:n_1h"], time.time_ns() // 1000)
        assert found.to_dicts() == [{"n_1h": k}]
    ingest.close()
    store.close()


class Impatient(LocalGate):
    patience = 0


def test_a_publication_later_than_planned_is_corrected_in_the_log(tmp_path: Path) -> None:
    specs = views()
    store = SlowStore(tmp_path / "online", 1_000_000)
    store.rng = random.Random(1)
    store.rng.random = lambda: 0.0  # type: ignore[method-assign]
    log = FileIngestLog(tmp_path / "log")
    ingest = Ingest(store, log, specs, clock=SystemClock(), root=tmp_path, gate=Impatient())
    before = time.time_ns() // 1000
    rng = random.Random(2)
    (result,) = ingest.push_many([("trips", [trip(rng, before)], None)])
    assert result.published >= before + 60_000  # type: ignore[union-attr]
    assert log.read("trips")["__arrival"].to_pylist() == [result.published]  # type: ignore[union-attr]
    assert log.revision("trips") == 1
    ingest.close()
    again = FileIngestLog(tmp_path / "log")
    again.compact()
    assert again.read("trips")["__arrival"].to_pylist() == [result.published]  # type: ignore[union-attr]
    again.close()
    store.close()


def test_the_lead_follows_recent_commits_of_that_size_and_is_bounded() -> None:
    lead = Lead(0.99)
    assert 0 < lead.of(10) < 250_000
    for k in range(100):
        lead.saw(10, 1000 + k)
        lead.saw(5000, 10_000_000)
    assert lead.of(10) == 1000 + 98 + 200
    assert lead.of(5000) == 250_000


def test_readers_are_held_until_every_view_has_what_was_logged_and_not_written(tmp_path: Path) -> None:
    held: list[bool] = []

    class Watched(LMDBStore):
        def write(self, **given: Any) -> int:
            held.append(gate.limit(1 << 62) < 1 << 62)
            return super().write(**given)

    specs, gate = views(), LocalGate()
    log = FileIngestLog(tmp_path / "log")
    store = Watched(tmp_path / "online", 1_000_000)
    ingest = Ingest(store, log, specs, clock=SystemClock(), root=tmp_path, gate=gate)
    now = time.time_ns() // 1000
    log.append("trips", [trip(random.Random(1), now)], arrival=now)  # and killed before the store had it
    ingest.close()
    held.clear()
    ingest = Ingest(store, log, specs, clock=SystemClock(), root=tmp_path, gate=gate)
    assert held == [True, True]
    assert gate.limit(now) == now
    ingest.close()
    store.close()
