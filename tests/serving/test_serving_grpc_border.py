"""The border of gRPC: keys, error codes, deadlines, cancelled calls, TLS, one port for all workers, the extra."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_kit import Code, code_of, kit_gateway, run, served, typed
from serving_kit import Kit, double, table

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, MissingExtra, Unavailable
from flyball.node.grpc import GrpcServer
from flyball.serving.grpc import messages
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.service import SERVICE, status_of
from flyball.serving.http.access import Access


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
