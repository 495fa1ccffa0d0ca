"""When the client tries again, decided without a network; and what it sends, by a transport that remembers."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import datetime

import httpx
import pytest

from flyball.client import AsyncClient, Client, calls
from flyball.client.conversation import Failure, Reply, Send, Wait, conversation
from flyball.client.retry import Trouble, pause, seconds
from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, InputError, IntegrityError, Unavailable

GOOD = b'{"model": "eta", "model_version": "v1", "table_version": 1, "predictions": [1.5], "prediction_id": "p"}'


def ask_for(trouble, *, tried=1, retries=2, repeatable=True, left=10.0):
    return pause(trouble, tried=tried, retries=retries, repeatable=repeatable, left=left, rng=random.Random(1))


@pytest.mark.parametrize(
    ("trouble", "repeatable", "again"),
    [
        (Trouble("unreached"), False, True),  # nothing was sent
        (Trouble("broken"), False, False), (Trouble("broken"), True, True),
        (Trouble("status", 429, 1.0), False, True),  # refused before anything was taken
        (Trouble("status", 503, 1.0), False, False), (Trouble("status", 503, 1.0), True, True),
        (Trouble("status", 500), True, True), (Trouble("status", 500), False, False),
        (Trouble("status", 400), True, False), (Trouble("status", 401), True, False),
    ],
)  # fmt: skip
def test_only_what_cannot_count_twice_is_tried_again(trouble, repeatable, again):
    assert (ask_for(trouble, repeatable=repeatable) is not None) is again


def test_retry_after_is_kept_to_and_never_beyond_the_time_left():
    assert ask_for(Trouble("status", 429, 3.0)) == 3.0
    assert ask_for(Trouble("status", 429, 30.0)) is None


def test_pauses_grow_and_tries_end():
    waits = [ask_for(Trouble("unreached"), tried=k, retries=9) for k in range(1, 9)]
    assert all(w is not None and w <= 2.0 for w in waits)
    assert waits[4] > waits[0]
    assert ask_for(Trouble("unreached"), tried=3, retries=2) is None
    assert ask_for(Trouble("unreached"), retries=0) is None


@pytest.mark.parametrize(("text", "value"), [("2", 2.0), ("0.5", 0.5), (None, None), ("Wed, 21 Oct", None), ("-1", None), ("nan", None)])  # fmt: skip
def test_retry_after_is_read_as_seconds(text, value):
    assert seconds(text) == value


def talk(*told, retries=2, timeout=10.0, request=None):
    """Drive a conversation with what came of each try; return (answer or error, pauses)."""
    now, waits, answers = [0.0], [], list(told)
    request = request or calls.predict("eta", {"x": 1}, unit=None, attributes=None, key="k")
    going = conversation(request, where="http://g", timeout=timeout, retries=retries, rng=random.Random(0), clock=lambda: now[0])  # fmt: skip
    step = next(going)
    try:
        while True:
            if isinstance(step, Send):
                step = going.send(answers.pop(0))
            else:
                assert isinstance(step, Wait)
                waits.append(step.seconds)
                now[0] += step.seconds
                step = going.send(None)
    except StopIteration as end:
        return end.value, waits
    except FlyballError as error:
        return error, waits


def status(code, text="sentence", **headers):
    return Reply(code, headers, b'{"error": "%s"}' % text.encode())


def test_a_call_that_succeeds_at_the_third_try_is_answered():
    answer, waits = talk(Failure("unreached", "refused"), status(503), Reply(200, {}, GOOD))
    assert answer.predictions == [1.5] and len(waits) == 2


@pytest.mark.parametrize(
    ("last", "kind"),
    [(status(400), BadRequest), (status(429), Busy), (status(503), Unavailable), (status(504), DeadlineExceeded), (status(500), FlyballError)],
)  # fmt: skip
def test_what_stays_wrong_is_raised_as_its_error(last, kind):
    error, _ = talk(last, last, last)
    assert type(error) is kind and str(error) == "sentence"


def test_an_answer_that_is_late_is_not_asked_again():
    error, waits = talk(Failure("late", ""))
    assert isinstance(error, DeadlineExceeded) and "10 s" in str(error) and waits == []


def test_an_answer_of_something_else_says_so():
    error, _ = talk(Reply(200, {}, b"<html>"))
    assert isinstance(error, IntegrityError) and "flyball gateway" in str(error)


def test_ready_takes_503_for_an_answer():
    assert talk(Reply(503, {}, b'{"ready": false}'), request=calls.ready())[0] is False


class Remembering:
    """Answer from a list; remember requests."""

    def __init__(self, *answers) -> None:
        self.answers, self.requests = list(answers), []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_all_tries_of_one_call_carry_one_key_and_two_calls_two():
    served = Remembering(httpx.Response(503), httpx.ReadError("reset"), *[httpx.Response(200, content=GOOD)] * 2)
    with Client("http://g", transport=httpx.MockTransport(served)) as ask:
        ask.predict("eta", {"x": 1})
        ask.predict("eta", {"x": 1})
    keys = [request.headers["idempotency-key"] for request in served.requests]
    assert len(keys) == 4 and keys[0] == keys[1] == keys[2] != keys[3]


def test_pushed_rows_are_sent_once_when_they_have_no_event_ids():
    served = Remembering(httpx.ReadError("reset"), httpx.ReadError("reset"), httpx.Response(200, content=b'{"accepted": 1}'))  # fmt: skip
    with Client("http://g", transport=httpx.MockTransport(served)) as ask:
        with pytest.raises(Unavailable, match="may have been counted"):
            ask.push("trips", [{"a": 1}])
        assert ask.push("trips", [{"a": 1}], has_event_ids=True).accepted == 1
    assert len(served.requests) == 3


def test_the_asynchronous_client_decides_alike():
    served = Remembering(httpx.ConnectError("refused"), httpx.Response(429, headers={"retry-after": "0"}), httpx.Response(200, content=GOOD))  # fmt: skip

    async def story():
        async with AsyncClient("http://g", transport=httpx.MockTransport(served)) as ask:
            return await ask.predict("eta", {"x": 1})

    assert asyncio.run(story()).predictions == [1.5]
    assert len(served.requests) == 3


def test_a_key_never_shows_in_an_error_or_a_repr():
    served = Remembering(*[httpx.Response(500, content=b"")] * 3)
    with Client("http://g", key="s3cret", transport=httpx.MockTransport(served)) as ask:
        with pytest.raises(FlyballError) as caught:
            ask.predict("eta", {"x": 1})
        assert "s3cret" not in f"{caught.value!r} {ask!r}"
    assert served.requests[0].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("key", ["", "a b", "k" * 65, "ü"])
def test_an_idempotency_key_that_is_none_is_refused(key):
    with pytest.raises(InputError, match="idempotency key"):
        calls.predict("eta", {}, unit=None, attributes=None, key=key)


def test_wrong_values_are_named_before_they_are_sent():
    with pytest.raises(InputError, match="rows of input 'x'"):
        calls._tensors({"x": [[1.0], [1.0, 2.0]]})
    with pytest.raises(InputError, match="mixes"):
        calls._tensors({"x": [1, "a"]})
    with pytest.raises(InputError, match="object cannot be sent"):
        calls.predict("eta", {"x": object()}, unit=None, attributes=None, key=None)
    with pytest.raises(InputError, match="no time zone"):
        calls.outcome_row("p", 1.0, datetime(2026, 1, 1), 0)


def test_texts_and_truths_of_a_binary_answer_are_read():
    body = b'{"model_name": "m", "outputs": [{"name": "a", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}}, {"name": "b", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}]}'  # fmt: skip
    tail = b"\x02\x00\x00\x00ab\x01\x00\x00\x00c" + b"\x01\x00"
    found = calls._inference(body + tail, {"inference-header-content-length": str(len(body))})
    assert found["a"] == ["ab", "c"] and found["b"].tolist() == [True, False]


def test_names_in_paths_are_escaped():
    assert calls.ready("a/b c").path == "/v2/models/a%2Fb%20c/ready"


def test_the_client_brings_no_numpy_and_the_package_no_httpx():
    code = (
        "import sys, flyball; assert 'httpx' not in sys.modules; flyball.Client('http://127.0.0.1:1').close(); "
        "heavy = {'numpy', 'pyarrow', 'duckdb', 'sqlalchemy', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
