"""Recorded events reach the outbox once per address, whatever happens in between."""

from datetime import UTC, datetime, timedelta

import pytest

from flyball.control import connect
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.types import Phase, RolloutEvent, RolloutStatus

NOW = datetime(2026, 5, 4, tzinfo=UTC)
SPEC = Rollout(steps=["10%"], bake="1h")


@pytest.fixture
def database(url):
    with connect(url) as opened:
        yield opened


def happen(database, *kinds, name="r1"):
    store = database.rollouts
    if name not in {s.id for _, s in store.list()}:
        store.create(SPEC, RolloutStatus(name, "eta", "v2", "v1", Phase.PENDING, 0, NOW))
    for kind in kinds:
        _, status = store.get(name)
        store.save(status, expected=status.revision, fence=None, events=[RolloutEvent(name, NOW, kind, "so")])


def everything(source, kind):
    return True


def told(database, topic="hook"):
    return [m.body["kind"] for m in database.outbox.list(topic)]


def test_events_are_copied_once_in_order(database):
    database.telling.begin()
    happen(database, "RolloutStarted", "WeightsChanged")
    assert database.telling.copy({"hook": everything}, at=NOW) == 2
    assert database.telling.copy({"hook": everything}, at=NOW) == 0
    happen(database, "Promoted")
    assert database.telling.copy({"hook": everything}, at=NOW) == 1
    assert told(database) == ["RolloutStarted", "WeightsChanged", "Promoted"]
    assert database.outbox.list("hook")[0].body["source"] == "rollout"


def test_what_happened_before_telling_began_is_not_told(database):
    happen(database, "RolloutStarted")
    database.telling.begin()
    happen(database, "Paused")
    database.telling.begin()  # a second controller begins nothing anew
    database.telling.copy({"hook": everything}, at=NOW)
    assert told(database) == ["Paused"]


def test_after_an_end_only_what_is_new_is_told(database):
    database.telling.begin()
    database.telling.end()
    happen(database, "RolloutStarted")
    database.telling.begin()
    happen(database, "Paused")
    database.telling.copy({"hook": everything}, at=NOW)
    assert told(database) == ["Paused"]


def test_each_address_gets_what_it_wants(database):
    database.telling.begin()
    happen(database, "RolloutStarted", "RolledBack")
    wants = {"all": everything, "bad news": lambda source, kind: kind == "RolledBack"}
    assert database.telling.copy(wants, at=NOW) == 3
    assert told(database, "all") == ["RolloutStarted", "RolledBack"]
    assert told(database, "bad news") == ["RolledBack"]


def test_a_message_acknowledged_is_not_put_again(database):
    database.telling.begin()
    happen(database, "Paused")
    database.telling.copy({"hook": everything}, at=NOW)
    database.outbox.ack(database.outbox.list("hook")[0].id, at=NOW)
    happen(database, "Resumed")
    database.telling.copy({"hook": everything}, at=NOW + timedelta(hours=1))
    assert told(database) == ["Resumed"]


def test_open_topics_are_known_and_can_be_dropped(database):
    database.outbox.put("old", "k", {}, at=NOW)
    database.outbox.put("new", "k", {}, at=NOW)
    assert database.outbox.topics() == ["new", "old"]
    assert database.outbox.drop("old", at=NOW) == 1
    assert database.outbox.topics() == ["new"]
