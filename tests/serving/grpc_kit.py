"""What the tests of gRPC share: a gateway behind a real server on loopback, and a caller of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_kit import Kit, double

from flyball.node.grpc import GrpcServer
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.service import SERVICE

Code = grpc.StatusCode
Infer, Inferred = message("ModelInferRequest"), message("ModelInferResponse")


class Caller:
    """Call by name; every call has a deadline, so that a test cannot hang."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def start(self, name: str, request, answer: str, *, timeout: float = 5.0, metadata=()):
        call = self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=message(answer).FromString,
        )
        return call(request, timeout=timeout, metadata=metadata)

    async def infer(self, request, **options):
        return await self.start("ModelInfer", request, "ModelInferResponse", **options)


@asynccontextmanager
async def served(gateway, tls=None, root: bytes | None = None) -> AsyncIterator[Caller]:
    server = GrpcServer(gateway, host="127.0.0.1", port=0, tls=tls)
    port = await server.start()
    if root is None:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    else:
        channel = grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root))
    try:
        async with channel:
            yield Caller(channel)
    finally:
        await server.stop(1.0)
        await gateway.close()


def typed(distance=(2.0,), zone=(74,), model="eta", version="", shape=None, **facts):
    request = Infer(model_name=model, model_version=version, **facts)
    first = request.inputs.add(name="distance", datatype="FP64", shape=shape or [len(distance)])
    first.contents.fp64_contents.extend(distance)
    second = request.inputs.add(name="zone", datatype="INT64", shape=shape or [len(zone)])
    second.contents.int64_contents.extend(zone)
    return request


def raw(distance=(2.0,), zone=(74,), model="eta"):
    request = Infer(model_name=model)
    request.inputs.add(name="distance", datatype="FP64", shape=[len(distance)])
    request.inputs.add(name="zone", datatype="INT64", shape=[len(zone)])
    request.raw_input_contents.append(np.asarray(distance, dtype="<f8").tobytes())
    request.raw_input_contents.append(np.asarray(zone, dtype="<i8").tobytes())
    return request


async def code_of(work) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value.code(), caught.value.details()


def kit_gateway(tmp_path: Path, predict=double, **options):
    kit = Kit(tmp_path, v1=predict)
    return kit, kit.gateway(**options)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))
