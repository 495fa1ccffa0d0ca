"""Step a project through domain time and be its callers: ask at pickup, tell the truth at drop-off.

One tick: the clock moves (and everything due is done) while trips that ended are pushed and their outcomes told, then
the pickups of the tick are asked for, all at once. A tick in which nothing happens is skipped. A trip is known at its
drop-off however early its push arrives, so it does not matter which of clock and push comes first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np

from flyball.demo.traffic import Traffic
from flyball.demo.trips import Trips
from flyball.errors import Unavailable
from flyball.units import from_micros

__all__ = ["Action", "Replay", "Served"]

TICK = 300_000_000  # five minutes
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Action:
    """Something people do at a domain time (µs), while the world stands still."""

    at: int
    run: Callable[[], None]


@dataclass(slots=True)
class Served:
    """What the callers saw."""

    prediction: dict[int, str] = field(default_factory=dict)  # trip -> prediction id
    value: dict[int, float] = field(default_factory=dict)  # trip -> answered minutes
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)  # wall seconds of clock steps in which the loop trained
    ticks: int = 0


class Replay:
    """Replay trips against a running project."""

    def __init__(self, trips: Trips, *, gateway: Traffic, control: Traffic, salt: str, score_from: int = 0) -> None:
        self._trips = trips
        self._gateway = gateway
        self._control = control
        self._salt = salt
        self._score_from = score_from  # pickups before are pushed at drop-off but not asked for
        self._ended = np.argsort(trips.dropoff, kind="stable")
        self.served = Served()

    async def run(
        self,
        start: int,
        end: int,
        actions: list[Action],
        progress: Callable[[datetime, int], Awaitable[None] | None],
    ) -> Served:
        """Tick from `start` to `end` (µs) and return what the callers saw."""
        todo = sorted(actions, key=lambda a: a.at)
        picked = int(np.searchsorted(self._trips.pickup, start, "left"))
        ended = int(np.searchsorted(self._trips.dropoff[self._ended], start, "left"))
        for tick in range(start + TICK, end + TICK, TICK):
            now = min(tick, end)
            picks = int(np.searchsorted(self._trips.pickup, now, "right"))
            ends = int(np.searchsorted(self._trips.dropoff[self._ended], now, "right"))
            if picks > picked or ends > ended:
                await self._tick(now, range(picked, picks), self._ended[ended:ends])
                progress(from_micros(now), len(self.served.value))
            picked, ended = picks, ends
            while todo and todo[0].at <= now:
                await asyncio.to_thread(todo.pop(0).run)
        return self.served

    async def _tick(self, now: int, pickups: range, ended: np.ndarray) -> None:
        await asyncio.gather(self._step_clock(now), self._tell(ended))
        asked = [i for i in pickups if self._trips.accepted[i] and self._trips.pickup[i] >= self._score_from]
        answers = await self._gateway.post_all([("/v2/models/eta/infer", self._question(i)) for i in asked])
        for trip, answer in zip(asked, answers, strict=True):
            self.served.seconds.append(answer.seconds)
            if answer.status == 200:
                self.served.prediction[trip] = answer.body["parameters"]["prediction_id"]
                self.served.value[trip] = answer.body["outputs"][0]["data"][0]
            else:
                self.served.failed += 1
        self.served.ticks += 1

    async def _step_clock(self, now: int) -> None:
        started = time.perf_counter()
        answer = await self._control.post("/v1/clock", _encode({"to": from_micros(now).isoformat()}))
        if answer.status != 200:
            raise Unavailable(f"the clock could not be moved to {from_micros(now)}: {answer.body}")
        if any(text.startswith("RunStarted") for text in answer.body.get("did", [])):
            self.served.overhead.append(time.perf_counter() - started)

    async def _tell(self, ended: np.ndarray) -> None:
        if not len(ended):
            return
        calls = [("/v1/sources/trips/events", _encode([self._trips.raw[i] for i in ended]))]
        outcomes = [self._outcome(int(i)) for i in ended if int(i) in self.served.prediction]
        if outcomes:
            calls.append(("/v1/outcomes", _encode(outcomes)))
        for answer in await self._gateway.post_all(calls):
            if answer.status >= 300:
                raise Unavailable(f"what was told is lost: {answer.status} {answer.body}")

    def _outcome(self, trip: int) -> dict[str, object]:
        at = datetime.fromtimestamp(int(self._trips.dropoff[trip]) / 1e6, UTC)
        minutes = float(self._trips.minutes[trip])
        return {"prediction_id": self.served.prediction[trip], "value": minutes, "event_time": at.isoformat()}

    def _question(self, trip: int) -> bytes:
        raw = self._trips.raw[trip]
        inputs = [
            {"name": "pickup_zone", "shape": [1], "datatype": "INT64", "data": [raw["pickup_zone"]]},
            {"name": "dropoff_zone", "shape": [1], "datatype": "INT64", "data": [raw["dropoff_zone"]]},
            {"name": "distance_miles", "shape": [1], "datatype": "FP64", "data": [raw["distance_miles"]]},
        ]
        return _encode({"inputs": inputs, "parameters": {"unit": f"{self._salt}trip-{trip}"}})
