"""Events of a release reach a real receiver through the outbox, in order and at least once, while control goes on."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flyball.adapters.webhooks import signature
from flyball.project import Project
from flyball.project.webhooks import addresses, deliver_webhooks, gather


class Receiver:
    """A server that keeps what it gets and answers 503 while `down`."""

    def __init__(self):
        self.got, self.down = [], False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if not outer.down:
                    outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(503 if outer.down else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def kinds(self):
        return [json.loads(body)["kind"] for _, body in self.got]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


def opened(folder, monkeypatch, *urls, kinds=""):
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    with (folder / "flyball.toml").open("a") as toml:
        toml.write(f'\n[webhooks]\nurl = "{" ".join(urls)}"\nsecret = "env:HOOK_KEY"\nkinds = "{kinds}"\n')
    return Project.open(folder)


def step(project):
    return project.control_step(project.clock.now(), 1)


def step_until(project, true, seconds=30.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        step(project)
        threading.Event().wait(0.02)


def test_a_release_is_told_from_start_to_end_by_a_process_of_its_own(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, receiver.url) as project:
        step(project)
        project.rollout("eta", "v2").start(skip_shadow=True)
        step(project)  # returns while the messages are on their way
        step_until(project, lambda: receiver.kinds == ["RolloutStarted", "WeightsChanged"])
        project.rollout("eta", "v2").abort("enough")
        step_until(project, lambda: receiver.kinds[-1] == "RolledBack")
    assert receiver.kinds == ["RolloutStarted", "WeightsChanged", "OrderGiven", "RollbackStarted", "RolledBack"]
    headers, body = receiver.got[-1]
    told = json.loads(body)
    assert told["id"] == headers["x-flyball-id"] and told["source"] == "rollout"
    assert "enough" in told["reason"] and told["rollout"].startswith("eta-v2-")
    stamp = int(headers["x-flyball-signature"].split(",")[0].removeprefix("t="))
    assert headers["x-flyball-signature"] == signature("s3cret", stamp, body)
    assert len({h["x-flyball-id"] for h, _ in receiver.got}) == 5


def test_a_receiver_that_was_down_gets_what_it_missed_in_order(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, receiver.url) as project:
        project.database.telling.begin()
        project.rollout("eta", "v2").start(skip_shadow=True)
        gather(project, project.clock.now())
        receiver.down = True
        assert deliver_webhooks(project) == (0, 1)
        project.rollout("eta", "v2").pause("lunch")
        gather(project, project.clock.now())
        receiver.down = False
        assert deliver_webhooks(project) == (2, 0)
        assert deliver_webhooks(project) == (0, 0)
    assert receiver.kinds == ["RolloutStarted", "OrderGiven"]


def test_one_address_that_is_down_does_not_hold_up_another(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, "http://127.0.0.1:9/away", receiver.url) as project:
        project.database.telling.begin()
        project.rollout("eta", "v2").start()
        gather(project, project.clock.now())
        assert deliver_webhooks(project) == (1, 1)
    assert receiver.kinds == ["RolloutStarted"]


def test_only_the_kinds_that_were_asked_for_are_told(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, receiver.url, kinds="OrderGiven Promoted") as project:
        project.database.telling.begin()
        project.rollout("eta", "v2").start()
        project.rollout("eta", "v2").pause("lunch")
        gather(project, project.clock.now())
        deliver_webhooks(project)
    assert receiver.kinds == ["OrderGiven"]


def test_messages_for_an_address_that_was_taken_out_are_dropped(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, receiver.url) as project:
        now = project.clock.now()
        project.database.outbox.put("webhook 0123456789ab", "rollout-1", {"kind": "Promoted"}, at=now)
        assert deliver_webhooks(project) == (0, 0)
        assert project.database.outbox.topics() == []


def test_a_message_that_waited_a_week_is_given_up(trained, receiver, monkeypatch):
    with opened(trained, monkeypatch, receiver.url) as project:
        (topic,) = addresses(project)
        old = project.clock.now() - timedelta(days=8)
        project.database.outbox.put(topic, "rollout-1", {"kind": "Promoted"}, at=old)
        assert deliver_webhooks(project) == (1, 0)
    assert receiver.got == []


def test_an_address_that_is_none_does_not_stop_the_loop(trained, monkeypatch):
    with opened(trained, monkeypatch, "nonsense") as project:
        project.rollout("eta", "v2").start(skip_shadow=True)
        assert any("WeightsChanged" in did for did in step(project))


def test_control_goes_on_while_a_receiver_never_answers(trained, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with opened(trained, monkeypatch, url) as project:
            step(project)
            project.rollout("eta", "v2").start(skip_shadow=True)
            assert any("WeightsChanged" in did for did in step(project))
            project.rollout("eta", "v2").abort("enough")
            assert any("RolledBack" in did for did in step(project))
            assert project.rollout("eta", "v2").status.phase == "RolledBack"
