"""What a look at a rollout takes from outside its log: drift, the host's resources, and functions of the user.

The surprise: nothing here waits. A user's function runs in a thread of its own and is given a quarter of a second; one
that takes longer is read at a later pass, and after five seconds its value is unknown until it returns. Unknown values
hold the ramp.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.errors import FlyballError
from flyball.rollout.definitions.calls import Call, found
from flyball.rollout.types import GuardrailSpec, Measured, Outside, RolloutSpec, RolloutStatus

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["Asked", "Outsiders", "usage"]

_PATIENCE = 0.25  # seconds that a pass waits for a function
_DEADLINE = 5.0  # seconds after which a function's value is unknown
_EVERY = 10.0  # seconds between two calls of a function
_KINDS = frozenset({"drift", "resources", "custom"})


@dataclass(slots=True)
class Asked:
    """One function of the user's: its newest value, and the call under way.

    Args:
        call: Takes the rollout's status, returns the number.
        clock: Monotonic seconds.
    """

    call: Call
    clock: Callable[[], float] = time.monotonic
    value: float | None = None
    text: str = "it was not asked yet"
    _begun: float = -math.inf
    _thread: threading.Thread | None = field(default=None, repr=False)

    def read(self, status: RolloutStatus) -> tuple[float | None, str]:
        """Return the newest value, None with the reason while it is not known."""
        if self._thread is None and self.clock() - self._begun >= _EVERY:
            self._begun = self.clock()
            self._thread = threading.Thread(target=self._ask, args=(status,), name="custom guardrail", daemon=True)
            self._thread.start()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            if not self._thread.is_alive():
                self._thread = None
        if self._thread is not None and self.clock() - self._begun >= _DEADLINE:
            return None, f"it did not return within {_DEADLINE:g} s"
        return self.value, self.text

    def _ask(self, status: RolloutStatus) -> None:
        try:
            value = float(self.call(status))
        except Exception as error:  # a user's function may raise anything; unknown holds the ramp
            self.value, self.text = None, f"it failed with {type(error).__name__}"
            return
        self.value, self.text = (value, "") if math.isfinite(value) else (None, f"it returned {value}")


class Outsiders:
    """Measure what a rollout's guardrails want to know from outside the log.

    Args:
        project: The project.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._asked: dict[tuple[str, str], Asked] = {}
        self._cpu: dict[int, tuple[float, float]] = {}  # by pid: monotonic seconds, and processor seconds until then

    def __call__(self, spec: RolloutSpec, status: RolloutStatus, now: datetime) -> Outside:
        """Return what is known now."""
        rails = [rail for rail in spec.guardrails if rail.kind in _KINDS]
        return Outside(measured={rail.name: self._measure(rail, status, now) for rail in rails})

    def _measure(self, rail: GuardrailSpec, status: RolloutStatus, now: datetime) -> Measured:
        match rail.kind:
            case "drift":
                return self._drift(status, now)
            case "resources":
                return self._resources(rail, status, now)
            case _:
                return self._custom(rail, status, now)

    def _drift(self, status: RolloutStatus, now: datetime) -> Measured:
        windows = self._project.database.monitors.drift(status.model, limit=1)
        if not windows or not windows[-1].features:
            return Measured(None, now, f"no monitor window of {status.model} is closed; does it have a drift monitor?")
        newest = windows[-1]
        worst = max(newest.features, key=lambda feature: feature.distance)
        if not math.isfinite(worst.distance):
            return Measured(None, now, f"the distance of {worst.feature} is {worst.distance}")
        return Measured(worst.distance, now, f"{worst.feature}, {newest.start:%Y-%m-%d %H:%M} to {newest.end:%H:%M}")

    def _resources(self, rail: GuardrailSpec, status: RolloutStatus, now: datetime) -> Measured:
        pid = self._host(status)
        if pid is None:
            return Measured(None, now, "the candidate's host does not run on this node")
        try:
            memory, seconds = usage(pid)
        except (OSError, ValueError, IndexError):
            return Measured(None, now, "the candidate's host has just ended")
        parts: list[tuple[float, str]] = []
        if rail.limit is not None:
            parts.append((memory / rail.limit, f"{memory / 1e6:.0f} MB of memory"))
        if rail.cap is not None:
            at = time.monotonic()
            before = self._cpu.get(pid)
            self._cpu = {pid: (at, seconds)}
            if before is None or at - before[0] <= 0:
                return Measured(None, now, "the processor time needs two looks")
            share = (seconds - before[1]) / (at - before[0])
            parts.append((share / rail.cap, f"{share:.2f} processors"))
        worst, _ = max(parts)
        return Measured(worst, now, ", ".join(text for _, text in parts) + f", {worst:.0%} of the limit")

    def _host(self, status: RolloutStatus) -> int | None:
        from flyball.adapters.local.running import read_running
        from flyball.adapters.local.tables import host_name

        running = read_running(self._project.layout)
        route = self._project.database.routing.current().models.get(status.model)
        if running is None or route is None or route.candidate is None:
            return None
        return running.children.get(host_name(route.candidate.digest))

    def _custom(self, rail: GuardrailSpec, status: RolloutStatus, now: datetime) -> Measured:
        key = (status.id, rail.name)
        asked = self._asked.get(key)
        if asked is None:
            try:
                asked = self._asked[key] = Asked(self._find(rail, status))
            except FlyballError as error:
                return Measured(None, now, str(error).splitlines()[0])
        value, text = asked.read(status)
        return Measured(value, now, text)

    def _find(self, rail: GuardrailSpec, status: RolloutStatus) -> Call:
        """Return the function as the candidate's code snapshot defines it."""
        project = self._project
        code = project.database.versions.get(status.model, status.candidate).code
        project.definitions_of(code)  # naming a function in a guardrail makes it known
        return found(rail.metric, below=None if project.is_temporary else project.layout.code / code)


def usage(pid: int) -> tuple[int, float]:
    """Return a process's resident bytes and the processor seconds it took so far.

    Raises:
        OSError: there is no such process.
    """
    folder = Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return pages * os.sysconf("SC_PAGE_SIZE"), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
