"""Every way a candidate can go wrong, in a real host of a real node: callers get the champion's answer in time.

Each fault is a class in the project's code, pickled and signed as any model is, and routed all traffic. What a row
triggers is in its first column: beyond a million the model misbehaves, below it answers three times the value.
"""

import http.client
import json
import os
import threading
import time

import pytest
from node_under_load import Node, until

MODELS = '''

import ctypes, signal, sys


class Fault(Scale):
    """Misbehaves as `kind` says where the first column is beyond a million."""

    def __init__(self, kind):
        super().__init__(3.0)
        self.kind = kind

    def predict(self, matrix):
        if (matrix[:, 0] > 1e6).any():
            wrong = getattr(self, self.kind)(matrix)
            if wrong is not None:
                return wrong
        return super().predict(matrix)

    def hang(self, matrix):
        time.sleep(600)

    def hang_with_interpreter(self, matrix):
        ctypes.PyDLL(None).sleep(600)  # never gives the interpreter back

    def hang_and_ignore_the_timer(self, matrix):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(600)

    def segfault(self, matrix):
        ctypes.string_at(0)

    def killed(self, matrix):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out

    def leave(self, matrix):
        os._exit(3)

    def exit(self, matrix):
        sys.exit("enough")

    def memory(self, matrix):
        import numpy as np
        return np.ones(10**10)

    def shape(self, matrix):
        import numpy as np
        return np.ones((len(matrix), 3))

    def few(self, matrix):
        return matrix[:-1, 0]

    def nan(self, matrix):
        return matrix[:, 0] * float("nan")

    def text(self, matrix):
        return ["many"] * len(matrix)

    def close_files(self, matrix):
        os.closerange(3, 4096)

    def scribble(self, matrix):
        raise ValueError("x" * 10_000_000)

    def fork(self, matrix):
        os.fork()

    def fork_and_die(self, matrix):
        if os.fork() == 0:
            time.sleep(600)
        os._exit(4)

    def shout(self, matrix):
        for _ in range(40):
            print("x" * 1_000_000)


class Late(Scale):
    """Misbehaves while it is loaded."""

    def __init__(self, kind):
        super().__init__(3.0)
        self.kind = kind

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.kind == "slow":
            time.sleep(4)
        if self.kind == "raise":
            raise ValueError("not in this place")
        if self.kind == "exit":
            sys.exit("not today")
        if self.kind == "leave":
            os._exit(5)
'''
FAILS = ("hang", "hang_with_interpreter", "segfault", "killed", "leave", "exit", "memory", "shape", "few", "nan",
         "text", "close_files", "scribble", "fork_and_die")  # fmt: skip
DIES = {"hang", "hang_with_interpreter", "segfault", "killed", "leave", "close_files", "fork_and_die"}
DEADLINE = 3.0


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("node"), models=MODELS)
    node.up()
    yield node
    node.down()


def ask(node, miles, unit="u"):
    """Return (status, value by miles, prediction id, seconds) of one row on a connection of its own."""
    body = {
        "inputs": [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [float(miles)]}],
        "parameters": {"unit": unit},
    }
    connection = http.client.HTTPConnection(node.running.host, node.running.port, timeout=15)
    begin = time.monotonic()
    connection.request("POST", "/v2/models/eta/infer", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    data = json.loads(answer.read())
    took = time.monotonic() - begin
    connection.close()
    if answer.status != 200:
        return answer.status, data["error"], "", took
    return 200, data["outputs"][0]["data"][0] / miles, data["parameters"]["prediction_id"], took


def release(node, kind, model="Fault"):
    """Give all traffic to a version and wait until its host answers both workers."""
    ref = node.artifact(f"{model}-{kind}", getattr(node.module, model)(kind))
    node.route(ref, share=1.0)
    return ref


def answers_well(node, times=12):
    """Whether the candidate answered that many requests in a row, whichever worker took them."""
    return all(ask(node, 10.0, f"u{k}")[1] == 3.0 for k in range(times))


def workers(node):
    return {name: pid for name, pid in node.now().children.items() if name.startswith("w")}


def host_pid(node, ref):
    return node.now().children.get(f"host-{ref.digest[:16]}", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAILS)
def test_a_fault_costs_the_caller_nothing_and_is_evidence(node, kind):
    ref = release(node, kind)
    until(lambda: answers_well(node), what="the candidate's traffic")
    before, pid = workers(node), host_pid(node, ref)
    status, value, asked, took = ask(node, 2e6)
    assert (status, value) == (200, 2.0)  # the champion's answer
    assert took < DEADLINE + 0.5
    record = until(lambda: node.logged().get(asked), what="the record")
    assert (record.arm, record.fallback) == ("candidate", True)
    assert record.error
    if kind in DIES:
        until(lambda: host_pid(node, ref) not in {0, pid}, what="a new host")
    until(lambda: answers_well(node), what="the candidate's traffic again")
    assert workers(node) == before
    node.route()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fork", "shout"])
def test_what_is_odd_but_harmless_fails_nobody(node, kind):
    ref = release(node, kind)
    until(lambda: answers_well(node), what="the candidate's traffic")
    before, pid = workers(node), host_pid(node, ref)
    for k in range(3):
        status, value, _, took = ask(node, 2e6, f"x{k}")
        assert (status, took < DEADLINE + 0.5) == (200, True)
        assert value == 3.0
    assert answers_well(node)
    assert (workers(node), host_pid(node, ref)) == (before, pid)
    log = node.layout.state / "logs" / f"host-{ref.digest[:16]}.log"
    until(lambda: log.stat().st_size < 17 << 20, what="a log that was cut")
    node.route()


@pytest.mark.slow
def test_a_model_that_ignores_the_timer_is_ended_by_the_supervisor(node):
    ref = release(node, "hang_and_ignore_the_timer")
    until(lambda: answers_well(node), what="the candidate's traffic")
    pid = host_pid(node, ref)
    assert ask(node, 2e6)[:2] == (200, 2.0)
    until(lambda: host_pid(node, ref) not in {0, pid}, seconds=40, what="a new host")
    until(lambda: answers_well(node), what="the candidate's traffic again")
    node.route()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raise", "exit", "leave"])
def test_a_version_that_cannot_be_loaded_takes_no_callers_time(node, kind):
    before = workers(node)
    ref = node.artifact(f"late-{kind}", node.module.Late(kind))
    assert node.route(ref, share=1.0) < 1.0
    for k in range(30):
        status, value, _, took = ask(node, 10.0, f"u{k}")
        assert (status, value) == (200, 2.0)
        assert took < 1.0
    assert workers(node) == before
    assert node.route() < 1.0


@pytest.mark.slow
def test_a_slow_import_delays_the_traffic_and_not_the_table(node):
    ref = node.artifact("late-slow", node.module.Late("slow"))
    assert node.route(ref, share=1.0) < 1.0
    begin = time.monotonic()
    assert ask(node, 10.0)[:2] == (200, 2.0)
    assert ask(node, 10.0)[3] < 1.0
    until(lambda: answers_well(node), what="the candidate's traffic")
    assert time.monotonic() - begin > 2.0
    log = node.layout.state / "logs" / f"host-{ref.digest[:16]}.log"
    assert '"event": "ready"' in log.read_text()
    node.route()


@pytest.mark.slow
def test_one_death_is_one_failure_however_many_workers_had_rows_with_the_host(node):
    ref = release(node, "segfault")
    until(lambda: answers_well(node), what="the candidate's traffic")
    results = []
    threads = [threading.Thread(target=lambda k=k: results.append(ask(node, 2e6 + k, f"d{k}"))) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(status, value) for status, value, *_ in results} == {(200, 2.0)}
    until(lambda: answers_well(node), what="the candidate's traffic again")
    asked = {result[2] for result in results}
    failed = [r for r in node.logged().values() if r.id in asked and r.error]
    deaths = node.now().restarts[f"host-{ref.digest[:16]}"]
    assert 1 <= len(failed) <= deaths
    node.route()


@pytest.mark.slow
def test_a_forked_child_ends_with_its_host(node):
    ref = release(node, "fork_and_die")
    until(lambda: answers_well(node), what="the candidate's traffic")
    pid = host_pid(node, ref)
    assert ask(node, 2e6)[:2] == (200, 2.0)
    until(lambda: host_pid(node, ref) not in {0, pid}, what="a new host")

    def gone():
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, what="the end of the whole group")
    node.route()
