"""The six calls of GRPCInferenceService, answered by a gateway: same routing, features, fallback and log as over HTTP.

The surprise: a call is shown to the gateway's checks as the HTTP request it would have been, so keys, roles and limits
are decided in one place; gRPC metadata are its headers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, MissingExtra, Unavailable
from flyball.serving.flow.request import Answer
from flyball.serving.grpc.codec import Facts, call_from, call_of_known, metadata_of, response
from flyball.serving.grpc.messages import PACKAGE, message
from flyball.serving.grpc.wire import Heads
from flyball.serving.http.asgi import Response, Scope, error_response
from flyball.serving.http.handlers.state import version_of_flyball
from flyball.serving.http.rendering import check_depth, check_rows, labelled_of, no_rows
from flyball.serving.http.testers import asked_arm
from flyball.serving.protocol import Call, metadata
from flyball.serving.protocol.answers import outputs_of

try:
    import grpc
except ImportError as error:
    raise MissingExtra.of("gRPC", "grpc") from error

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway
    from flyball.serving.http.front import Front
    from flyball.serving.routing.plan import Arm, ModelPlan

__all__ = ["SERVICE", "Service", "status_of"]

SERVICE = f"{PACKAGE}.GRPCInferenceService"
log = logging.getLogger("flyball.serving")
_Code = grpc.StatusCode
_BY_STATUS = {
    401: _Code.UNAUTHENTICATED, 403: _Code.PERMISSION_DENIED, 404: _Code.NOT_FOUND, 408: _Code.DEADLINE_EXCEEDED,
    409: _Code.ALREADY_EXISTS, 413: _Code.RESOURCE_EXHAUSTED, 429: _Code.RESOURCE_EXHAUSTED,
}  # fmt: skip
_OPEN = frozenset({f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"})
_EXTENSIONS = ("binary_tensor_data",)
Method = Callable[[bytes, Scope, Any], Awaitable[Response]]
Asked = Any  # a ModelInferRequest, or its known head and the bytes of its tensor


class Service:
    """Answer calls, given and returned as bytes.

    Args:
        gateway: What answers.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._heads = Heads()

    @property
    def handler(self) -> Any:
        """What a grpc.aio server is given."""
        calls: dict[str, Method] = {
            "ServerLive": self._live, "ServerReady": self._ready, "ModelReady": self._model_ready,
            "ServerMetadata": self._server, "ModelMetadata": self._model, "ModelInfer": self._infer,
        }  # fmt: skip
        return _Handlers(
            self._gateway.front,
            {
                f"/{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(self._answering(name, call))
                for name, call in calls.items()
            },
        )

    async def _live(self, body: bytes, scope: Scope, context: Any) -> Response:
        return Response(_LiveAnswer(live=True).SerializeToString())

    async def _ready(self, body: bytes, scope: Scope, context: Any) -> Response:
        return Response(_ReadyAnswer(ready=self._gateway.ready).SerializeToString())

    async def _server(self, body: bytes, scope: Scope, context: Any) -> Response:
        self._gateway.check_key(scope)
        return Response(
            _ServerAnswer(name="flyball", version=version_of_flyball(), extensions=_EXTENSIONS).SerializeToString()
        )

    async def _model_ready(self, body: bytes, scope: Scope, context: Any) -> Response:
        request = _decoded(_ModelReady, body)
        scope["path"] = _path(request.name, request.version, "ready")
        self._gateway.check_key(scope)
        try:
            await self._found(scope, request.name, request.version)
        except Unavailable:
            return Response(_ModelReadyAnswer(ready=False).SerializeToString())
        return Response(_ModelReadyAnswer(ready=True).SerializeToString())

    async def _model(self, body: bytes, scope: Scope, context: Any) -> Response:
        request = _decoded(_ModelMetadata, body)
        scope["path"] = _path(request.name, request.version, "")
        self._gateway.check_key(scope)
        plan, _ = await self._found(scope, request.name, request.version)
        return Response(metadata_of(metadata(plan.route.model, sorted(plan.pinned), plan.inputs)))

    async def _infer(self, body: bytes, scope: Scope, context: Any) -> Response:
        started = time.perf_counter_ns()
        found = self._heads.find(body)
        if found is not None:
            asked: Asked = found
            scope["path"] = found[0].path
        else:
            asked = _decoded(_Infer, body)
            scope["path"] = _path(asked.model_name, asked.model_version, "infer")
            self._heads.learn(_Infer, body, asked, scope["path"])
        self._gateway.check_key(scope)
        if "flyball.idempotency" not in scope:
            return await self._inferred(asked, scope, context, started, "")
        model, version = (found[0].model, found[0].version) if found else (asked.model_name, asked.model_version)
        self._gateway.check_read(scope, (await self._found(scope, model, version))[0])  # also of what is said again
        apart = {**scope, "path": f"grpc {scope['path']}"}  # the same key over HTTP has another form of answer
        pid = self._gateway.keyed(apart, body)
        return await self._gateway.once(apart, body, lambda: self._inferred(asked, scope, context, started, pid))

    async def _inferred(self, asked: Asked, scope: Scope, context: Any, started: int, pid: str) -> Response:
        gateway = self._gateway
        if isinstance(asked, tuple):
            head, data = asked
            plan, pinned = gateway.tables.infer.get(head.path) or await self._found(scope, head.model, head.version)
            gateway.check_read(scope, plan)
            call, raw = call_of_known(head, data, plan.inputs), True
        else:
            plan, pinned = await self._found(scope, asked.model_name, asked.model_version)
            gateway.check_read(scope, plan)
            call, raw = call_from(asked, plan.inputs), bool(asked.raw_input_contents)
        if call.n != 1:
            check_rows(plan, call.n, gateway.max_rows)
        if call.attributes is not None:
            check_depth(call.attributes, gateway.max_depth)
        if plan.testers:
            call.wish = asked_arm(scope, plan)
        call.within, call.pid = context.time_remaining(), pid
        if call.n:
            answer = await gateway.predict(plan, call, started, pinned)
        else:
            answer = no_rows(plan, pinned.version if pinned else "")
        encoded = self._encoded(plan, call, answer, raw=raw)
        return Response(encoded, after=gateway.after(answer), model=plan.route.model, version=answer.version)

    @staticmethod
    def _encoded(plan: ModelPlan, call: Call, answer: Answer, *, raw: bool) -> bytes:
        facts: Facts = {"table_version": plan.table, "model_version": answer.version}
        if answer.id:
            facts["prediction_id"] = answer.id
        if answer.versions is not None:
            facts["model_versions"] = ",".join(answer.versions)
        if answer.features:
            facts["features"] = answer.features
        outputs = outputs_of(answer.values, labelled_of(plan, answer), plan.inputs.width)
        if call.wanted is not None:
            outputs = [output for name in call.wanted.names for output in outputs if output[0] == name]
        return response(plan.route.model, answer.version, call.id or answer.id, facts, outputs, raw=raw)

    async def _found(self, scope: Scope, model: str, version: str) -> tuple[ModelPlan, Arm | None]:
        """Return a model's plan and, when a version is named, its arm; 404 for unknown ones, 403 for others' keys."""
        self._gateway.check_model(scope, model)
        found = self._gateway.tables.infer.get(_path(model, version, "infer"))
        return found if found is not None else await self._gateway.named(model, version or None)

    def _answering(self, name: str, call: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Have a call stand in front of the gateway as HTTP does, and its errors told by their status."""
        front = self._gateway.front

        async def answered(body: bytes, context: Any) -> bytes:
            started, code, text = time.perf_counter_ns(), _Code.OK, ""
            scope = _scope(context, f"/{SERVICE}/{name}")
            try:
                front.enter(scope)
                answer = await call(body, scope, context)
            except FlyballError as error:
                answer, code, text = error_response(error), status_of(error), str(error)
            except Exception as error:
                log.exception("gRPC call failed")
                answer, code, text = error_response(error), _Code.INTERNAL, f"internal error: {type(error).__name__}"
            if not front.quiet(scope, answer.status):
                front.leave(scope, answer, started)
            trailers = tuple((key.decode(), value.decode()) for key, value in answer.headers) if answer.headers else ()
            if code is not _Code.OK:
                await context.abort(code, text, trailers)
            if trailers:
                context.set_trailing_metadata(trailers)
            if answer.after is not None:
                asyncio.get_running_loop().call_soon(answer.after)
            return answer.body

        return answered


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Find what answers a call, before its message is read: who has no key is not listened to.

    The surprise: such a call is answered as a stream, because of a stream nothing is received unless asked for.
    """

    def __init__(self, front: Front, handlers: dict[str, Any]) -> None:
        self._front = front
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call, None for an unknown method."""
        method = handler_call_details.method
        if self._front.keyed and method not in _OPEN:
            scope = _scoped(handler_call_details.invocation_metadata, method)
            try:
                self._front.enter(scope)
                self._front.check_known(scope)
            except FlyballError as error:
                return self._refusing(scope, error)
        return self._handlers.get(method)

    def _refusing(self, scope: Scope, error: FlyballError) -> Any:
        async def refuse(messages: Any, context: Any) -> None:
            answer = error_response(error)
            self._front.leave(scope, answer, time.perf_counter_ns())
            trailers = tuple((key.decode(), value.decode()) for key, value in answer.headers or ())
            await context.abort(status_of(error), str(error), trailers)

        return grpc.stream_unary_rpc_method_handler(refuse)


def status_of(error: Exception) -> Any:
    """Return the status code that says what an error means to a caller."""
    match error:
        case BadRequest():
            return _BY_STATUS.get(error.status, _Code.INVALID_ARGUMENT)
        case DeadlineExceeded():
            return _Code.DEADLINE_EXCEEDED
        case Busy():
            return _Code.RESOURCE_EXHAUSTED
        case Unavailable():
            return _Code.UNAVAILABLE
        case _:
            return _Code.INTERNAL


def _decoded(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except Exception as error:  # protobuf's DecodeError, whose home differs between its implementations
        raise BadRequest(f"the message does not read as {kind.DESCRIPTOR.name}: {error}") from error


def _scope(context: Any, path: str) -> Scope:
    return _scoped(context.invocation_metadata(), path)


def _scoped(metadata: Any, path: str) -> Scope:
    headers = [(key.encode(), value.encode() if isinstance(value, str) else value) for key, value in metadata or ()]
    return {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "client": None}


def _path(model: str, version: str, verb: str) -> str:
    path = f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"
    return f"{path}/{verb}" if verb else path


_Infer = message("ModelInferRequest")
_ModelMetadata = message("ModelMetadataRequest")
_ModelReady = message("ModelReadyRequest")
_ModelReadyAnswer = message("ModelReadyResponse")
_LiveAnswer = message("ServerLiveResponse")
_ReadyAnswer = message("ServerReadyResponse")
_ServerAnswer = message("ServerMetadataResponse")
