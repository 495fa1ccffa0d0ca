"""GRPCInferenceService over a real channel on loopback: the same answers as HTTP, proper codes, TLS, deadlines."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from serving_kit import Kit, double, infer_body, table, triple

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, MissingExtra, Unavailable
from flyball.node.grpc import GrpcServer
from flyball.serving.grpc import messages
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.service import SERVICE, status_of
from flyball.serving.http.access import Access

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


def test_the_six_calls_answer(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(3, kit.ref("v1")))
        async with served(gateway) as call:
            empty = b""
            assert (await call.start("ServerLive", empty, "ServerLiveResponse")).live
            assert (await call.start("ServerReady", empty, "ServerReadyResponse")).ready
            named = message("ModelReadyRequest")(name="eta")
            assert (await call.start("ModelReady", named, "ModelReadyResponse")).ready
            server = await call.start("ServerMetadata", empty, "ServerMetadataResponse")
            assert server.name == "flyball" and server.version
            found = await call.start("ModelMetadata", named, "ModelMetadataResponse")
            assert found.name == "eta" and list(found.versions) == ["v1"]
            assert [(i.name, i.datatype, list(i.shape)) for i in found.inputs] == [
                ("distance", "FP64", [-1]), ("zone", "INT64", [-1]),
            ]  # fmt: skip
            answer = await call.infer(typed())
            assert list(answer.outputs[0].contents.fp64_contents) == [4.0]
            assert (answer.model_name, answer.model_version) == ("eta", "v1")
            assert answer.parameters["table_version"].int64_param == 3

    run(story())


def test_raw_and_typed_contents_give_equal_numbers_each_in_its_own_form(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        values = np.random.default_rng(1).normal(size=40)
        zones = list(range(40))
        async with served(gateway) as call:
            one = await call.infer(typed(values.tolist(), zones))
            other = await call.infer(raw(values, zones))
        assert not one.raw_output_contents and not other.outputs[0].HasField("contents")
        np.testing.assert_array_equal(np.frombuffer(other.raw_output_contents[0], "<f8"), values * 2)
        assert list(one.outputs[0].contents.fp64_contents) == (values * 2).tolist()
        assert list(one.outputs[0].shape) == [40]

    run(story())


def test_the_same_request_over_http_and_grpc_has_the_same_answer_and_both_are_logged(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        async with (
            served(gateway) as call,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway), base_url="http://g") as http,
        ):
            body = (await http.post("/v2/models/eta/infer", json=infer_body(unit="rider"))).json()
            request = typed(id="mine")
            request.parameters["unit"].string_param = "rider"
            answer = await call.infer(request)
            assert list(answer.outputs[0].contents.fp64_contents) == body["outputs"][0]["data"]
            assert answer.id == "mine"
        records = kit.records()
        assert [r.unit for r in records] == ["rider", "rider"]
        assert records[0].inputs == records[1].inputs
        assert records[1].id == answer.parameters["prediction_id"].string_param

    run(story())


def test_units_per_row_and_attributes_travel_as_json(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        request = typed((1.0, 2.0), (1, 2))
        request.parameters["units"].string_param = '["a", 7]'
        request.parameters["attributes"].string_param = '{"country": "DE"}'
        async with served(gateway) as call:
            await call.infer(request)
            request.parameters["units"].string_param = "[1"
            code, text = await code_of(call.infer(request))
            assert code is Code.INVALID_ARGUMENT and "units is no JSON" in text
        assert [r.unit for r in kit.records()] == ["a", "7"]

    run(story())


def test_a_version_can_be_asked_for_by_name(tmp_path):
    async def story():
        kit = Kit(tmp_path, v1=double, v2=triple)
        gateway = kit.gateway()
        await gateway.swap(table(1, kit.ref("v1"), warm=(kit.ref("v2"),)))
        async with served(gateway) as call:
            answer = await call.infer(typed(version="v2"))
            assert list(answer.outputs[0].contents.fp64_contents) == [6.0] and answer.model_version == "v2"
            code, text = await code_of(call.infer(typed(version="v9")))
            assert code is Code.NOT_FOUND and "'v9' of eta is not served" in text

    run(story())


def test_no_rows_are_answered_with_no_rows(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            answer = await call.infer(typed((), (), shape=[0]))
            assert list(answer.outputs[0].shape) == [0]
        assert kit.records() == []

    run(story())


def wrong(**change):
    request = typed()
    for name, value in change.items():
        setattr(request.inputs[0], name, value)
    return request


def test_what_a_caller_gets_wrong_is_told_and_the_next_call_is_answered(tmp_path):
    half = raw()
    del half.raw_input_contents[1:]
    both = raw()
    both.inputs[0].contents.fp64_contents.append(1.0)
    short = raw()
    short.raw_input_contents[0] = b"1234"
    many = typed(shape=[-5])
    huge = raw()
    huge.inputs[0].shape[:] = [1 << 60]
    nan = typed((float("nan"),))
    asked = typed()
    asked.outputs.add(name="nothing")
    cases = [
        (wrong(name="distanze"), Code.INVALID_ARGUMENT, "did you mean distance"),
        (wrong(datatype="FP99"), Code.INVALID_ARGUMENT, "FP99"),
        (typed(model="etta"), Code.NOT_FOUND, "did you mean eta"),
        (typed((1.0, 2.0), (1,)), Code.INVALID_ARGUMENT, "rows"),
        (half, Code.INVALID_ARGUMENT, "2 inputs but 1 raw_input_contents"),
        (both, Code.INVALID_ARGUMENT, "one way"),
        (short, Code.INVALID_ARGUMENT, "4 bytes"),
        (many, Code.INVALID_ARGUMENT, "shape"),
        (huge, Code.INVALID_ARGUMENT, "agree"),
        (nan, Code.INVALID_ARGUMENT, "nan"),
        (asked, Code.INVALID_ARGUMENT, "nothing"),
        (b"\xff\xff\xff no message", Code.INVALID_ARGUMENT, "ModelInferRequest"),
        (Infer(model_name="eta"), Code.INVALID_ARGUMENT, ""),
    ]  # fmt: skip

    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            for request, code, part in cases:
                found, text = await code_of(call.infer(request))
                assert (found, part in text) == (code, True), (text, part)
                assert (await call.infer(typed())).outputs

    run(story())


def test_a_message_larger_than_max_body_is_refused_before_it_is_read(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path, max_body=10_000)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            code, _ = await code_of(call.infer(raw([1.0] * 2000, [1] * 2000)))
            assert code is Code.RESOURCE_EXHAUSTED

    run(story())


def test_more_rows_than_the_limit_are_refused(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path, max_rows=3)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            code, text = await code_of(call.infer(raw([1.0] * 4, [1] * 4)))
            assert code is Code.RESOURCE_EXHAUSTED and "at most 3" in text

    run(story())


def test_keys_are_checked_as_over_http(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path, key=b"s3cret-key")
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            assert (await code_of(call.infer(typed())))[0] is Code.UNAUTHENTICATED
            wrong = (("authorization", "Bearer nope"),)
            code, text = await code_of(call.infer(typed(), metadata=wrong))
            assert code is Code.UNAUTHENTICATED and "nope" not in text
            for metadata in ((("authorization", "Bearer s3cret-key"),), (("x-api-key", "s3cret-key"),)):
                assert (await call.infer(typed(), metadata=metadata)).outputs
            assert (await call.start("ServerLive", b"", "ServerLiveResponse")).live  # health needs no key
            assert (await code_of(call.start("ServerMetadata", b"", "ServerMetadataResponse")))[
                0
            ] is Code.UNAUTHENTICATED

    run(story())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("x"), Code.INVALID_ARGUMENT), (BadRequest("x", 401), Code.UNAUTHENTICATED),
        (BadRequest("x", 403), Code.PERMISSION_DENIED), (BadRequest("x", 404), Code.NOT_FOUND),
        (BadRequest("x", 413), Code.RESOURCE_EXHAUSTED), (BadRequest("x", 429), Code.RESOURCE_EXHAUSTED),
        (Busy("x"), Code.RESOURCE_EXHAUSTED), (Unavailable("x"), Code.UNAVAILABLE),
        (DeadlineExceeded("x"), Code.DEADLINE_EXCEEDED), (FlyballError("x"), Code.INTERNAL), (KeyError("x"), Code.INTERNAL),
    ],
)  # fmt: skip
def test_every_error_has_its_code(error, code):
    assert status_of(error) is code


def test_a_failing_model_is_an_internal_error_and_says_no_more_than_over_http(tmp_path):
    def fails(matrix):
        if matrix[0, 0] < 0:
            raise ValueError("bad distance")
        return matrix[:, 0]

    async def story():
        kit, gateway = kit_gateway(tmp_path, fails)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            code, text = await code_of(call.infer(typed((-1.0,))))
            assert code is Code.INTERNAL and "the model failed" in text
            assert (await call.infer(typed())).outputs

    run(story())


def test_the_callers_deadline_shortens_the_requests(tmp_path):
    """The route allows 5 s, the caller waits 0.3 s: the rows leave the queue when nobody waits for them any more."""
    release = threading.Event()
    calls = []

    def slow(matrix):
        calls.append(len(matrix))
        if len(calls) > 8:
            release.wait(5)
        else:
            time.sleep(0.01)  # an expensive model: it gets its own thread
        return matrix[:, 0]

    async def story():
        kit, gateway = kit_gateway(tmp_path, slow)
        await gateway.swap(table(1, kit.ref("v1"), deadline=5.0))
        async with served(gateway) as call:
            calls[:] = [0] * 8
            first = asyncio.ensure_future(code_of(call.infer(typed(), timeout=0.3)))
            second = asyncio.ensure_future(code_of(call.infer(typed((7.0,)), timeout=0.3)))
            assert (await first)[0] is Code.DEADLINE_EXCEEDED
            assert (await second)[0] is Code.DEADLINE_EXCEEDED
            release.set()
            answer = await call.infer(typed((3.0,)))
            assert list(answer.outputs[0].contents.fp64_contents) == [3.0]

    run(story())


def test_a_cancelled_call_leaves_the_gateway_free(tmp_path):
    release, entered = threading.Event(), threading.Event()
    slow_now = False

    def slow(matrix):
        if slow_now:
            entered.set()
            release.wait(5)
        else:
            time.sleep(0.005)
        return matrix[:, 0]

    async def story():
        nonlocal slow_now
        kit, gateway = kit_gateway(tmp_path, slow)
        await gateway.swap(table(1, kit.ref("v1"), deadline=5.0))
        async with served(gateway) as call:
            slow_now = True
            under_way = call.start("ModelInfer", typed(), "ModelInferResponse")
            assert await asyncio.to_thread(entered.wait, 5)
            assert under_way.cancel()
            release.set()
            slow_now = False
            assert (await call.infer(typed())).outputs
            end = time.monotonic() + 5
            while gateway.plans["eta"].inflight:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)

    run(story())


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate of localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))  # fmt: skip
    return paths


def test_tls_by_file(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        pair = certificate(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway, tls=pair, root=pair[0].read_bytes()) as call:
            assert (await call.infer(typed())).outputs

    run(story())


def test_a_missing_certificate_is_named(tmp_path):
    async def story():
        gateway = kit_gateway(tmp_path)[1]
        server = GrpcServer(gateway, host="127.0.0.1", port=0, tls=(tmp_path / "no.pem", tmp_path / "no.key"))
        with pytest.raises(FlyballError, match=r"no\.pem"):
            await server.start()
        await gateway.close()

    run(story())


def test_workers_share_one_port(tmp_path):
    async def story():
        first = kit_gateway(tmp_path)[1]
        second = Kit(tmp_path / "b", v1=double).gateway()
        servers = [GrpcServer(first, host="127.0.0.1", port=0)]
        port = await servers[0].start()
        servers.append(GrpcServer(second, host="127.0.0.1", port=port))
        assert await servers[1].start() == port
        for server, gateway in zip(servers, (first, second), strict=True):
            await server.stop(0.1)
            await gateway.close()

    run(story())


def test_a_missing_extra_is_named(monkeypatch):
    from flyball.node.grpc import require_grpc

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"flyball\[grpc\]"):
        require_grpc()


def test_the_proto_file_says_what_the_table_says(tmp_path):
    """The file for other languages and the table that the gateway uses are the same messages, field by field."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools compiles the file in make test-all")
    home = Path(messages.__file__).parent
    out = tmp_path / "set.pb"
    assert protoc.main(["protoc", f"-I{home}", f"--descriptor_set_out={out}", "inference.proto"]) == 0
    wanted = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    made = descriptor_pb2.FileDescriptorProto()
    message("ModelInferRequest").DESCRIPTOR.file.CopyToProto(made)
    assert facts(made) == facts(wanted)


def facts(file):
    found = {}

    def walk(entry, prefix):
        for field in entry.field:
            oneof = field.HasField("oneof_index")
            found[f"{prefix}{entry.name}.{field.name}"] = (
                field.number,
                field.type,
                field.label,
                field.type_name,
                oneof,
            )
        found[f"{prefix}{entry.name}"] = len(entry.field)
        for inner in entry.nested_type:
            walk(inner, f"{prefix}{entry.name}.")

    for entry in file.message_type:
        walk(entry, "")
    return found


def test_an_answer_carries_the_request_id_that_was_sent(tmp_path):
    async def story():
        kit, gateway = kit_gateway(tmp_path)
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            under_way = call.start("ModelInfer", typed(), "ModelInferResponse", metadata=(("x-request-id", "abc-1"),))
            await under_way
            assert dict(await under_way.trailing_metadata())["x-request-id"] == "abc-1"

    run(story())


def test_access_files_decide_over_grpc_too(tmp_path):
    from flyball.serving.http.access import AccessFile, hash_of

    path = tmp_path / "access.json"
    path.write_bytes(msgspec_json(Access(keys={hash_of("k1"): "rider"}, closed=True)))

    async def story():
        kit, gateway = kit_gateway(tmp_path, access=AccessFile(path))
        await gateway.swap(table(1, kit.ref("v1")))
        async with served(gateway) as call:
            assert (await code_of(call.infer(typed())))[0] is Code.UNAUTHENTICATED
            assert (await call.infer(typed(), metadata=(("x-api-key", "k1"),))).outputs

    run(story())


def msgspec_json(value) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def test_who_has_no_key_is_refused_before_a_message_was_sent(tmp_path):
    async def story():
        kit = Kit(tmp_path, v1=double)
        gateway = kit.gateway(key=b"secret", log=None)
        await gateway.swap(table(1, kit.ref("v1")))

        async def nothing():
            await asyncio.Event().wait()
            yield b""

        found = {}
        async with served(gateway) as caller:
            for name in ("ModelInfer", "ModelMetadata", "ServerMetadata"):
                call = caller.channel.stream_unary(f"/{SERVICE}/{name}")
                asked = call(nothing(), timeout=4, metadata=(("x-api-key", "wrong"), ("x-request-id", "r1")))
                found[name] = await asked.code(), dict(await asked.trailing_metadata())
            right = await caller.infer(typed(), metadata=(("x-api-key", "secret"),))
            live = await caller.start("ServerLive", message("ServerLiveRequest")(), "ServerLiveResponse")
        return found, right.model_version, live.live

    found, version, live = asyncio.run(story())
    assert {code for code, _ in found.values()} == {Code.UNAUTHENTICATED}
    assert all(said["x-request-id"] == "r1" and said["www-authenticate"] == "Bearer" for _, said in found.values())
    assert (version, live) == ("v1", True)
