"""Turn what the models said into the bytes of a response, in the form that the caller asked for.

The surprise: classes are looked up by the version that answered, because a candidate or a pinned version may know
others than the champion, and one request's rows may be answered by several.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from flyball.errors import BadRequest
from flyball.serving.flow.request import Answer
from flyball.serving.http.asgi import Response
from flyball.serving.protocol import Call, Labelled, encode_infer, encode_rows, encode_wanted, label
from flyball.serving.routing.plan import ModelPlan

__all__ = [
    "INFER_TYPES",
    "LARGE",
    "apart",
    "check_depth",
    "check_rows",
    "infer_response",
    "labelled_of",
    "no_rows",
    "rows_response",
]

_BINARY = b"application/octet-stream"
LARGE = 1 << 18  # bytes of a body that is not read on the event loop, where it would hold up everybody else
INFER_TYPES = (b"application/json", b"application/octet-stream")
_LENGTH = b"inference-header-content-length"
After = Callable[[], None] | None
T = TypeVar("T")


async def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` returns, on the one thread of this process that reads large bodies.

    One at a time: a body of a few megabytes can become a gigabyte of objects on the way to being refused, and reading
    holds the interpreter, so that several at once would only hold up everybody else.
    """
    return await asyncio.get_running_loop().run_in_executor(_reading(), lambda: work(*arguments))


@lru_cache(maxsize=1)
def _reading() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="reading")


def check_rows(plan: ModelPlan, n: int, limit: int) -> None:
    """Raise BadRequest unless `n` rows are few enough: for the model's own limit, or else the server's (0: none)."""
    most = plan.inputs.max_rows or limit
    if most and n > most:
        raise BadRequest(f"the request has {n} rows, at most {most} are taken; send fewer rows at once", 413)


def check_depth(value: Any, most: int) -> None:
    """Raise BadRequest when lists and objects nest deeper than `most` levels; looked at level by level."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for v in level
            if isinstance(v, list | dict)
            for inner in (v.values() if isinstance(v, dict) else v)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise BadRequest(f"the parameter attributes nests deeper than {most} levels; send flat attributes")


def no_rows(plan: ModelPlan, version: str = "") -> Answer:
    """Return the answer to a request without rows: nothing is asked of the model, nothing is logged."""
    return Answer("", [], version or plan.champion.version)


def labelled_of(plan: ModelPlan, answer: Answer) -> Labelled | None:
    """Return a classifier's classes and probabilities, None when the answer is numbers."""
    values, versions = answer.values, answer.versions
    if not values:
        return None if plan.inputs.classes is None else Labelled(plan.inputs.classes, [], [])
    if type(values[0]) is not list:
        return None
    if versions is None:
        own = _classes(plan, answer.version)
        return label(values, own) if own is not None and len(own) == len(values[0]) else None
    each = [_classes(plan, version) for version in versions]
    known = [own for own, row in zip(each, values, strict=True) if own is not None and len(own) == len(row)]
    return label(values, known) if len(known) == len(values) else None


def infer_response(plan: ModelPlan, call: Call, answer: Answer, after: After = None) -> Response:
    """Return the response to V2 inference."""
    model, table, wanted = plan.route.model, plan.table, call.wanted
    labelled = labelled_of(plan, answer) if not answer.values or type(answer.values[0]) is list else None
    if wanted is None:
        body = encode_infer(
            model, answer.version, answer.id, table, answer.values, id=call.id, versions=answer.versions,
            features=answer.features, labelled=labelled, width=plan.inputs.width,
        )  # fmt: skip
        return Response(body, after=after, model=model, version=answer.version, stages=answer.stages)
    body, length = encode_wanted(
        wanted, model, answer.version, answer.id, table, answer.values, id=call.id, versions=answer.versions,
        features=answer.features, labelled=labelled, width=plan.inputs.width,
    )  # fmt: skip
    response = Response(body, after=after, model=model, version=answer.version, stages=answer.stages)
    if length is not None:
        response.type, response.headers = _BINARY, [(_LENGTH, b"%d" % length)]
    return response


def rows_response(plan: ModelPlan, call: Call, answer: Answer, started: int, after: After = None) -> Response:
    """Return the response to `/predict`; `started` is `perf_counter_ns` at admission."""
    body = encode_rows(
        plan.route.model, answer.version, answer.id, plan.table, answer.values, versions=answer.versions,
        features=answer.features, labelled=labelled_of(plan, answer), single=call.single,
        latency_ms=(time.perf_counter_ns() - started) / 1e6,
    )  # fmt: skip
    return Response(body, after=after, model=plan.route.model, version=answer.version, stages=answer.stages)


def _classes(plan: ModelPlan, version: str) -> Any:
    arm = plan.pinned.get(version)
    return plan.inputs.classes if arm is None else arm.loaded.classes
