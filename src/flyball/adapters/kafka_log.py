"""A copy of the prediction log on a Kafka topic: every record at least once, in the order of each worker's log.

The surprise: serving never talks to Kafka. Records are read from the segments, and how far a broker has confirmed them
stands in `kafka.json` beside these; a broker that is away costs nothing but a growing distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from flyball.disk import write_atomically
from flyball.errors import ConfigError, MissingExtra, Unavailable
from flyball.records.segment import read_frames
from flyball.records.shipping import Segment
from flyball.records.types import Outcome, Prediction, Record, Shadow, decode

__all__ = ["KafkaLog", "as_message", "brokers_and_topic", "read_sent"]

_CURSOR = "kafka.json"
_KINDS = (Prediction, Shadow, Outcome)
_PATIENCE = 20.0  # seconds a broker may take to confirm one part
_PART = 5_000  # records confirmed at once; what a kill repeats at most


def brokers_and_topic(address: str) -> tuple[str, str]:
    """Return both parts of BROKERS/TOPIC.

    Raises:
        ConfigError: one of them is missing.
    """
    brokers, _, topic = address.partition("/")
    if not brokers or not topic or "/" in topic:
        raise ConfigError(f"log.kafka is {address!r}; write BROKERS/TOPIC, such as kafka1:9092,kafka2:9092/predictions")
    return brokers, topic


def as_message(record: Record) -> tuple[bytes, bytes] | None:
    """Return (key, JSON value) of a record, None for what only the log needs.

    The key is the prediction's id without its row, so that what belongs to one request stays in one partition.
    """
    if not isinstance(record, _KINDS):
        return None
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    body = {"kind": type(record).__name__.lower(), **fields}
    return record.id.partition("#")[0].encode(), msgspec.json.encode(body)


def read_sent(root: Path) -> dict[str, int]:
    """Return how far each segment below `root` was confirmed, in bytes."""
    try:
        return msgspec.json.decode((root / _CURSOR).read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


class KafkaLog:
    """Send what is new in the segments.

    Args:
        root: The log's folder.
        address: BROKERS/TOPIC.

    Raises:
        MissingExtra: confluent-kafka is not installed.
        ConfigError: the address has another form.
    """

    def __init__(self, root: Path, address: str) -> None:
        brokers, self._topic = brokers_and_topic(address)
        try:
            import confluent_kafka
        except ImportError as error:
            raise MissingExtra.of("log.kafka", "kafka") from error
        self._root = root
        self._kafka = confluent_kafka
        self._producer: Any = confluent_kafka.Producer(
            {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 50, "log_level": 0}
        )
        self._refused = ""

    def send(self, segments: Iterable[Segment]) -> int:
        """Send what no broker confirmed yet, and return how many records that were.

        Raises:
            Unavailable: the broker did not confirm in time; what it did confirm is remembered.
        """
        sent, records = read_sent(self._root), 0
        there = {s.name: s for s in segments}
        sent = {name: end for name, end in sent.items() if name in there}
        for name, segment in sorted(there.items()):
            if segment.size > sent.get(name, 0):
                for end, count in self._send_from(name, sent.get(name, 0)):
                    sent[name] = end
                    records += count
                    write_atomically(self._root / _CURSOR, msgspec.json.encode(sent), durable=True)
        return records

    def close(self) -> None:
        """Wait for what is under way."""
        self._producer.flush(_PATIENCE)

    def _send_from(self, name: str, begin: int) -> Iterator[tuple[int, int]]:
        """Send a segment in parts and yield (offset, records) of each that was confirmed."""
        count, end = 0, begin
        for frame in read_frames(self._root / name, begin):
            for message in map(as_message, decode(frame.payload)):
                if message is not None:
                    self._produce(*message)
                    count += 1
            end = frame.end
            if count >= _PART:
                self._confirm()
                yield end, count
                count, begin = 0, end
        if end > begin:
            self._confirm()
            yield end, count

    def _confirm(self) -> None:
        self._refused = ""
        if self._producer.flush(_PATIENCE) or self._refused:
            self._producer.purge()
            cause = self._refused or f"no answer within {_PATIENCE:g} s"
            raise Unavailable(f"topic {self._topic!r} took no copy of the log ({cause}); it is tried again")

    def _produce(self, key: bytes, value: bytes) -> None:
        try:
            self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
        except BufferError:  # the queue is full: wait until a part of it was confirmed
            self._producer.flush(_PATIENCE)
            self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._refused = str(error)
