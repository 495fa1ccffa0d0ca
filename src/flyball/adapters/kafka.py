"""Kafka as an event stream, by confluent-kafka.

The surprise: the broker's committed offsets decide nothing once the ingest log has a position of a partition. They are
written, after the log's sync, so that Kafka's own tools show the lag; on assignment the consumer seeks to what the log
says, so a kill between the two brings no row twice and skips none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyball.errors import MissingExtra, Unavailable
from flyball.features.ports import Message, Polled

__all__ = ["KafkaStream"]


class KafkaStream:
    """Read a topic as a member of a consumer group.

    Args:
        brokers: `host:port`, several with commas.
        topic: What to read.
        group: Consumer group.
        options: Further librdkafka settings, such as `security.protocol`.

    Raises:
        MissingExtra: confluent-kafka is not installed.
    """

    def __init__(self, *, brokers: str, topic: str, group: str, options: Mapping[str, str] | None = None) -> None:
        try:
            import confluent_kafka
        except ImportError as error:
            raise MissingExtra.of("a Kafka stream", "kafka") from error
        self._kafka = confluent_kafka
        self._topic = topic
        self._settings: dict[str, Any] = {
            **(options or {}), "bootstrap.servers": brokers, "group.id": group, "enable.auto.commit": False,
            "enable.auto.offset.store": False, "auto.offset.reset": "earliest", "error_cb": self._failed,
        }  # fmt: skip
        self._consumer: Any = None
        self._logged: dict[str, str] = {}
        self._next: dict[int, int] = {}  # partition -> offset after what was polled last
        self._trouble = ""

    def start(self, positions: Mapping[str, str]) -> None:
        """Join the group; every partition goes on after its logged offset, a new one from what the group committed."""
        self.close()
        self._logged = dict(positions)
        self._trouble = ""
        try:
            self._consumer = self._kafka.Consumer(self._settings, logger=_quiet())
            self._consumer.subscribe([self._topic], on_assign=self._assigned)
        except self._kafka.KafkaException as error:
            raise Unavailable(f"Kafka cannot be reached: {error}") from error

    def poll(self, most: int, timeout: float) -> Polled:
        """Return up to `most` messages of any partitions, in the order of each."""
        try:
            found = self._consumer.consume(most, timeout)
        except self._kafka.KafkaException as error:
            raise Unavailable(f"topic {self._topic!r} cannot be read: {error}") from error
        messages = []
        positions: dict[str, str] = {}
        for message in found:
            if (trouble := message.error()) is not None:
                if trouble.code() != self._kafka.KafkaError._PARTITION_EOF:
                    raise Unavailable(f"topic {self._topic!r} cannot be read: {trouble.str()}")
                continue
            partition, offset = str(message.partition()), message.offset()
            messages.append(Message(partition, str(offset), message.value() or b""))
            positions[partition] = str(offset)
            self._next[message.partition()] = offset + 1
        if not found and self._trouble:
            words, self._trouble = self._trouble, ""
            raise Unavailable(f"Kafka cannot be reached: {words}")
        return Polled(messages, positions)

    def commit(self, positions: Mapping[str, str]) -> None:
        """Tell the broker, without waiting: the log knows better."""
        self._logged |= positions
        offsets = [self._kafka.TopicPartition(self._topic, int(p), int(at) + 1) for p, at in positions.items()]
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=True)

    def lag(self) -> int | None:
        """Return how many messages lie beyond what was polled, over the assigned partitions."""
        if self._consumer is None:
            return None
        behind = 0
        try:
            for place in self._consumer.assignment():
                low, high = self._consumer.get_watermark_offsets(place, timeout=1.0)
                behind += max(0, high - self._next.get(place.partition, low))
        except self._kafka.KafkaException:
            return None
        return behind

    def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            consumer.close()

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        for place in partitions:
            at = self._logged.get(str(place.partition))
            if at is not None:
                place.offset = int(at) + 1
                self._next[place.partition] = int(at) + 1
        consumer.assign(partitions)

    def _failed(self, error: Any) -> None:
        if error.fatal() or error.code() == self._kafka.KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error.str()


def _quiet() -> Any:
    import logging

    return logging.getLogger("flyball.kafka")
