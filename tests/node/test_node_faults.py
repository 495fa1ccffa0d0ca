import os
import signal
import time

import pytest
from node_under_load import Load, Node, until

from flyball.adapters.local.running import read_running, start
from flyball.errors import Refused


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    node.up()
    yield node
    node.down()


def nothing_lost(node: Node, load: Load) -> None:
    logged = node.logged()
    assert load.answered.keys() - logged.keys() == set()
    assert load.pushed - node.ingested() == set()


def test_killed_worker_and_ingest_come_back_and_lose_nothing(node):
    node.route()
    with Load(node) as load:
        load.more()
        node.kill("ingest")
        load.more()
        assert load.broken == 0
        node.kill("w0")
        load.more()
    assert load.refused == []
    assert load.broken <= load.predictors + load.pushers  # only connections of the killed worker
    assert set(load.answered.values()) == {2.0}
    nothing_lost(node, load)


def test_a_swap_under_load_fails_no_request(node):
    node.route()
    v2 = node.artifact("v2", node.module.Scale(3.0))
    with Load(node, pushers=0) as load:
        load.more()
        node.route(v2, share=0.5)
        until(lambda: 3.0 in list(load.answered.values()), what="an answer of the new version, whose host starts now")
        load.more(300)
        back = node.route()
        load.more()
    assert (load.refused, load.broken) == ([], 0)
    assert set(load.answered.values()) == {2.0, 3.0}
    assert back < 1.0
    nothing_lost(node, load)


def test_a_second_node_of_the_project_is_refused(node):
    with pytest.raises(Exception, match="runs already") as refused:
        start(node.root / "flyball.toml", node.layout, timeout=20)
    assert not isinstance(refused.value, Refused) or str(node.running.pid) in str(refused.value)
    assert read_running(node.layout).pid == node.running.pid


@pytest.mark.slow
def test_a_killed_or_hung_host_costs_no_caller_anything(node):
    v2 = node.artifact("v2", node.module.Hang(3.0))
    node.route(v2, share=0.5)
    host = next(name for name in until(lambda: _hosts(node), what="a host"))
    with Load(node, pushers=0) as load:
        load.more(200)
        node.kill(host)
        load.more(200)
        stopped = node.pid(host)
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: node.pid(host) not in {0, stopped}, seconds=40, what="a new host for the hung one")
        load.more(200)
    assert (load.refused, load.broken) == ([], 0)
    assert load.slowest < 3.5
    nothing_lost(node, load)


def _hosts(node: Node) -> list[str]:
    return [name for name, pid in node.now().children.items() if name.startswith("host-") and pid]


@pytest.mark.slow
def test_every_process_may_be_killed_again_and_again(node):
    v2 = node.artifact("v2", node.module.Scale(3.0))
    node.route(v2, share=0.2)
    with Load(node) as load:
        for _ in range(3):
            for name in ("w0", "control", "w1", "ingest"):
                load.more(50)
                node.kill(name)
        load.more(50)
        table = node.route()
    assert table < 1.0
    assert load.refused == []
    nothing_lost(node, load)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing_behind_and_up_works_again(node):
    node.route()
    with Load(node) as load:
        load.more()
        children = list(node.now().children.values())
        os.kill(node.running.pid, signal.SIGKILL)
        os.waitpid(node.running.pid, 0)
        until(lambda: not any(_runs(pid) for pid in children), what="the end of all children")
        assert read_running(node.layout) is None
        started = time.monotonic()
        node.up()
        assert time.monotonic() - started < 20
        load.more()
    assert load.refused == []
    nothing_lost(node, load)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
