"""What a request leaves behind: its log records, its counts, and the rows that the other arm is to answer too."""

from __future__ import annotations

import time

import numpy as np

from flyball.records.types import Prediction
from flyball.serving.flow.request import Request, Value
from flyball.serving.flow.shadow import ShadowJob
from flyball.serving.models.batcher import Item
from flyball.serving.routing.plan import Arm
from flyball.serving.routing.router import CANDIDATE, Assignment, mirrored
from flyball.serving.shared.slots import SharedMap, Slot

__all__ = ["Recorder"]

_ns = time.perf_counter_ns


class Recorder:
    """Record the requests of one worker."""

    def __init__(self, shared: SharedMap, slot: Slot) -> None:
        """Count in `slot`; `shared` says whether candidate traffic is off."""
        self._shared = shared
        self._slot = slot

    def record(
        self,
        request: Request,
        assignment: Assignment,
        arm: Arm,
        rows: list[int] | None,
        matrix: np.ndarray,
        statuses: np.ndarray,
        item: Item,
        fallen: dict[int, Value],
        by: Arm | None = None,
    ) -> None:
        """Add the records of `rows` (None: all) answered by `arm` to the request, and set their values."""
        call, errors, plan = request.call, item.errors, request.plan
        features = matrix.tolist()
        total = (_ns() - request.started) // 1000
        stages = ((request.parsed - request.started) // 1000, request.read // 1000, item.wait, item.run)
        request.stages = stages
        width = statuses.shape[1]
        packed = statuses.tobytes()
        units, cached, protect = call.units, item.cached, plan.protect
        mirrors = plan.candidate is not None and assignment.drawn
        for k in range(len(features)):
            row = k if rows is None else rows[k]
            rid = request.id if row == 0 else f"{request.id}#{row}"
            unit = kept = units[row] if isinstance(units, list) else units or request.id
            error = errors.get(k) if errors is not None else None
            value, version, fallback = item.values[k], arm.version, False
            if k in fallen:
                value, version = fallen[k], (by or plan.champion).version
                fallback = value is not None
            elif error is not None:
                request.error = error
            inputs = {name: column[row] for name, column in call.columns.items()}
            if protect is not None:  # the one place through which a row's personal fields reach the log
                inputs, kept = protect.inputs(inputs), protect.unit(unit) if units else unit
                protect.features(arm.loaded.service, features[k])
            request.values[row], request.versions[row] = value, version
            request.records.append(
                Prediction(
                    rid,
                    plan.route.model,
                    version,
                    assignment.arm,
                    plan.table,
                    kept,
                    request.at,
                    inputs,
                    features[k],
                    packed[k * width : (k + 1) * width],
                    value,
                    error,
                    fallback,
                    stages,
                    total,
                    assignment.control,
                    assignment.why,
                    request.state,
                    cached is not None and k in cached and not fallback,
                    "" if protect is None else protect.names,
                )
            )
            if mirrors and error is None:
                self._mirror(request, assignment, row, rid, unit, kept)
        self._slot.count(arm.index, total, len(features), error=errors is not None, fallback=bool(fallen))

    def _mirror(self, request: Request, assignment: Assignment, row: int, rid: str, unit: str, kept: str) -> None:
        plan = request.plan
        if assignment is CANDIDATE:
            other = plan.champion if plan.route.pair else None
        else:
            wanted = (
                not assignment.rival and not plan.vetoed and mirrored(plan.route, unit) and not self._shared.kill_switch
            )
            other = plan.candidate if wanted else None
        if other is None:
            return
        found = (request.features or {}).get(id(other.reader))
        matrix = None
        if found is not None:
            matrix = found[0][row : row + 1]
            matrix = matrix if other.pick is None else matrix[:, other.pick]
        inputs = {}
        if matrix is None:  # the other arm reads features of its own
            inputs = {name: column[row : row + 1] for name, column in request.call.columns.items()}
        request.jobs.append(ShadowJob(plan, other, rid, kept, request.at, inputs, matrix, request.values[row]))
