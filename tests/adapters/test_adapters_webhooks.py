"""One POST: signed, with an id, and a clear answer whatever the other side does."""

import hashlib
import hmac
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flyball.adapters.webhooks import Told, check_url, post, signature
from flyball.errors import ConfigError


class Receiver:
    """A real server that answers as it is told and keeps what it got."""

    def __init__(self):
        self.got, self.answers = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append((self.path, dict(self.headers), body))
                code = outer.answers.pop(0) if outer.answers else 204
                self.send_response(code)
                if 300 <= code < 400:
                    self.send_header("location", f"{outer.url}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


def send(url, secret="", timeout=5.0):
    return post(url, b'{"a":1}', id="rollout-7", kind="RolledBack", stamp=1_800_000_000, secret=secret, timeout=timeout)


def test_a_message_carries_id_kind_and_a_signature_that_the_receiver_can_compute(receiver):
    assert send(f"{receiver.url}/hook?team=a", secret="s3cret") is Told.TAKEN
    ((path, headers, body),) = receiver.got
    headers = {k.lower(): v for k, v in headers.items()}
    expected = hmac.new(b"s3cret", b"1800000000." + body, hashlib.sha256).hexdigest()
    assert (path, body, headers["x-flyball-id"]) == ("/hook?team=a", b'{"a":1}', "rollout-7")
    assert headers["x-flyball-event"] == "RolledBack"
    assert headers["x-flyball-signature"] == f"t=1800000000,v1={expected}"
    assert headers["content-type"] == "application/json"


def test_without_a_secret_nothing_is_signed(receiver):
    send(receiver.url)
    assert "x-flyball-signature" not in {k.lower() for k in receiver.got[0][1]}


@pytest.mark.parametrize(
    ("code", "told"),
    [(200, Told.TAKEN), (202, Told.TAKEN), (400, Told.REFUSED), (404, Told.REFUSED), (410, Told.REFUSED),
     (408, Told.LATER), (429, Told.LATER), (500, Told.LATER), (503, Told.LATER)],
)  # fmt: skip
def test_the_answer_says_whether_to_try_again(receiver, code, told):
    receiver.answers = [code]
    assert send(receiver.url) is told


@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_redirect_is_not_followed(receiver, code):
    receiver.answers = [code]
    assert send(receiver.url, secret="k") is Told.LATER
    assert len(receiver.got) == 1


def test_nobody_there_and_nobody_answering_mean_later():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert send(f"http://127.0.0.1:{port}", timeout=0.05) is Told.LATER
    assert send(f"http://127.0.0.1:{port}", timeout=1.0) is Told.LATER
    assert send("http://nobody.invalid", timeout=1.0) is Told.LATER


def test_a_signature_depends_on_key_time_and_body():
    base = signature("a", 1, b"x")
    assert len({base, signature("b", 1, b"x"), signature("a", 2, b"x"), signature("a", 1, b"y")}) == 4


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "https://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match="https://") as error:
        check_url(url)
    assert url not in str(error.value) or url == "https://"
