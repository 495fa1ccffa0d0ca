"""Keys with roles: shown once, kept as hashes, enforced at the gateway and in the control API, changed within a second."""

from __future__ import annotations

import json
import time

import project_kit as kit
import pytest

from flyball.cli.app import run
from flyball.errors import BadRequest, DuplicateName, InputError, UnknownName
from flyball.project import Project
from flyball.project.bootstrap import bootstrap
from flyball.serving.http.access import Access, AccessFile, hash_of
from flyball.testing.in_process import client

ROW = {"zone": 1, "distance": 2.0}


@pytest.fixture
def guarded(trained):
    """A project whose view names its readers and writers."""
    kit.edit(trained, ('ttl="7d", features=[', 'ttl="7d", readers=["serving"], writers=["feeds"], features=['))
    with Project.open(trained) as project:
        project.apply()
        yield project


def send(http, path, body, key):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return http.post(path, json=body, headers=headers)


def until(status, ask):
    deadline = time.monotonic() + 5
    while (found := ask()).status_code != status and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_without_any_key_everybody_may(guarded):
    with client(guarded) as http:
        assert send(http, "/predict", {"model": "eta", "rows": [ROW]}, None).status_code == 200


def test_a_role_that_a_view_does_not_name_may_not_ask_a_model_that_reads_it(guarded):
    _, reader = guarded.keys.create("serving")
    _, other = guarded.keys.create("analyst")
    _, admin = guarded.keys.create("admin")
    body = {"model": "eta", "rows": [ROW]}
    v2 = {"inputs": [{"name": n, "shape": [1], "datatype": t, "data": [v]} for n, t, v in
                     (("zone", "INT64", 1), ("distance", "FP64", 2.0))]}  # fmt: skip
    with client(guarded) as http:
        for path, sent in (("/predict", body), ("/v2/models/eta/infer", v2)):
            assert [send(http, path, sent, k).status_code for k in (reader, admin, other, "fb_guess", None)] == [
                200, 200, 403, 401, 401,
            ]  # fmt: skip
        assert "may not read view 'traffic'" in send(http, "/predict", body, other).json()["error"]


def test_only_writers_may_push(guarded):
    _, feeds = guarded.keys.create("feeds")
    _, reader = guarded.keys.create("serving")
    now = guarded.clock.now().isoformat()
    rows = [ROW | {"pickup_at": now, "dropoff_at": now}]
    with client(guarded) as http:
        assert send(http, "/v1/sources/trips/events", rows, reader).status_code == 403
        assert send(http, "/v1/sources/trips/events", rows, feeds).status_code == 200


def test_a_revoked_key_opens_nothing_within_a_second(guarded):
    name, key = guarded.keys.create("serving")
    guarded.keys.create("admin")
    with client(guarded) as http:

        def ask():
            return send(http, "/predict", {"model": "eta", "rows": [ROW]}, key)

        assert ask().status_code == 200
        guarded.keys.revoke(name)
        assert until(401, ask).status_code == 401


def test_only_hashes_are_kept_and_only_this_user_reads_them(guarded):
    _, key = guarded.keys.create("serving")
    path = guarded.layout.access
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_text() + repr(guarded.keys.list()) + repr(guarded.database.audit.list())
    assert key not in kept
    assert hash_of(key) in path.read_text()


def test_the_control_api_reads_by_role_and_changes_by_admin(guarded):
    import asyncio
    from types import SimpleNamespace

    import httpx

    from flyball.api.app import create_app

    async def work(call):
        return call()

    _, reader = guarded.keys.create("serving")
    _, other = guarded.keys.create("analyst")
    app = create_app(
        SimpleNamespace(project=guarded, work=work, health=lambda: {"status": "ok"}),
        access=AccessFile(guarded.layout.access),
    )

    async def ask(method, path, key):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as http:
            return (await http.request(method, path, headers={"x-api-key": key} if key else {})).status_code

    assert asyncio.run(ask("GET", "/v1/features/traffic", reader)) == 200
    assert asyncio.run(ask("GET", "/v1/features/traffic", other)) == 403
    assert asyncio.run(ask("GET", "/v1/features/traffic", None)) == 401
    assert asyncio.run(ask("POST", "/v1/rollouts", reader)) == 403
    assert asyncio.run(ask("GET", "/health", None)) == 200


def test_a_configured_key_is_admin_and_a_half_written_file_changes_nothing(tmp_path):
    access = Access(keys={hash_of("k"): "a"}, readers={"v": ("b",)})
    assert access.grant(b"secret", b"secret").role == "admin"
    assert access.grant(b"k", b"secret").role == "a"
    with pytest.raises(BadRequest):
        access.require_read("a", ["v"])
    access.require_read(None, ["v"])
    path = tmp_path / "access.json"
    path.write_text('{"version": 3, "keys": {"x": "a"}}')
    file = AccessFile(path)
    assert file.current.version == 3
    path.write_text('{"vers')
    file._next = 0
    assert file.current.version == 3
    with pytest.raises(BadRequest):
        AccessFile(path).current.grant(b"", None)  # damaged from the start: the door stays closed


def test_revoking_the_last_key_leaves_the_door_closed(guarded):
    guarded.keys.create("serving", name="only")
    guarded.keys.revoke("only")
    with client(guarded) as http:
        assert send(http, "/predict", {"model": "eta", "rows": [ROW]}, None).status_code == 401


def test_a_lost_file_changes_nothing_and_lets_nobody_in_at_a_start(guarded):
    _, key = guarded.keys.create("serving")
    file = AccessFile(guarded.layout.access)
    assert file.current.grant(key.encode(), None).role == "serving"
    guarded.layout.access.unlink()
    file._next = 0
    assert file.current.grant(key.encode(), None).role == "serving"
    with pytest.raises(BadRequest):
        AccessFile(guarded.layout.access).current.grant(b"", None)
    bootstrap(guarded, say=lambda _: None, progress=lambda *_: None)
    assert AccessFile(guarded.layout.access).current.grant(key.encode(), None).role == "serving"


def test_wrong_use_is_told(guarded):
    guarded.keys.create("serving", name="one")
    with pytest.raises(DuplicateName):
        guarded.keys.create("serving", name="one")
    with pytest.raises(UnknownName, match="one"):
        guarded.keys.revoke("on")
    with pytest.raises(InputError):
        guarded.keys.create("two words")


def test_the_command_line_makes_lists_and_revokes(trained, capsys):
    assert run(["key", "list", "-p", str(trained)]) == 0
    assert "no keys" in capsys.readouterr().out
    assert run(["key", "create", "--role", "serving", "--name", "app", "-p", str(trained)]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("fb_")
    assert run(["key", "revoke", "app", "-p", str(trained)]) == 0
    capsys.readouterr()
    assert run(["key", "list", "--json", "-p", str(trained)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["role"]) == ("app", "serving")
    assert found["revoked"]
    assert key not in json.dumps(found)


@pytest.mark.parametrize("damaged", [b'{"keys":{"\xff":"admin"}}', b"{", b"[" * 100_000])
def test_making_a_key_repairs_a_damaged_access_file_and_closes_it_to_others(guarded, damaged):
    path = guarded.layout.access
    path.write_bytes(damaged)
    path.chmod(0o666)
    _, key = guarded.keys.create("serving")
    assert AccessFile(path).current.grant(key.encode(), None).role == "serving"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("wrong", [
    {"name": "two\nlines"}, {"name": "\x1b[2J"}, {"name": " a"}, {"name": "n" * 101}, {"rate": "1e-300/s"},
    {"rate": 5e-324}, {"expires": "100000000d"},
])  # fmt: skip
def test_a_key_that_would_break_a_line_a_bucket_or_the_calendar_is_refused(guarded, wrong):
    with pytest.raises(InputError):
        guarded.keys.create("serving", **wrong)
    assert guarded.keys.list() == []
