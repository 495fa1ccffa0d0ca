"""The ingest process over its socket with a real log and store: events, back pressure, duplicates."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.adapters.local.ipc import Client, Server
from flyball.adapters.local.views import write_views
from flyball.clock import SystemClock
from flyball.errors import Busy
from flyball.features.ingest import Ingest
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec
from flyball.layout import Layout
from flyball.node.ingest import IngestProcess

SOURCE = SourceSpec("taps", "", "at", None, "UTC", (), None, 0, kind="push", event_id="id",
                    schema=(ColumnSpec("at", "timestamp"), ColumnSpec("id", "string"), ColumnSpec("user", "int64")))  # fmt: skip
VIEW = ViewSpec("taps_1d", EntitySpec("user", (ColumnSpec("user", "int64"),)), SOURCE, None,
                (FeatureSpec("n", "int64", None, Stat.COUNT, 86_400_000_000, 1_800_000_000),))  # fmt: skip


def tap(name: str, **values: Any) -> dict[str, Any]:
    return {"at": "2024-03-01T10:00:00Z", "id": name, "user": 1} | values


def play(
    folder: Path, story: Callable[[IngestProcess, Client], Awaitable[Any]], *, view: ViewSpec = VIEW, store: Any = None
) -> Any:
    layout = Layout(folder, folder)
    write_views(layout, [view])

    async def main() -> Any:
        nonlocal store
        store = store or LMDBStore(folder / "online")
        process = IngestProcess(
            layout, engine=object,
            open_ingest=lambda views: Ingest(store, FileIngestLog(folder / "log"), views, clock=SystemClock()),
        )  # fmt: skip
        await process.start()
        server = Server(layout.socket("ingest"), process.handlers())
        await server.start()
        client = Client(layout.socket("ingest"))
        try:
            return await story(process, client)
        finally:
            client.close()
            await server.close()
            await process.close()
            store.close()

    return asyncio.run(main())


def test_events_say_which_rows_are_wrong_and_take_none(tmp_path: Path) -> None:
    async def story(process: IngestProcess, client: Client) -> Any:
        wrong = await client.call("events", ["taps", [tap("a"), tap("b", user="x"), tap("c"), {"id": "d"}, tap("")]])
        right = await client.call("events", ["taps", [tap("a"), tap("c")]])
        return wrong, right

    wrong, right = play(tmp_path, story)
    assert [place for place, _ in wrong["errors"]] == [1, 3, 4]
    assert "no int64" in wrong["errors"][0][1]
    assert (right["accepted"], right["sequence"], right["duplicates"]) == (2, 1, 0)


def test_a_request_sent_again_after_its_answer_was_lost_counts_once(tmp_path: Path) -> None:
    rows = [tap(f"e{k}") for k in range(50)]

    async def story(process: IngestProcess, client: Client) -> Any:
        calls = [asyncio.create_task(client.call("events", ["taps", rows])) for _ in range(4)]
        return await asyncio.gather(*calls), process.measures.render()

    answers, metrics = play(tmp_path, story)
    assert sorted(a["accepted"] for a in answers) == [0, 0, 0, 50]
    assert sum(a["duplicates"] for a in answers) == 150
    assert FileIngestLog(tmp_path / "log").last() == 50
    assert 'flyball_ingest_duplicates_total{source="taps"} 150' in metrics


def test_too_much_waiting_is_refused_and_what_was_taken_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyball.node.commits._MOST_ROWS", 100)

    async def story(process: IngestProcess, client: Client) -> Any:
        asked = [["taps", [tap(f"{k}-{i}") for i in range(40)]] for k in range(12)]
        return await asyncio.gather(*(client.call("events", body) for body in asked), return_exceptions=True)

    answers = play(tmp_path, story)
    busy = [a for a in answers if isinstance(a, Busy)]
    taken = [a for a in answers if isinstance(a, dict)]
    assert busy
    assert "send these later" in str(busy[0])
    assert len(busy) + len(taken) == 12
    assert FileIngestLog(tmp_path / "log").last() == 40 * len(taken)


def test_dead_letters_are_none_where_nothing_streams(tmp_path: Path) -> None:
    async def story(process: IngestProcess, client: Client) -> Any:
        return await client.call("dead", None), (await client.call("info"))["streams"]

    assert play(tmp_path, story) == ([], {})


class SlowReads:
    """A store that is asked for checkpoints by a slow line, but for its writer."""

    def __init__(self, store: LMDBStore) -> None:
        self._store = store
        self.open, self.asked = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_many(self, keys: Any) -> Any:
        if threading.current_thread().name.startswith("late"):
            self.asked.set()
            self.open.wait(20)
        return self._store.get_many(keys)


def test_a_slow_store_delays_the_measure_of_lateness_and_no_push(tmp_path: Path) -> None:
    view = replace(VIEW, about=replace(VIEW.about, refresh="15m"))
    slow = SlowReads(LMDBStore(tmp_path / "online"))
    name = 'flyball_refresh_late_seconds{view="taps_1d"}'

    async def story(process: IngestProcess, client: Client) -> Any:
        await asyncio.to_thread(slow.asked.wait, 20)
        answer = await asyncio.wait_for(client.call("events", ["taps", [tap("a")]]), 20)
        before = process.measures.render()
        slow.open.set()
        deadline = time.monotonic() + 20
        while name not in process.measures.render() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return answer, before, process.measures.render()

    answer, before, after = play(tmp_path, story, view=view, store=slow)
    assert answer["accepted"] == 1 and name not in before and name in after
