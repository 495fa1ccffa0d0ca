import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from flyball.adapters.local.ipc import Client, PeerGone, Server, call_sync, pack_matrix, unpack_matrix
from flyball.errors import BadRequest, DeadlineExceeded, FlyballError, InputError, IntegrityError


async def _double(body, call):
    return body * 2


async def _slow(body, call):
    await asyncio.sleep(body)
    return body


async def _steps(body, call):
    for i in range(body):
        call.progress({"step": i})
    return "done"


async def _refuse(body, call):
    raise BadRequest("no such column 'x'")


async def _crash(body, call):
    raise KeyError("oops")


async def _matrix(body, call):
    return pack_matrix(unpack_matrix(body) + 1)


HANDLERS = {"double": _double, "slow": _slow, "steps": _steps, "refuse": _refuse, "crash": _crash, "matrix": _matrix}


def _serve(path: Path, story):
    async def main():
        server = Server(path, HANDLERS)
        await server.start()
        client = Client(path)
        try:
            return await story(server, client)
        finally:
            client.close()
            await server.close(drain=0.1)

    return asyncio.run(main())


def test_many_requests_are_in_flight_on_one_connection(tmp_path):
    async def story(server, client):
        slow = asyncio.create_task(client.call("slow", 0.05))
        answers = await asyncio.gather(*(client.call("double", i) for i in range(200)))
        assert not slow.done()
        await slow
        return answers

    assert _serve(tmp_path / "s.sock", story) == [i * 2 for i in range(200)]


def test_a_large_matrix_comes_back_bit_for_bit(tmp_path):
    matrix = np.random.default_rng(1).normal(size=(5000, 20))
    matrix[3, 4] = np.nan

    async def story(server, client):
        return unpack_matrix(await client.call("matrix", pack_matrix(matrix)))

    np.testing.assert_array_equal(_serve(tmp_path / "s.sock", story), matrix + 1)


def test_an_empty_matrix_keeps_its_shape():
    assert unpack_matrix(pack_matrix(np.empty((0, 7)))).shape == (0, 7)


def test_bytes_that_do_not_fill_the_shape_are_refused():
    with pytest.raises(IntegrityError, match="shape"):
        unpack_matrix([[2, 2], b"12345678"])


def test_an_error_arrives_as_its_own_class(tmp_path):
    async def story(server, client):
        with pytest.raises(BadRequest, match="no such column 'x'"):
            await client.call("refuse")
        with pytest.raises(FlyballError, match="KeyError"):
            await client.call("crash")
        with pytest.raises(FlyballError, match="no method named 'doubl'"):
            await client.call("doubl")

    _serve(tmp_path / "s.sock", story)


def test_a_deadline_ends_the_wait_and_a_late_answer_is_dropped(tmp_path):
    async def story(server, client):
        with pytest.raises(DeadlineExceeded, match="slow"):
            await client.call("slow", 0.1, timeout=0.01)
        await asyncio.sleep(0.12)
        return await client.call("double", 4)

    assert _serve(tmp_path / "s.sock", story) == 8


def test_a_missing_peer_is_told_apart_from_a_lost_one(tmp_path):
    async def story(server, client):
        waiting = asyncio.create_task(client.call("slow", 5))
        await client.call("double", 1)
        for link in list(server._links):
            link.close()
        with pytest.raises(PeerGone) as lost:
            await waiting
        await server.close(drain=0)
        with pytest.raises(PeerGone, match="flyball up") as absent:
            await client.call("double", 1)
        return lost.value.sent, absent.value.sent

    assert _serve(tmp_path / "s.sock", story) == (True, False)


def test_a_client_connects_again_when_the_server_returns(tmp_path):
    async def story(server, client):
        await client.call("double", 1)
        await server.close(drain=0)
        while client.connected:
            await asyncio.sleep(0.001)
        again = Server(tmp_path / "s.sock", HANDLERS)
        call = asyncio.create_task(client.call("double", 21, wait=5))
        await asyncio.sleep(0.05)
        await again.start()
        answer = await call
        await again.close()
        return answer

    assert _serve(tmp_path / "s.sock", story) == 42


def test_progress_reaches_async_and_ordinary_callers(tmp_path):
    async def story(server, client):
        seen, heard = [], []
        await client.call("steps", 3, progress=seen.append)
        answer = await asyncio.to_thread(call_sync, tmp_path / "s.sock", "steps", 2, timeout=5, progress=heard.append)
        return seen, heard, answer

    seen, heard, answer = _serve(tmp_path / "s.sock", story)
    assert (len(seen), len(heard), answer) == (3, 2, "done")


def test_an_ordinary_caller_is_told_that_nobody_listens(tmp_path):
    with pytest.raises(PeerGone, match="is not running"):
        call_sync(tmp_path / "none.sock", "double", 1)
    assert threading.active_count() < 10


def test_a_value_that_no_message_can_carry_is_told_and_leaves_the_connection_alone(tmp_path):
    async def story():
        server = Server(tmp_path / "s", HANDLERS)
        await server.start()
        client = Client(tmp_path / "s")
        with pytest.raises(InputError, match="'?push"):
            await client.call("push", [10**400])
        assert client._waiting == {}
        answer = await client.call("double", 4)
        client.close()
        await server.close()
        return answer

    assert asyncio.run(story()) == 8
