"""The `curl` examples of the README and the pages print what they show, asked of the README's project as it runs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import curl_kit
import pytest
from docs_kit import DOCS, ROOT, free_ports

PAGES = [ROOT / "README.md", DOCS / "how-to" / "serve.md", DOCS / "how-to" / "ask-over-http.md"]
FLYBALL = Path(sys.executable).parent / "flyball"
ROW = {"pickup_zone": 74, "dropoff_zone": 236, "distance_miles": 2.1}


class Node:
    """`flyball up` of the README's project."""

    def __init__(self, root):
        self.port, self.control = (str(port) for port in free_ports(2))
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLYBALL_SERVER__PORT": self.port,
            "FLYBALL_CONTROL__PORT": self.control,
        }
        self.flyball(root, "init", "--template", "eta", "my-eta")
        self.folder = root / "my-eta"
        with (root / "up.log").open("w") as log:
            command = [str(FLYBALL), "up"]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | self.environment, stdout=log, stderr=log
            )

    def flyball(self, folder, *arguments):
        command = [str(FLYBALL), *arguments]
        subprocess.run(command, cwd=folder, env=os.environ | self.environment, check=True, capture_output=True)

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request, timeout=30))

    def wait(self, path, body):
        """Ask until it is answered, so that nothing on a page depends on how fast this machine is."""
        until = time.monotonic() + 240
        while True:
            try:
                return self.post(path, body)
            except OSError:  # not listening yet; 503 and 504 are OSErrors too
                assert self.process.poll() is None and time.monotonic() < until, "the node did not come up"
                time.sleep(0.1)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    made = Node(tmp_path_factory.mktemp("curl"))
    try:
        made.wait("/predict", ROW)
        made.wait("/v2/models/eta/explain", ROW)  # starts the process that explains
        yield made
    finally:
        made.end()


@pytest.mark.timeout(300)  # training and starting share two cores with other tests
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_curl_prints_what_the_page_shows(node, page):
    found = curl_kit.commands(page)
    assert [c for c in found if c.text.startswith("curl ")], f"{page.name} has no curl"
    ports = {"8080": node.port, "8081": node.control}
    wrong = []
    for command in found:
        printed = curl_kit.run(command, ports=ports, folder=node.folder, environment=node.environment)
        if difference := curl_kit.differs(command.shown, printed):
            wrong.append(f"line {command.line}: {difference}")
    assert wrong == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_without_curl_its_lines_are_read_and_print_the_same(node, page):
    ports = {"8080": node.port, "8081": node.control}
    for command in curl_kit.commands(page):
        if not command.text.startswith("curl "):
            continue
        text = command.text.replace("\\\n", " ").replace("8080", ports["8080"]).replace("8081", ports["8081"])
        printed = curl_kit.ask(shlex.split(text)[1:], node.folder)
        assert curl_kit.differs(command.shown, printed) == "", f"line {command.line}"


def test_what_differs_from_call_to_call_is_masked_and_nothing_else():
    shown = '{"prediction_id":"a","predictions":[10.14412],"latency_ms":1.2}'
    assert curl_kit.differs(shown, '{"prediction_id":"b","predictions":[10.144121],"latency_ms":9}') == ""
    assert curl_kit.differs(shown, '{"prediction_id":"b","predictions":[10.244],"latency_ms":9}') != ""
    assert curl_kit.differs('{"a":1,...,"c":3}', '{"a":1,"b":2,"c":3}') == ""
    assert curl_kit.differs('{"a":1,...,"c":3}', '{"c":3,"b":2,"a":1}') != ""
