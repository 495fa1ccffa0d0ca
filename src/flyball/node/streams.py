"""Consumers of streams inside the ingest process: one task for each stream source of the applied views.

A batch is polled, decoded, logged together with where the consumer stands after it, and only then committed to the
broker. The surprise: there is no retry of a batch. Whatever fails, the task begins again from the positions in the
log, which are right whether or not the rows had reached it. A message that is no row is logged as a dead letter and
blocks nothing. While much waits to be written, nothing is polled; that is the back pressure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from flyball.adapters.local.process import failed, log
from flyball.errors import DefinitionError, FlyballError, InputError
from flyball.features.ingest import Batch
from flyball.records.types import DeadLetter

if TYPE_CHECKING:
    from flyball.features.ports import EventStream, Message, Polled
    from flyball.features.spec import SourceSpec

__all__ = ["StreamTask", "Taker", "open_stream"]

_MOST = 2_000  # messages in one batch
_WAIT = 0.5  # seconds of one poll
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0
_decode = msgspec.json.Decoder().decode


class Taker(Protocol):
    """What a consumer needs of the ingest process."""

    async def room(self) -> None:
        """Return when little waits to be written."""
        ...

    async def take(self, batch: Batch) -> Any:
        """Log and apply a batch; raises what the ingest says."""
        ...

    async def on_writer(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run something on the writing thread."""
        ...

    @property
    def ingest(self) -> Any:
        """The Ingest, to be used on the writing thread."""
        ...


class StreamTask:
    """Follow one stream for ever."""

    def __init__(self, source: SourceSpec, stream: EventStream, taker: Taker) -> None:
        self.source = source
        self._stream = stream
        self._taker = taker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"stream-{source.name}")
        self.up = False
        self.rows = 0
        self.dead = 0
        self.failures = 0
        self.lag: int | None = None
        self.newest = time.monotonic()  # when the last batch was taken
        self._lag_at = 0.0

    async def run(self) -> None:
        """Consume until cancelled; reconnect with growing pauses."""
        pause = _FIRST_PAUSE
        try:
            while True:
                taken = self.rows + self.dead
                try:
                    await self._consume()
                except (FlyballError, OSError) as error:
                    self.failures += 1
                    failed(f"stream {self.source.name} failed", error)
                self.up = False
                pause = _FIRST_PAUSE if self.rows + self.dead > taken else min(2 * pause, _LONGEST_PAUSE)
                await asyncio.sleep(pause)
        finally:
            self.up = False
            self._thread.submit(self._stream.close)
            self._thread.shutdown(wait=False)

    async def _consume(self) -> None:
        positions = await self._taker.on_writer(self._taker.ingest.positions, self.source.name)
        await self._on(self._stream.start, positions)
        self.up = True
        log("stream started", source=self.source.name, partitions=len(positions))
        while True:
            await self._taker.room()
            polled = await self._on(self._stream.poll, _MOST, _WAIT)
            if polled.positions:
                await self._take(polled)
                await self._on(self._stream.commit, polled.positions)
                self.newest = time.monotonic()
            if time.monotonic() - self._lag_at >= 1.0:
                self._lag_at = time.monotonic()
                self.lag = await self._on(self._stream.lag)

    async def _take(self, polled: Polled) -> None:
        """Log a batch and its positions; rows that are refused become dead letters of the same frame."""
        rows: list[dict[str, Any]] = []
        of: list[Message] = []
        dead: list[DeadLetter] = []
        for message in polled.messages:
            row = _row(message.payload)
            if isinstance(row, str):
                dead.append(self._letter(message, row))
            else:
                rows.append(row)
                of.append(message)
        origin = tuple((self.source.name, partition, at) for partition, at in polled.positions.items())
        for attempt in range(3):
            try:
                await self._taker.take(Batch(self.source.name, rows, None, origin, tuple(dead)))
                break
            except (InputError, DefinitionError) as error:
                if not rows:
                    raise
                wrong = await self._taker.on_writer(self._taker.ingest.explain, self.source.name, rows)
                if attempt or not wrong:  # only together are they wrong
                    wrong = dict.fromkeys(range(len(rows)), str(error))
                dead += [self._letter(of[k], why) for k, why in wrong.items()]
                of = [message for k, message in enumerate(of) if k not in wrong]
                rows = [row for k, row in enumerate(rows) if k not in wrong]
        self.rows += len(rows)
        self.dead += len(dead)

    def _letter(self, message: Message, why: str) -> DeadLetter:
        at = time.time_ns() // 1000
        return DeadLetter(
            self.source.name, self.source.name, message.partition, message.position, at, message.payload, why[:500]
        )

    async def _on(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def _row(payload: bytes) -> dict[str, Any] | str:
    """Return the row of a message, or why it is none."""
    try:
        row = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the message is no JSON: {error}"
    return row if isinstance(row, dict) else f"the message is {type(row).__name__}; it must be one JSON object"


def open_stream(source: SourceSpec, resolve: Callable[[str], str]) -> EventStream:
    """Make the connector that a source declares; `resolve` turns env:NAME and file:PATH into their values.

    Raises:
        DefinitionError: the source names no known connector, or lacks an option.
        MissingExtra: the connector's client is not installed.
    """
    options = dict(source.stream)
    kind = options.pop("connector", "")
    try:
        if kind == "kafka":
            from flyball.adapters.kafka import KafkaStream

            known = {"brokers": resolve(options.pop("brokers")), "topic": options.pop("topic")}
            options.pop("format", None)
            return KafkaStream(**known, group=options.pop("group", "flyball"), options=options)
        if kind == "redis":
            from flyball.adapters.redis_streams import RedisStream

            return RedisStream(
                url=resolve(options["url"]), stream=options["stream"], group=options.get("group", "flyball"),
                consumer=options.get("consumer", "flyball"), types={c.name: c.type for c in source.schema},
                idle=float(options.get("idle", "60")),
            )  # fmt: skip
    except KeyError as error:
        raise DefinitionError(f"stream source {source.name!r} lacks its option {error}; declare it") from error
    raise DefinitionError(f"stream source {source.name!r} has the connector {kind!r}; kafka and redis are known")
