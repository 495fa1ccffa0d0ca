"""Champions in hosts, the control cohort's copy, and explanations on demand, in a real node."""

import asyncio
import http.client
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from node_under_load import Load, Node, until

from flyball.adapters.local.tables import explain_name, host_name, wanted_file
from flyball.errors import DeadlineExceeded
from flyball.node.remote import ExplainHost
from flyball.rollout.routing import BUCKETS


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("node"))
    node.up()
    yield node
    node.down()


def ask(node, unit, miles=10.0):
    """Return (status, value by miles or error, prediction id, version)."""
    body = {
        "inputs": [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [miles]}],
        "parameters": {"unit": unit},
    }
    connection = http.client.HTTPConnection(node.running.host, node.running.port, timeout=15)
    connection.request("POST", "/v2/models/eta/infer", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    data = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        return answer.status, data["error"], "", ""
    return 200, data["outputs"][0]["data"][0] / miles, data["parameters"]["prediction_id"], data["model_version"]


def children(node, name):
    return node.now().children.get(name, 0)


@pytest.mark.slow
def test_the_control_cohort_is_answered_by_a_copy_in_a_host_and_by_the_champion_while_that_is_away(node):
    v2 = node.artifact("v2", node.module.Scale(3.0))
    node.route(v2, share=0.5, control_from=BUCKETS // 2, control_to=BUCKETS, control_hosted=True)
    copy = host_name(node.champion.digest)
    until(lambda: children(node, copy), what="the copy's host")

    def cohort():
        got = [ask(node, f"c{k}") for k in range(16)]
        assert {status for status, *_ in got} == {200}
        logged = node.logged()
        records = [logged[asked] for _, _, asked, _ in got if asked in logged]
        return records if len(records) == len(got) else []

    until(lambda: any(r.control for r in cohort()), what="an answer of the copy")
    records = until(lambda: (found := cohort()) and all(r.control or r.arm == "candidate" for r in found) and found)
    assert {r.error for r in records} == {None}
    assert {(r.arm, r.control) for r in records} == {("champion", True), ("candidate", False)}
    stopped = children(node, copy)
    os.kill(stopped, signal.SIGKILL)
    for k in range(30):
        assert ask(node, f"c{k}")[0] == 200
    failed = [r for r in node.logged().values() if r.error]
    assert failed == []  # the copy's death is nobody's evidence
    until(lambda: children(node, copy) not in {0, stopped}, what="a new copy")
    until(lambda: all(r.control for r in cohort() if r.arm == "champion"), what="the copy's answers again")
    node.route()
    until(lambda: copy not in node.now().children, what="the end of the copy")


@pytest.mark.slow
def test_a_champion_in_a_host_answers_again_within_the_deadline_after_its_host_died(node):
    hosted = replace(node.artifact("h1", node.module.Scale(4.0)), hosted=True)
    trusted, node.champion = node.champion, hosted
    try:
        node.route()
        name = host_name(hosted.digest)
        with Load(node, pushers=0) as load:
            load.more(100)
            node.kill(name)
            load.more(100)
        assert load.broken == 0
        assert {text.partition(":")[0] for text in load.refused} <= {"predict 503"}
        assert len(load.refused) <= 40
        assert set(load.answered.values()) == {4.0}
    finally:
        node.champion = trusted
        node.route()


@pytest.mark.slow
def test_the_former_champion_answers_while_the_hosted_one_is_away(node):
    hosted = replace(node.artifact("h2", node.module.Scale(5.0)), hosted=True)
    trusted, node.champion = node.champion, hosted
    try:
        node.route(warm=(trusted,))
        assert ask(node, "a")[1] == 5.0
        name = host_name(hosted.digest)
        with Load(node, pushers=0) as load:
            load.more(100)
            node.kill(name)
            load.more(100)
        assert (load.refused, load.broken) == ([], 0)
        assert set(load.answered.values()) == {5.0, 2.0}
        logged = node.logged()
        by_former = [logged[i] for i, value in load.answered.items() if value == 2.0]
        assert {(r.version, r.fallback) for r in by_former} == {(trusted.version, True)}
    finally:
        node.champion = trusted
        node.route()


@pytest.mark.slow
def test_what_explains_a_version_is_started_when_asked_for_and_ended_when_not(node):
    node.route()
    host, name = ExplainHost(node.layout, node.champion), explain_name(node.champion.digest)
    assert name not in node.now().children

    async def story():
        rows = np.array([[1.0], [7.0]])
        explained = await host.explain(rows, time.monotonic() + 20)
        again = await host.explain(rows, time.monotonic() + 2)
        with pytest.raises(DeadlineExceeded):
            await host.explain(rows, time.monotonic() - 1)
        host.close()
        return explained, again

    explained, again = asyncio.run(story())
    margins = np.asarray(explained.base) + np.asarray(explained.values).reshape(2, -1).sum(axis=1)
    assert np.allclose(margins, [2.0, 14.0])
    assert np.allclose(np.asarray(again.values), np.asarray(explained.values))
    assert name in node.now().children
    file = wanted_file(node.layout, name)
    os.utime(file, (0, 0))  # nobody has asked for five minutes
    until(lambda: name not in node.now().children, what="its end")
    assert not file.exists()
