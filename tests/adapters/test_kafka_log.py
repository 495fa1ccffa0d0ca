"""The log's copy on Kafka: every record at least once, in order, after kills and absences; keys keep a request together."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flyball.adapters import kafka_log
from flyball.adapters.kafka_log import KafkaLog, as_message, brokers_and_topic, read_sent
from flyball.adapters.local.segments import segments_of
from flyball.errors import ConfigError, Unavailable
from flyball.records.segment import SegmentWriter
from flyball.records.types import Erased, Outcome, Prediction, encode


def prediction(name: str) -> Prediction:
    return Prediction(name, "eta", "v1", "champion", 1, "u", 5, {"x": 1.5}, [float("nan")], b"\0", 2.0)


@pytest.fixture
def brokers():
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    yield ",".join(f"{b.host}:{b.port}" for b in producer.list_topics(timeout=10).brokers.values())
    producer.flush(1)


def write(root: Path, frames: list[list]) -> None:
    writer = SegmentWriter(root / "w0", rotate_bytes=1)
    for records in frames:
        writer.append(encode(records))
    writer.close()


def received(brokers: str, count: int) -> list[tuple[str, dict]]:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "t", "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe(["log"])
    found, until = [], time.monotonic() + 30
    while len(found) < count and time.monotonic() < until:
        for message in consumer.consume(100, 0.2):
            if message.error() is None:
                found.append((message.key().decode(), json.loads(message.value())))
    consumer.close()
    return found


def test_each_record_is_copied_once_while_nothing_fails(tmp_path, brokers):
    write(tmp_path, [[prediction("a"), prediction("a#1")], [Outcome("a", 1.0, 2, 3)]])
    sink = KafkaLog(tmp_path, f"{brokers}/log")
    assert [sink.send(segments_of(tmp_path)), sink.send(segments_of(tmp_path))] == [3, 0]
    write(tmp_path, [[prediction("b")]])
    assert KafkaLog(tmp_path, f"{brokers}/log").send(segments_of(tmp_path)) == 1
    found = received(brokers, 4)
    assert sorted((key, body["kind"], body["id"]) for key, body in found) == [
        ("a", "outcome", "a"), ("a", "prediction", "a"), ("a", "prediction", "a#1"), ("b", "prediction", "b"),
    ]  # fmt: skip
    body = next(body for key, body in found if key == "b")
    assert (body["features"], body["inputs"], body["value"]) == ([None], {"x": 1.5}, 2.0)


def test_what_was_sent_but_not_noted_is_sent_again(tmp_path, brokers):
    write(tmp_path, [[prediction("a")]])
    KafkaLog(tmp_path, f"{brokers}/log").send(segments_of(tmp_path))
    (tmp_path / "kafka.json").unlink()
    KafkaLog(tmp_path, f"{brokers}/log").send(segments_of(tmp_path))
    assert [key for key, _ in received(brokers, 2)] == ["a", "a"]


def test_an_absent_broker_is_told_and_nothing_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_log, "_PATIENCE", 0.5)
    write(tmp_path, [[prediction("a")]])
    with pytest.raises(Unavailable, match="took no copy"):
        KafkaLog(tmp_path, "127.0.0.1:1/log").send(segments_of(tmp_path))
    assert read_sent(tmp_path) == {}


@pytest.mark.parametrize("address", ["", "host:9092", "/log", "host:9092/a/b"])
def test_an_address_without_both_parts_is_refused(address):
    with pytest.raises(ConfigError, match="BROKERS/TOPIC"):
        brokers_and_topic(address)


def test_what_only_the_log_needs_is_not_copied():
    assert as_message(Erased()) is None
