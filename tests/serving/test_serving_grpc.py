"""GRPCInferenceService over a real channel on loopback: the same answers as HTTP, and what is wrong is told."""

from __future__ import annotations

import httpx
import numpy as np
from grpc_kit import Code, Infer, code_of, kit_gateway, raw, run, served, typed
from serving_kit import Kit, double, infer_body, table, triple

from flyball.serving.grpc.messages import message


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
