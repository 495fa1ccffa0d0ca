"""Keep the prediction log small and everything in it: ship closed segments as Parquet, then let go what is too old.

Run as `python -m flyball.node.shipper --project P`, at the lowest priority. The surprise: the process that stays only
looks whether there is work. Shipping needs Arrow and so its memory, and runs in a short child (`--once`) now and then.
What readers still need it does not decide: control writes that into `needed.json`; as long as it never did, segments
are shipped and none goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.adapters.kafka_log import KafkaLog, read_sent
from flyball.adapters.local.measures import Measures
from flyball.adapters.local.process import Beats, child_environment, die_with_parent, failed, log
from flyball.adapters.local.segments import read_needed, read_shipped, segments_of
from flyball.adapters.local.tables import newest_table, read_table
from flyball.errors import ConfigError, FlyballError
from flyball.records.shipping import due, expired, over_budget, removable

if TYPE_CHECKING:
    from flyball.adapters.log_files import LogShipper
    from flyball.config import Config
    from flyball.layout import Layout
    from flyball.records.shipping import Segment
    from flyball.settings import LogSettings

__all__ = ["Shipper", "main"]

_NICE = 15
_LOOK = 2.0  # seconds between two looks for work
_CLEAN = 3600.0  # seconds after which a turn runs although nothing was closed: files grow old without anybody's doing
_SLOW = 600.0  # seconds a turn may take


class Shipper:
    """Ship, expire and hold the budget, one turn after another.

    Args:
        layout: The project's paths.
        settings: What flyball.toml says of the log.
        shipper: Holds the lock of the log.
        local: Whether what is shipped lies on this machine's disk.
    """

    def __init__(self, layout: Layout, settings: LogSettings, *, shipper: LogShipper, local: bool) -> None:
        self._layout = layout
        self._settings = settings
        self._shipper = shipper
        self._local = local
        self._measures = Measures(layout.state / "shipper.prom")

    def turn(self, now: int) -> None:
        """Do what is due at `now` (µs): ship first, then delete what may go."""
        shipped = self._shipper.ship(say=_say)
        self._expire(now)
        segments = segments_of(self._layout.log)
        needed = read_needed(self._layout.log)
        left = 0
        if needed is not None:
            keep = self._settings.keep_segments
            copied = self._copied(segments)
            old = removable(copied, self._shipper.shipped, now=now, keep=keep, needed=needed.since)
            self._remove(old, "kept long enough")
            left = self._hold_budget([s for s in segments if s not in old], needed.since)
            segments = segments_of(self._layout.log)
        self._measure(shipped, left, segments)

    def _copied(self, segments: list[Segment]) -> list[Segment]:
        """Return the segments of which Kafka, if it is to have a copy, has everything."""
        if not self._settings.kafka:
            return segments
        sent, torn = read_sent(self._layout.log), self._shipper.shipped.torn
        return [s for s in segments if sent.get(s.name, 0) >= s.size - torn.get(s.name, 0)]

    def _expire(self, now: int) -> None:
        parts = expired(self._shipper.shipped, self._retention(), now=now)
        if parts:
            self._shipper.forget(parts)
            log("predictions expired", files=len(parts), rows=sum(p.rows for p in parts))

    def _retention(self) -> Mapping[str, timedelta]:
        """Return how long each model's predictions are kept, zero for ever."""
        table = read_table(self._layout, newest_table(self._layout))
        return {name: timedelta(seconds=route.serving.retention) for name, route in table.models.items()}

    def _remove(self, segments: list[Segment], why: str) -> None:
        if segments:
            self._shipper.remove(segments)
            log("segments deleted", segments=len(segments), bytes=sum(s.size for s in segments), why=why)

    def _hold_budget(self, segments: list[Segment], needed: int) -> int:
        budget, copied = self._settings.budget, self._copied(segments)
        held = [replace(s, closed=s.closed and s in copied) for s in segments]
        gone, files, left = over_budget(
            held, self._shipper.shipped, budget=budget, needed=needed, local_parts=self._local
        )
        self._remove(gone, "over log.budget")
        if files:
            self._shipper.forget(files)
            log("shipped files deleted", files=len(files), bytes=sum(f.size for f in files), why="over log.budget")
        if left:
            log("log over budget", bytes=left, budget=budget)
        return left

    def _measure(self, shipped: int, left: int, segments: list[Segment]) -> None:
        m, known = self._measures, self._shipper.shipped
        m.set("flyball_log_shipped_segments", len(known.segments), "Segments shipped as Parquet so far.")
        m.set("flyball_log_shipped_last", shipped, "Segments shipped by the newest turn.")
        m.set("flyball_log_segment_bytes", sum(s.size for s in segments), "Bytes of segments on this machine's disk.")
        m.set("flyball_log_torn_bytes", sum(known.torn.values()), "Bytes after the last complete frame of segments.")
        m.set("flyball_log_over_budget_bytes", left, "Bytes of the log above log.budget that may not go.")
        m.write()


def _say(segment: Segment, rows: int) -> None:
    log("segment shipped", segment=segment.name, bytes=segment.size, rows=rows)


def once(config: Config) -> None:
    """Run one turn.

    Raises:
        ConfigError: what is shipped would not outlive this process.
        Refused: another process ships this log.
        Unavailable: where it is shipped to cannot be reached.
    """
    from flyball.adapters.log_files import LogShipper, ShippedFiles

    layout, settings = config.layout, config.settings.log
    if settings.ship_to.startswith("memory:"):
        raise ConfigError(
            f"log.ship_to is {settings.ship_to!r}, which ends with this process; name a folder or s3://..."
        )
    files = ShippedFiles(settings.ship_to or str(layout.shipped))
    shipper = LogShipper(layout.log, files)
    try:
        Shipper(layout, settings, shipper=shipper, local=files.local).turn(time.time_ns() // 1000)
    finally:
        shipper.close()


async def watch(config: Config, command: list[str]) -> None:
    """Start a turn when a segment was closed and the interval is over, until SIGTERM."""
    beats, ending = Beats(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    beats.start()
    beats.ready()
    last = -_CLEAN
    copying = asyncio.create_task(_copy_for_ever(config)) if config.settings.log.kafka else None
    while not ending.is_set():
        waited = time.monotonic() - last
        if waited >= _CLEAN or (waited >= config.settings.log.ship_every.total_seconds() and _work(config.layout)):
            last = time.monotonic()
            await _turn(command, ending)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), _LOOK)
    if copying is not None:
        copying.cancel()


async def _copy_for_ever(config: Config) -> None:
    """Send Kafka its copy, on a thread; what it takes long for is sent by a later turn."""
    measures, root, sink = Measures(config.layout.state / "kafka.prom"), config.layout.log, None
    while True:
        try:
            sink = sink or KafkaLog(root, config.settings.log.kafka)
            records = await asyncio.to_thread(sink.send, segments_of(root))
            measures.count("flyball_log_kafka_records_total", records, "Log records that Kafka confirmed.")
        except FlyballError as error:
            failed("log not copied to Kafka", error)
            measures.count("flyball_log_kafka_failures_total", 1, "Deliveries to Kafka that failed.")
        sent = read_sent(root)
        behind = sum(s.size - sent.get(s.name, 0) for s in segments_of(root))
        measures.set("flyball_log_kafka_behind_bytes", behind, "Bytes of segments that Kafka has not confirmed.")
        measures.write()
        await asyncio.sleep(_LOOK)


def _work(layout: Layout) -> bool:
    try:
        return bool(due(segments_of(layout.log), read_shipped(layout.log)))
    except (FlyballError, OSError) as error:
        failed("log not looked at", error)
        return False


async def _turn(command: list[str], ending: asyncio.Event) -> None:
    """Run one turn in a child; it is killed when it takes too long or the node ends, and done again later."""
    child = await asyncio.create_subprocess_exec(*command, env=child_environment())
    done = asyncio.ensure_future(child.wait())
    stop = asyncio.ensure_future(ending.wait())
    await asyncio.wait({done, stop}, timeout=_SLOW, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not done.done():
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await done


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.shipper`."""
    parser = argparse.ArgumentParser(prog="flyball.node.shipper")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args(arguments)
    die_with_parent("shipper")
    from flyball.config import load

    os.nice(_NICE)
    config = load(given.project, environment=given.environment)
    if given.once:
        try:
            once(config)
        except FlyballError as error:
            failed("log not shipped", error)
            return error.exit_code
        return 0
    command = [sys.executable, "-m", "flyball.node.shipper", "--once", "--project", str(given.project)]
    command += ["--environment", given.environment] if given.environment else []
    asyncio.run(watch(config, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
