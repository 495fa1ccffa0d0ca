"""From a validated request to logged answers: route, features, model, fallback, log.

The surprise: a caller never learns that a candidate failed. Its rows are answered by the champion within the deadline,
the failure is written under the candidate's arm, and when failures pile up this worker stops asking the candidate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, Unavailable
from flyball.features.guarded import read_state
from flyball.features.spec import Status
from flyball.serving.flow.cache import AnswerCache, randomised
from flyball.serving.flow.patience import ask_again, gone_error, successor
from flyball.serving.flow.recording import Recorder
from flyball.serving.flow.request import Answer, Request, Value
from flyball.serving.flow.shadow import Shadows
from flyball.serving.log.ids import IdMaker
from flyball.serving.log.writer import LogWriter
from flyball.serving.models.batcher import Batcher, Item
from flyball.serving.protocol import Call
from flyball.serving.routing.plan import Arm, ModelPlan
from flyball.serving.routing.router import CHAMPION, PINNED, UNHOSTED, Assignment, taken
from flyball.serving.shared.mapclock import MapClock
from flyball.serving.shared.slots import SharedMap, Slot, VetoReason

__all__ = ["Answerer"]

_GRACE = 0.05  # seconds a fallback may take when the candidate used up all the time
_SURE = 0.8  # of the deadline: a prediction may be wrong, and a batch more may come between
_ns = time.perf_counter_ns
_monotonic = time.monotonic


class Answerer:
    """Answer requests of one worker."""

    def __init__(
        self,
        *,
        shared: SharedMap,
        slot: Slot,
        log: LogWriter | None,
        ids: IdMaker,
        shadows: Shadows,
        vetoed: Callable[[ModelPlan, VetoReason, Arm], None],
        remote: bool = False,
        max_waiting: int = 4_096,
        cache: AnswerCache | None = None,
    ) -> None:
        """Compose; `vetoed` is called at once when this worker takes an arm's traffic away.

        With `remote`, features are awaited (`Reader.aread`), because the online store is behind a network. At most
        `max_waiting` requests are under way. `cache` serves the models that ask for it.
        """
        self._shared = shared
        self._slot = slot
        self._log = log
        self._recorder = Recorder(shared, slot)
        self._ids = ids
        self._shadows = shadows
        self._vetoed = vetoed
        self._remote = remote
        self._active = 0  # requests under way
        self._most = max_waiting
        self._cache = cache
        self._micros = MapClock(shared).micros

    async def answer(self, plan: ModelPlan, call: Call, started: int, *, pinned: Arm | None = None) -> Answer:
        """Answer all rows of a request.

        Args:
            plan: The model's plan; it is not retired while the request runs.
            call: Validated rows.
            started: `perf_counter_ns` at admission.
            pinned: A version the caller asked for by name; kept out of every comparison.

        Raises:
            BadRequest: a value has a type that the features refuse.
            Busy: too much waits already for this request to be answered in time; nothing was done for it.
            DeadlineExceeded: the champion did not answer in time.
            Unavailable: the online store or the log failed.
            FlyballError: the champion failed.
        """
        if self._active >= self._most:
            raise _refused(f"{self._active} requests are under way in this worker already", 1.0)
        batcher = (pinned or plan.champion).loaded.batcher
        if batcher.busy:
            _admit(batcher, plan, call)
        plan.inflight += 1
        self._active += 1
        try:
            request = await self._answered(plan, call, started, pinned)
        finally:
            plan.inflight -= 1
            self._active -= 1
        if request.error is not None:
            raise _failure(request.error)
        return _answer_of(request)

    async def _answered(self, plan: ModelPlan, call: Call, started: int, pinned: Arm | None) -> Request:
        n, pid, parsed = call.n, call.pid or self._ids.next(), _ns()
        limit = plan.route.deadline
        if call.within is not None and call.within < limit:
            limit = call.within
        deadline = _monotonic() + limit - (parsed - started) / 1e9
        request = Request(plan, call, pid, self._micros(), deadline, started, parsed, [None] * n, [""] * n, [], [])
        units = call.units
        if pinned is not None:
            await self._serve(request, PINNED, pinned, None)
        elif plan.router is None:
            await self._serve(request, CHAMPION, plan.champion, None)
        elif isinstance(units, list) or isinstance(call.attributes, list):
            await self._serve_many(request, units or pid)
        else:
            assignment = self._assign(plan, call, units or pid, call.attributes)
            await self._serve(request, assignment, plan.arm_of(assignment), None)
        if self._log is not None:
            written = self._log.put(request.records, alone=self._active == 1)
            if written is not None:
                await written
        return request

    def _assign(self, plan: ModelPlan, call: Call, unit: Any, attributes: Any) -> Assignment:
        router = plan.router
        if router is None:
            return CHAMPION
        return router(unit, attributes, call.wish, plan.off, self._shared.kill_switch)

    async def _serve_many(self, request: Request, units: list[str] | str) -> None:
        plan, call, attributes = request.plan, request.call, request.call.attributes
        groups: dict[Assignment, list[int]] = {}
        for row in range(call.n):
            unit = units[row] if isinstance(units, list) else units
            known = attributes[row] if isinstance(attributes, list) else attributes
            groups.setdefault(self._assign(plan, call, unit, known), []).append(row)
        for assignment, rows in groups.items():
            await self._serve(request, assignment, plan.arm_of(assignment), rows if len(groups) > 1 else None)

    async def _serve(self, request: Request, assignment: Assignment, arm: Arm, rows: list[int] | None) -> None:
        plan = request.plan
        try:
            if self._remote:
                await self._fetch(request, arm)
            matrix, statuses = self._features(request, arm, rows)
        except BadRequest:
            raise
        except Exception as error:
            if not assignment.rival or (self._remote and isinstance(error, Unavailable)):  # not its fault
                raise _store_failure(error) from error
            await self._features_failed(request, assignment, arm, rows, error)
            return
        deadline = request.deadline
        hosted = assignment.control and arm is not plan.champion
        if assignment.control and not hosted and plan.route.control_hosted:
            assignment = UNHOSTED  # the copy is not ready: this answer did not pay the way that the candidate's pays
        if assignment.rival or hosted:
            deadline = plan.candidate_deadline(deadline)
        batcher, ttl = arm.loaded.batcher, plan.route.serving.cache
        if ttl > 0.0 and self._cache is not None and _may_repeat(plan):
            version = arm.loaded.ref.digest, arm.name
            item = await self._cache.answer(version, batcher, matrix, ttl=ttl, deadline=deadline)
        else:
            item = batcher.now(matrix) or await batcher.submit(matrix, deadline)
        fallen: dict[int, Value] = {}
        if hosted and item.errors is not None:  # the copy's trouble is nobody's evidence: the champion itself answers
            if item.gone:
                self._vetoed(plan, VetoReason.HOST_GONE, arm)
            await self._serve(request, UNHOSTED, plan.champion, rows)
            return
        if assignment.rival:
            self._judge(plan, assignment, arm, item)
            if item.absent:  # nothing reached the arm: this is the veto's first request, not its failure
                await self._serve(request, taken(assignment), plan.champion, rows)
                return
            if item.errors is not None:
                fallen = await self._fall_back(request, plan.champion, item.errors, rows)
        elif item.gone and arm is plan.champion:
            await self._champion_gone(request, assignment, rows, matrix, statuses, item)
            return
        self._recorder.record(request, assignment, arm, rows, matrix, statuses, item, fallen)

    async def _champion_gone(
        self, request: Request, assignment: Assignment, rows: list[int] | None, matrix: np.ndarray,
        statuses: np.ndarray, item: Item,
    ) -> None:  # fmt: skip
        """The champion runs in a host that is away: a former one answers, or the host is asked again in time."""
        champion, former = request.plan.champion, successor(request.plan)
        fallen: dict[int, Value] = {}
        if former is not None and item.errors is not None:
            fallen = await self._fall_back(request, former, item.errors, rows)
        else:
            item = await ask_again(champion.loaded.batcher, matrix, request.deadline, item)
        self._recorder.record(request, assignment, champion, rows, matrix, statuses, item, fallen, by=former)

    def _features(self, request: Request, arm: Arm, rows: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
        known = request.features
        if known is None:
            known = request.features = {}
        reader = arm.reader
        found = known.get(id(reader))
        if found is None:
            begin = _ns()
            found = known[id(reader)] = _given(request, arm) or reader.read(
                request.call.columns, request.call.n, request.at
            )
            spent = _ns() - begin
            request.read += spent
            self._slot.count_read(spent // 1000)
        matrix, statuses = found
        if arm.pick is not None:
            matrix, statuses = matrix[:, arm.pick], statuses[:, arm.pick]
        return (matrix, statuses) if rows is None else (matrix[rows], statuses[rows])

    async def _fetch(self, request: Request, arm: Arm) -> None:
        """Read an arm's features from a remote store, where `_features` will find them."""
        known = request.features
        if known is None:
            known = request.features = {}
        reader: Any = arm.reader
        if id(reader) in known:
            return
        begin, state = _ns(), "error"
        read_state.set("")
        try:
            known[id(reader)] = await reader.aread(request.call.columns, request.call.n, request.at)
            state = read_state.get()
        except BadRequest:
            state = ""
            raise
        finally:
            spent = _ns() - begin
            request.read += spent
            self._slot.count_read(spent // 1000, state)
        if state:
            request.state = state if request.state != "defaulted" else "defaulted"

    async def _features_failed(
        self, request: Request, assignment: Assignment, arm: Arm, rows: list[int] | None, error: Exception
    ) -> None:
        """The arm's own features could not be read: an error of that arm, the champion answers."""
        width = len(arm.loaded.service.columns)
        n = request.call.n if rows is None else len(rows)
        item = Item(np.full((n, width), np.nan), request.deadline, None)  # type: ignore[arg-type]  # nobody waits
        item.values = [None] * n
        item.errors = dict.fromkeys(range(n), f"{type(error).__name__}: {error}"[:500])
        self._judge(request.plan, assignment, arm, item)
        fallen = await self._fall_back(request, request.plan.champion, item.errors, rows)
        statuses = np.full((n, width), Status.MISSING, dtype=np.uint8)
        self._recorder.record(request, assignment, arm, rows, item.matrix, statuses, item, fallen)

    async def _fall_back(
        self, request: Request, arm: Arm, errors: dict[int, str], rows: list[int] | None
    ) -> dict[int, Value]:
        """Return the answers of `arm` (the champion, or a former one) to the rows (positions in `rows`) in `errors`."""
        bad = list(errors)
        wanted = bad if rows is None else [rows[k] for k in bad]
        try:
            if self._remote:
                await self._fetch(request, arm)
            matrix, _ = self._features(request, arm, wanted)
        except Exception as error:
            raise _store_failure(error) from error
        until = max(request.deadline, _monotonic() + _GRACE)  # a little late is better than no answer
        batcher = arm.loaded.batcher
        item = batcher.now(matrix) or await batcher.submit(matrix, until)
        if item.gone:
            item = await ask_again(batcher, matrix, until, item)
        if item.errors is not None:
            request.error = next(iter(item.errors.values()))
        return dict(zip(bad, item.values, strict=True))

    def _judge(self, plan: ModelPlan, assignment: Assignment, arm: Arm, item: Item) -> None:
        if item.gone:
            self._vetoed(plan, VetoReason.HOST_GONE, arm)
        elif assignment.drawn and arm.breaker.record(failed=item.errors is not None):
            self._vetoed(plan, VetoReason.FAILURES, arm)


def _admit(batcher: Batcher, plan: ModelPlan, call: Call) -> None:
    """Refuse now what would only be late: rows that wait in vain make others wait too."""
    wait, limit = batcher.predicted_wait(call.n), plan.route.deadline
    if call.within is not None:
        limit = min(limit, call.within)
    if wait > limit * _SURE:
        raise _refused(f"an answer would take about {wait:.2g} s, its deadline is {limit:g} s", wait)


def _refused(why: str, after: float) -> Busy:
    error = Busy(f"{why}; send the request again a little later")
    error.retry_after = max(after, 1.0)
    return error


def _given(request: Request, arm: Arm) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the matrix that a request sent whole, where an arm reads exactly that; None where it has to be read.

    What was sent is finite: everything else was refused when it was parsed.
    """
    call, inputs = request.call, request.plan.inputs
    if call.flat is None or not inputs.plain or arm.fields != inputs.columns:
        return None
    matrix = np.array(call.flat, dtype=np.float64).reshape(call.n, len(inputs.columns))
    return matrix, np.zeros(matrix.shape, dtype=np.uint8)


def _may_repeat(plan: ModelPlan) -> bool:
    return plan.route.serving.cache_in_experiments or not randomised(plan.route)


def _answer_of(request: Request) -> Answer:
    versions = request.versions
    first = versions[0]
    mixed = None if len(versions) == 1 or versions.count(first) == len(versions) else versions
    return Answer(request.id, request.values, first, mixed, request.jobs or None, request.state, request.stages)


def _failure(cause: str) -> FlyballError:
    gone = gone_error(cause)
    if gone is not None:
        return gone
    if cause.startswith(DeadlineExceeded.__name__):
        return DeadlineExceeded("the model gave no answer before the request's deadline; send it again or raise it")
    return FlyballError(f"the model failed: {cause}")


def _store_failure(error: Exception) -> FlyballError:
    if isinstance(error, FlyballError):
        return Unavailable(f"the features cannot be read: {error}")
    return Unavailable(f"the features cannot be read: {type(error).__name__}: {error}")
