"""A candidate whose traffic a worker keeps off is told of, where people look."""

import os
import signal

import pytest
from node_under_load import Load, Node, until

from flyball.project import Project
from flyball.project.held import held_back


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path, workers=1)
    node.up()
    yield node
    node.down()


def test_a_candidate_that_hangs_is_said_to_get_nothing(node):
    node.route(node.artifact("v2", node.module.Scale(3.0)), share=0.5)
    host = until(lambda: next((n for n, p in node.now().children.items() if n.startswith("host-") and p), ""))
    with Project.open(node.root) as project, Load(node, pushers=0) as load:
        until(lambda: 3.0 in load.answered.values(), what="an answer of the candidate")
        assert held_back(project, "eta") == []
        os.kill(node.pid(host), signal.SIGSTOP)
        (text,) = until(lambda: held_back(project, "eta"), what="a veto")
        assert text.startswith("worker 0 sends the candidate nothing: ")
        os.kill(node.pid(host), signal.SIGKILL)
        until(lambda: any("died 1 time" in t for t in held_back(project, "eta")) or not held_back(project, "eta"))
    assert load.refused == []
