"""A real node behind its protection: TLS, keys, lines, an end that resets nobody, and no secret anywhere in its logs."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from node_under_load import Node, until

from flyball.adapters.local.running import stop
from flyball.config import load
from flyball.errors import ConfigError
from flyball.node.http import tls_context
from flyball.node.supervisor import unguarded
from flyball.serving.http.access import Access, KeyGrant, hash_of

pytestmark = pytest.mark.slow
BODY = {"inputs": [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [2.0]}]}


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Write a certificate for this machine that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def configured(node: Node, *lines: str) -> None:
    file = node.root / "flyball.toml"
    file.write_text(file.read_text().replace("[server]\n", "[server]\n" + "\n".join(lines) + "\n"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_node_with_tls_keys_and_lines_shows_no_secret(tmp_path):
    node = Node(tmp_path, workers=1)
    cert, _ = certificate(tmp_path)
    secrets = {"server.txt": "srv-SECRET-1", "cipher.txt": "enc-SECRET-2"}
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
    grants = {hash_of("fb_SECRET_3"): KeyGrant("ann", "caller", ("eta",), 5.0, 5.0, seat=2)}
    node.layout.access.write_bytes(msgspec.json.encode(Access(2, grants, closed=True, format=2)))
    configured(node, 'tls_certificate = "cert.pem"', 'tls_key = "key.pem"', "access_log = true",
               'key = "file:server.txt"', 'encryption_key = "file:cipher.txt"')  # fmt: skip
    node.route()
    try:
        running = node.up()
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False

        def ask(key: str, path: str = "/v2/models/eta/infer") -> int:
            there = http.client.HTTPSConnection(running.host, running.port, context=context, timeout=10)
            there.request("POST", path, json.dumps(BODY), {"content-type": "application/json", "x-api-key": key})
            status = there.getresponse().status
            there.close()
            return status

        assert [ask(k) for k in ("fb_SECRET_3", "srv-SECRET-1", "fb_WRONG_4", "")] == [200, 200, 401, 401]
        assert [ask("fb_SECRET_3") for _ in range(8)].count(429) >= 1
        assert ask("fb_SECRET_3", "/nothing?token=fb_QUERY_5") in {404, 429}
        with socket.create_connection((running.host, running.port), timeout=5) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" not in plain.recv(100)
        old = ssl.create_default_context(cafile=str(cert))
        old.check_hostname = False
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)), socket.create_connection((running.host, running.port)) as sock:
            old.wrap_socket(sock)
        certificate(tmp_path, "renewed")  # new connections get it

        def renewed() -> bool:
            pem = ssl.get_server_certificate((running.host, running.port))
            return pem.strip() == cert.read_text().strip()

        until(renewed, what="the renewed certificate")
    finally:
        node.down()
    lines = [json.loads(line) for line in (node.layout.state / "logs" / "access-w0.log").read_text().splitlines()]
    assert {(x["path"], x["status"]) for x in lines} >= {("/v2/models/{model}/infer", 200)}
    assert {x.get("key", "") for x in lines} == {"ann", "of the server", ""}
    for path in [*node.layout.state.rglob("*.log"), *node.layout.state.rglob("*.seg"), node.layout.access]:
        data = path.read_bytes()
        for secret in (b"SECRET", b"fb_WRONG_4", b"fb_QUERY_5"):
            assert secret not in data, (path.name, secret)


def test_files_of_tls_that_do_not_fit_are_named(tmp_path):
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, wrong = certificate(tmp_path / "other")
    assert tls_context(cert, key).minimum_version == ssl.TLSVersion.TLSv1_2
    for files in ((cert, wrong), (tmp_path / "none.pem", key), (key, cert)):
        with pytest.raises(ConfigError, match=r"TLS cannot be served with server\.tls_certificate"):
            tls_context(*files)


def test_a_port_that_others_reach_without_a_key_is_warned_of(tmp_path):
    (tmp_path / "flyball.toml").write_text('[project]\nname = "x"\n[server]\nhost = "0.0.0.0"\n')
    config = load(tmp_path / "flyball.toml")
    config.layout.state.mkdir()
    config.layout.access.write_bytes(msgspec.json.encode(Access()))
    (warning,) = unguarded(config.settings, config.layout)
    assert warning.startswith("server.host is 0.0.0.0: whoever reaches that port may call without a key")
    config.layout.access.write_bytes(msgspec.json.encode(Access(closed=True)))
    assert unguarded(config.settings, config.layout) == []


class Caller:
    """Ask on kept connections until the node is gone; whatever else goes wrong is kept."""

    def __init__(self, running) -> None:
        self.running, self.answers, self.wrong, self.closed = running, 0, [], 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        body = json.dumps(BODY)
        while True:
            there = http.client.HTTPConnection(self.running.host, self.running.port, timeout=15)
            try:
                there.connect()
            except ConnectionRefusedError:
                return
            except OSError as error:
                self.wrong.append(f"connect: {error!r}")
                return
            try:
                while True:
                    there.request("POST", "/v2/models/eta/infer", body, {"content-type": "application/json"})
                    answer = there.getresponse()
                    answer.read()
                    if answer.status != 200:
                        self.wrong.append(str(answer.status))
                    self.answers += 1
                    if answer.getheader("connection") == "close":
                        self.closed += 1
                        break
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(f"request {self.answers}: {error!r}")
                return
            finally:
                there.close()


def test_the_end_of_a_node_under_load_resets_nobody(tmp_path):
    node = Node(tmp_path, workers=2)
    node.route()
    running = node.up()
    callers = [Caller(running) for _ in range(16)]
    until(lambda: min(c.answers for c in callers) > 20, what="answers")
    stop(node.layout)
    node.database.close()
    for caller in callers:
        caller.thread.join(20)
        assert not caller.thread.is_alive()
    assert [w for c in callers for w in c.wrong] == []
    assert sum(c.closed for c in callers) >= 16
