"""What a hostile caller found once: each request here cost a worker far more than it cost its sender, or let it see."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import numpy as np
import pytest
from serving_kit import Kit, double, infer_body, table

from flyball.errors import BadRequest, Busy, nearest, shown
from flyball.features.spec import InputSpec
from flyball.serving.http.access import Access, AccessFile, KeyGrant, hash_of
from flyball.serving.http.asgi import AT_ONCE, Response, read_body
from flyball.serving.http.front import Front
from flyball.serving.http.idempotency import Replays
from flyball.serving.http.rendering import apart
from flyball.serving.models.batcher import Batcher
from flyball.serving.protocol import Signature, parse_infer, rows_call
from flyball.testing.in_process import client

MILES = Signature.of([InputSpec("miles", "float64")])
ROWS = {"name": "miles", "shape": [3], "datatype": "FP64", "data": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize("unit", ["u" * 513, ["a", "b", "u" * 513], ["a", "b", ""], ["a", "b", True], [1, 2, 1.5]])
def test_a_unit_that_each_rows_record_would_repeat_is_bounded(unit):
    body = json.dumps({"inputs": [ROWS], "parameters": {"unit": unit}}).encode()
    with pytest.raises(BadRequest, match="at most 512 characters"):
        parse_infer(body, MILES)
    with pytest.raises(BadRequest, match="at most 512 characters"):
        rows_call({"rows": [{"miles": 1.0}] * 3, "unit": unit}, MILES)


def test_a_unit_of_512_characters_is_taken():
    body = json.dumps({"inputs": [ROWS], "parameters": {"unit": ["u" * 512, 7, "c"]}}).encode()
    assert parse_infer(body, MILES).units == ["u" * 512, "7", "c"]


def test_a_name_of_megabytes_is_compared_with_no_other():
    assert nearest("e" * 3_000_000, ["eta"] * 1000) == []
    assert nearest("ets", ["eta", "other"]) == ["eta"]


class Counted(list):
    looked = 0

    def __iter__(self):
        for value in super().__iter__():
            Counted.looked += 1
            yield value


def test_an_error_looks_at_no_more_of_a_huge_value_than_it_shows():
    assert len(shown(Counted(range(1_000_000)))) <= 80
    assert Counted.looked < 100
    assert shown("\x01" * 5_000_000, 9) == "'\\x01\\x01"
    assert shown([[1, 2], "a", None]) == "[[1, 2], 'a', None]"


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("half \ud800 a letter\nand more")])
def test_a_model_whose_error_cannot_be_said_fails_alone_and_is_written_down(error):
    def predict(matrix):
        if (matrix == 7).any():
            raise error
        return matrix[:, 0]

    async def ask():
        batcher = Batcher(predict=predict)
        item = await batcher.submit(np.array([[1.0], [7.0], [2.0]]), time.monotonic() + 5)
        batcher.close()
        return item

    item = asyncio.run(ask())
    assert item.values == [1.0, None, 2.0]
    (text,) = item.errors.values()
    assert text.startswith(type(error).__name__)
    text.encode()


class Slow:
    """A caller whose body comes in parts of 1000 bytes, the last one when it is let go on."""

    def __init__(self, parts):
        self.left, self.waits, self.go = parts, asyncio.Event(), asyncio.Event()

    async def receive(self):
        self.left -= 1
        if self.left == 0:
            self.waits.set()
            await self.go.wait()
        return {"type": "http.request", "body": b" " * 1000, "more_body": self.left > 0}

    async def receive_all(self):
        return {"type": "http.request", "body": b" " * 1000, "more_body": False}

    def read(self):
        return asyncio.create_task(read_body({"headers": []}, self.receive, 10_000))


def test_slow_callers_together_hold_no_more_than_some_bodies_and_those_after_them_are_served():
    async def attack():
        slow = [Slow(10) for _ in range(AT_ONCE)]
        held = [one.read() for one in slow]
        for one in slow:
            await one.waits.wait()
        more = [Slow(10) for _ in range(8)]
        tries = [one.read() for one in more]
        refused = 0
        for one, task in zip(more, tries, strict=True):
            waits = asyncio.create_task(one.waits.wait())
            await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            if task.done():
                with pytest.raises(Busy, match="on their way"):
                    task.result()
                assert task.exception().retry_after == 1.0
                refused += 1
            one.go.set()
        small = await read_body({"headers": []}, Slow(2).receive_all, 10_000)
        for one in slow:
            one.go.set()
        whole = [len(await task) for task in held]
        again = Slow(10)
        again.go.set()
        return refused, len(small), set(whole), len(await again.read())

    assert asyncio.run(attack()) == (5, 1000, {10_000}, 10_000)


def test_a_key_for_one_model_neither_sees_nor_wakes_another(tmp_path, monkeypatch):
    grants = {hash_of("mine"): KeyGrant("ann", "caller", ("eta",)), hash_of("other"): KeyGrant("bob", "caller", ("x",))}
    (tmp_path / "access.json").write_bytes(msgspec.json.encode(Access(1, grants, closed=True, format=2)))
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway(front=Front(access=AccessFile(tmp_path / "access.json")), log=None)
    http = client(gateway)
    http.call(gateway.swap(table(1, kit.ref("v1"))))
    asks = [
        ("GET", "/v2/models/eta", None), ("GET", "/v2/models/eta/versions/v1", None), ("GET", "/v2/models/eta/ready", None),
        ("POST", "/v2/models/eta/infer", infer_body()), ("POST", "/v2/models/eta/versions/v1/infer", infer_body()),
        ("POST", "/v2/models/eta/explain", infer_body()), ("POST", "/predict", {"model": "eta"}), ("POST", "/predict", {}),
    ]  # fmt: skip
    woken = []
    named = gateway.named
    monkeypatch.setattr(gateway, "named", lambda *a: woken.append(a) or named(*a))

    def ask(key, method, path, body):
        return http.request(method, path, json=body, headers={"x-api-key": key})

    assert {ask("other", *one).status_code for one in asks} == {403}
    assert woken == []
    assert ask("other", "GET", "/model_info", None).json()["models"] == {}
    assert list(ask("mine", "GET", "/model_info", None).json()["models"]) == ["eta"]
    assert {ask("mine", *one).status_code for one in asks[:3]} == {200}
    http.close()


def test_those_who_wait_for_the_first_answer_get_it_without_what_was_put_on_it():
    async def story():
        go, replays = asyncio.Event(), Replays()

        async def make():
            await go.wait()
            return Response(b"answer")

        async def ask(name):
            response = await replays.once(b"k", b"body", make)
            response.headers = [*(response.headers or ()), (b"x-request-id", name)]
            return response

        asks = [asyncio.create_task(ask(name)) for name in (b"1", b"2")]
        await asyncio.sleep(0)
        go.set()
        return [response.headers for response in await asyncio.gather(*asks)]

    first, second = asyncio.run(story())
    assert first == [(b"x-request-id", b"1")]
    assert second == [(b"idempotent-replayed", b"true"), (b"x-request-id", b"2")]


def test_large_bodies_are_read_one_at_a_time():
    busy, most = [], []

    def read(number):
        busy.append(number)
        most.append(len(busy))
        time.sleep(0.002)
        busy.remove(number)
        return number

    async def story():
        return await asyncio.gather(*(apart(read, k) for k in range(20)))

    assert asyncio.run(story()) == list(range(20))
    assert max(most) == 1
