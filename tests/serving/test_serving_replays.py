from __future__ import annotations

import asyncio

import pytest

from flyball.errors import BadRequest, Unavailable
from flyball.serving.http.asgi import Response
from flyball.serving.http.idempotency import Replays


class Server:
    def __init__(self) -> None:
        self.calls = 0
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self) -> Response:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Response(b"answer %d" % self.calls)


def test_the_same_key_gets_the_same_answer_and_says_so() -> None:
    async def story():
        server, replays = Server(), Replays()
        first = await replays.once(b"k", b"body", server)
        second = await replays.once(b"k", b"body", server)
        other = await replays.once(b"k", b"body", server, scope=b"another caller")
        return first, second, other

    first, second, other = asyncio.run(story())
    assert (first.body, second.body, other.body) == (b"answer 1", b"answer 1", b"answer 2")
    assert first.headers is None
    assert second.headers == [(b"idempotent-replayed", b"true")]


def test_requests_at_once_are_answered_once() -> None:
    async def story():
        server, replays = Server(), Replays()
        server.gate = asyncio.Event()
        calls = [asyncio.create_task(replays.once(b"k", b"body", server)) for _ in range(10)]
        await asyncio.sleep(0)
        server.gate.set()
        return {r.body for r in await asyncio.gather(*calls)}, server.calls

    assert asyncio.run(story()) == ({b"answer 1"}, 1)


def test_a_caller_who_left_finds_the_one_answer_when_it_comes_back() -> None:
    async def story():
        server, replays = Server(), Replays()
        server.gate = asyncio.Event()
        gone = asyncio.create_task(replays.once(b"k", b"body", server))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        server.gate.set()
        return (await replays.once(b"k", b"body", server)).body, server.calls

    assert asyncio.run(story()) == (b"answer 1", 1)


def test_what_failed_may_be_tried_again() -> None:
    async def story():
        server, replays = Server(), Replays()
        server.error = Unavailable("not now")
        with pytest.raises(Unavailable):
            await replays.once(b"k", b"body", server)
        server.error = None
        return (await replays.once(b"k", b"body", server)).body

    assert asyncio.run(story()) == b"answer 2"


def test_another_body_under_the_same_key_is_refused() -> None:
    async def story():
        server, replays = Server(), Replays()
        await replays.once(b"k", b"body", server)
        with pytest.raises(BadRequest, match="another body") as caught:
            await replays.once(b"k", b"other", server)
        return caught.value.status, server.calls

    assert asyncio.run(story()) == (422, 1)


@pytest.mark.parametrize("key", [b"", b"k" * 256])
def test_an_empty_or_long_key_is_refused(key: bytes) -> None:
    with pytest.raises(BadRequest, match="1 to 255"):
        asyncio.run(Replays().once(key, b"", Server()))


def test_memory_and_time_are_bounded() -> None:
    now = [0.0]

    async def story():
        server, replays = Server(), Replays(limit=5_000, keep=10.0, now=lambda: now[0])
        for k in range(20):
            await replays.once(b"%d" % k, b"", server)
            assert replays.bytes <= 5_000
        kept = [await replays.once(b"19", b"", server), await replays.once(b"0", b"", server)]
        now[0] = 10.0
        kept.append(await replays.once(b"19", b"", server))
        return [r.body for r in kept]

    assert asyncio.run(story()) == [b"answer 20", b"answer 21", b"answer 22"]
