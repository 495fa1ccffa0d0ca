import asyncio
import socket
import threading
import time

import numpy as np
import pytest

from flyball.adapters.local.ipc import PeerGone
from flyball.adapters.local.ring_server import RingServer
from flyball.adapters.local.tables import host_name
from flyball.errors import DeadlineExceeded, FlyballError, IntegrityError, Unavailable
from flyball.layout import Layout
from flyball.node.host import Host
from flyball.node.remote import RemoteHost
from flyball.rollout.routing import VersionRef

REF = VersionRef("v2", "/artifacts/eta/v2", "ab" * 32, trusted=False)


class Model:
    def __init__(self):
        self.sizes = []
        self.hold = threading.Event()
        self.hold.set()

    def predict(self, matrix):
        self.hold.wait(5)
        self.sizes.append(len(matrix))
        if (matrix[:, 0] < 0).any():
            raise ValueError("negative distance")
        return matrix.sum(axis=1)


def play(tmp_path, load, story, **settings):
    """Run a host on a thread of its own, as its process would, and a story of a worker beside it."""
    layout = Layout(tmp_path, tmp_path)
    server = RingServer(layout.socket(host_name(REF.digest)))
    host = Host(server, load, **settings)
    host.start()
    server.start()
    thread = threading.Thread(target=host.run)
    thread.start()

    async def main():
        remote = RemoteHost(layout, REF)
        try:
            return await story(host, server, remote)
        finally:
            remote.close()

    try:
        return asyncio.run(main())
    finally:
        host.end()
        thread.join()
        server.close()


def soon(seconds=5.0):
    return time.monotonic() + seconds


def test_requests_that_came_during_a_batch_make_the_next_one(tmp_path):
    model = Model()
    model.hold.clear()

    async def story(host, server, remote):
        calls = [asyncio.create_task(remote.predict(np.full((1, 2), float(i)), soon())) for i in range(20)]
        await asyncio.sleep(0.05)
        model.hold.set()
        return await asyncio.gather(*calls)

    answers = play(tmp_path, lambda: model.predict, story)
    assert [a.tolist() for a in answers] == [[2.0 * i] for i in range(20)]
    assert len(model.sizes) <= 3
    assert sum(model.sizes) == 20


def test_a_bad_row_does_not_fail_its_neighbours(tmp_path):
    model = Model()
    model.hold.clear()

    async def story(host, server, remote):
        rows = [1.0, -1.0, 2.0]
        calls = [asyncio.create_task(remote.predict(np.full((1, 1), r), soon())) for r in rows]
        await asyncio.sleep(0.05)
        model.hold.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    good, bad, other = play(tmp_path, lambda: model.predict, story)
    assert (good.tolist(), other.tolist()) == ([1.0], [2.0])
    assert isinstance(bad, FlyballError)
    assert "negative distance" in str(bad)


def test_a_version_that_cannot_be_loaded_answers_with_the_reason(tmp_path):
    def load():
        raise IntegrityError("model.skops is not the file that was registered")

    async def story(host, server, remote):
        with pytest.raises(IntegrityError, match="not the file that was registered"):
            await remote.predict(np.ones((1, 1)), soon())

    play(tmp_path, load, story)


def test_a_hung_model_costs_a_deadline_and_shows_as_overdue(tmp_path, monkeypatch):
    monkeypatch.setattr("flyball.node.host._GRACE", 0.05)
    model, alarms = Model(), []
    model.hold.clear()

    async def story(host, server, remote):
        with pytest.raises(DeadlineExceeded):
            await remote.predict(np.ones((1, 1)), soon(0.1))
        while host.alive():
            await asyncio.sleep(0.005)
        model.hold.set()
        while not host.alive():
            await asyncio.sleep(0.005)

    play(tmp_path, lambda: model.predict, story, alarm=alarms.append)
    assert 0.1 < alarms[0] <= 0.15 + 1e-3
    assert alarms[1:] == [0.0]


def test_a_request_whose_deadline_passed_in_the_queue_is_not_computed(tmp_path):
    model = Model()
    model.hold.clear()

    async def story(host, server, remote):
        first = asyncio.create_task(remote.predict(np.ones((1, 1)), soon()))
        await asyncio.sleep(0.02)
        with pytest.raises(DeadlineExceeded):
            await remote.predict(np.ones((3, 1)), soon(0.05))
        model.hold.set()
        await first
        await remote.predict(np.ones((2, 1)), soon())

    play(tmp_path, lambda: model.predict, story)
    assert model.sizes == [1, 2]


def test_a_host_that_is_not_there_is_an_error_at_once_and_says_nothing_about_the_model(tmp_path):
    async def main():
        with pytest.raises(PeerGone) as gone:  # at once: to wait in vain would be DeadlineExceeded
            await RemoteHost(Layout(tmp_path, tmp_path), REF).predict(np.ones((1, 1)), soon())
        return gone.value.sent

    assert not asyncio.run(main())


def test_a_wrong_number_of_answers_is_an_error(tmp_path):
    async def story(host, server, remote):
        with pytest.raises(FlyballError, match="2 rows to 3"):
            await remote.predict(np.ones((3, 1)), soon())

    play(tmp_path, lambda: lambda matrix: np.ones(2), story)


def test_an_answer_too_wide_to_carry_is_the_models_failure(tmp_path):
    async def story(host, server, remote):
        with pytest.raises(FlyballError, match="at most 4096 values a row"):
            await remote.predict(np.ones((1, 1)), soon())
        return await remote.predict(np.ones((2, 1)), soon())

    answers = play(tmp_path, lambda: lambda m: np.ones((len(m), 5000 if len(m) == 1 else 2)), story)
    assert answers.shape == (2, 2)


def test_a_matrix_that_fits_no_slot_travels_all_the_same(tmp_path):
    wide = np.arange(600.0 * 200).reshape(600, 200)

    async def story(host, server, remote):
        return await remote.predict(wide, soon()), await remote.predict(wide[:2], soon())

    large, small = play(tmp_path, lambda: lambda m: m * 2, story)
    assert (large == wide * 2).all()
    assert (small == wide[:2] * 2).all()


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room"), Unavailable("mine")])
def test_whatever_a_model_raises_is_its_failure_and_the_next_request_is_answered(tmp_path, raised):
    def predict(matrix):
        if matrix[0, 0] < 0:
            raise raised
        return matrix[:, 0]

    async def story(host, server, remote):
        with pytest.raises(FlyballError) as failure:
            await remote.predict(-np.ones((1, 1)), soon())
        assert not isinstance(failure.value, Unavailable)
        return await remote.predict(np.ones((1, 1)), soon())

    assert play(tmp_path, lambda: predict, story).tolist() == [1.0]


def test_a_version_that_exits_while_it_is_loaded_answers_with_the_reason(tmp_path):
    def load():
        raise SystemExit("not today")

    async def story(host, server, remote):
        with pytest.raises(FlyballError, match="cannot be loaded: not today"):
            await remote.predict(np.ones((1, 1)), soon())

    play(tmp_path, load, story)


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_ones(tmp_path):
    model = Model()
    model.hold.clear()

    async def story(host, server, remote):
        with pytest.raises(DeadlineExceeded):
            await remote.predict(np.full((1, 1), 7.0), soon(0.05))
        following = asyncio.create_task(remote.predict(np.full((1, 1), 8.0), soon()))
        await asyncio.sleep(0.01)
        model.hold.set()
        return await following

    assert play(tmp_path, lambda: model.predict, story).tolist() == [8.0]


def test_a_matrix_is_read_only_for_the_model(tmp_path):
    def predict(matrix):
        matrix[0, 0] = 5.0
        return matrix[:, 0]

    async def story(host, server, remote):
        with pytest.raises(FlyballError, match="read-only"):
            await remote.predict(np.ones((1, 1)), soon())

    play(tmp_path, lambda: predict, story)


def test_the_end_of_a_host_is_heard_of_while_nobody_asks_it_anything(tmp_path):
    layout = Layout(tmp_path, tmp_path)

    async def story():
        remote, lost = RemoteHost(layout, REF), asyncio.Event()
        remote.when_lost(lost.set)
        with pytest.raises(DeadlineExceeded):  # a host that hears and says nothing
            await remote.predict(np.ones((1, 2)), soon(0.05))
        peer, _ = listener.accept()
        assert remote.connected and not lost.is_set()
        peer.close()
        await asyncio.wait_for(lost.wait(), 5)
        assert not remote.connected
        remote.close()

    with socket.socket(socket.AF_UNIX) as listener:
        path = layout.socket(host_name(REF.digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        listener.bind(str(path))
        listener.listen()
        asyncio.run(story())


def test_hanging_up_on_a_host_is_no_loss(tmp_path):
    async def story(host, server, remote):
        lost = []
        remote.when_lost(lambda: lost.append(True))
        await remote.predict(np.ones((1, 2)), soon())
        remote.close()
        await asyncio.sleep(0)
        assert not lost

    play(tmp_path, lambda: Model().predict, story)
