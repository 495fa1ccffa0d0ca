import asyncio
import threading
from dataclasses import dataclass

import msgspec
import pytest

from flyball.adapters.local.ipc import Client, Server
from flyball.adapters.local.views import read_views, write_views
from flyball.errors import SourceError, UnknownName
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, ViewSpec
from flyball.layout import Layout
from flyball.node.ingest import IngestProcess
from flyball.units import to_micros

VIEW = ViewSpec(
    "zone_traffic",
    EntitySpec("zone", (ColumnSpec("pickup_zone", "int64"),)),
    SourceSpec("trips", "data/*.parquet", "dropoff_at", None, "UTC", (), None, 0),
    None,
    (FeatureSpec("minutes", "float64", "minutes"),),
)


@dataclass(frozen=True)
class PushResult:
    accepted: int
    rejected: int
    sequence: int


class Fake:
    """An Ingest that keeps what it is given."""

    def __init__(self, views):
        self.views = list(views)
        self.commits = []
        self.sequence = 1
        self.hold = threading.Event()
        self.hold.set()

    def push_many(self, pushes):
        self.hold.wait(5)
        self.commits.append(len(pushes))
        bad = SourceError("a row lacks minutes")
        return [bad if any("bad" in r for r in rows) else self._one(rows) for rows in (p.rows for p in pushes)]

    def _one(self, rows):
        first, self.sequence = self.sequence, self.sequence + len(rows)
        return PushResult(len(rows), 0, first)

    def attach(self, view):
        self.views.append(view)

    def materialize(self, engine, view, *, until, full, detail):
        detail((1, 2))
        detail((2, 2))
        return PushResult(to_micros(until), int(full), 0)

    def close(self):
        self.closed = True


def play(tmp_path, story):
    layout = Layout(tmp_path, tmp_path)
    made = []

    def open_ingest(views):
        made.append(Fake(views))
        return made[0]

    async def main():
        process = IngestProcess(layout, open_ingest=open_ingest, engine=object, now=lambda: 77)
        await process.start()
        server = Server(layout.socket("ingest"), process.handlers())
        await server.start()
        client = Client(layout.socket("ingest"))
        try:
            return await story(made[0], client)
        finally:
            client.close()
            await server.close()
            await process.close()

    return asyncio.run(main())


def test_pushes_that_wait_are_committed_together_and_each_acknowledged(tmp_path):
    async def story(ingest, client):
        ingest.hold.clear()
        calls = [asyncio.create_task(client.call("push", ["trips", [{"minutes": i}], None])) for i in range(50)]
        while (seen := await client.call("info", None))["pushes"] + seen["waiting"] < 50:
            pass
        ingest.hold.set()
        answers = await asyncio.gather(*calls)
        return ingest.commits, answers

    commits, answers = play(tmp_path, story)
    assert sum(commits) == 50
    assert len(commits) <= 3
    assert sorted(a["sequence"] for a in answers) == list(range(1, 51))


def test_a_bad_push_fails_alone(tmp_path):
    async def story(ingest, client):
        ingest.hold.clear()
        rows = [{"minutes": 1}, {"bad": 1}, {"minutes": 2}]
        calls = [asyncio.create_task(client.call("push", ["trips", [r], None])) for r in rows]
        await asyncio.sleep(0.05)
        ingest.hold.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, bad, last = play(tmp_path, story)
    assert (first["accepted"], last["accepted"]) == (1, 1)
    assert isinstance(bad, SourceError)


def test_views_are_read_from_their_file_at_start(tmp_path):
    write_views(Layout(tmp_path, tmp_path), [VIEW])

    async def story(ingest, client):
        return ingest.views, (await client.call("info"))["views"]

    assert play(tmp_path, story) == ([VIEW], ["zone_traffic"])
    assert read_views(Layout(tmp_path, tmp_path)) == (VIEW,)


def test_a_view_attached_while_running_can_be_materialized_with_progress(tmp_path):
    async def story(ingest, client):
        with pytest.raises(UnknownName, match="feature view"):
            await client.call("materialize", {"view": "zone_traffic"})
        await client.call("attach", msgspec.json.encode([VIEW]))
        seen = []
        answer = await client.call(
            "materialize", {"view": "zone_traffic", "until": 5, "full": True}, progress=seen.append
        )
        await client.call("flush")
        return seen, answer

    seen, answer = play(tmp_path, story)
    assert seen == [[1, 2], [2, 2]]
    assert answer == {"accepted": 5, "rejected": 1, "sequence": 0}
