import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import msgspec
import pytest

from flyball.api.app import create_app
from flyball.errors import Refused, Unavailable, UnknownName
from flyball.rollout.types import Phase, RolloutSpec, RolloutStatus, Step
from flyball.serving.http.access import Access, AccessFile, KeyGrant, hash_of

NOW = datetime(2020, 3, 11, 4, tzinfo=UTC)
STATUS = RolloutStatus("r1", "eta", "v2", "v1", Phase.STEP, 3, NOW)
SPEC = RolloutSpec((Step(0.1), Step(0.5)), bake=NOW - NOW)


class TestClient:
    """Call the application in this process, without a socket."""

    __test__ = False

    def __init__(self, app, base_url="http://127.0.0.1:8081"):
        self._app, self._url = app, base_url

    def get(self, path, **options):
        return asyncio.run(self._send("GET", path, options))

    def post(self, path, **options):
        return asyncio.run(self._send("POST", path, options))

    async def _send(self, method, path, options):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url=self._url) as client:
            return await client.request(method, path, **options)


class Handle:
    def __init__(self, given, model, version):
        self._given = given
        self._what = (model, version)

    def start(self, **options):
        if self._what[1] == "v9":
            raise Refused("v9 may not be exposed: its gate says breached")
        self._given.append((*self._what, "start", options))

    def abort(self, reason="", *, actor="cli"):
        self._given.append((*self._what, "abort", reason, actor))

    def promote(self, reason="", *, actor="cli", force=False):
        self._given.append((*self._what, "promote", reason, actor, force))

    def approve(self, reason="", *, actor="cli"):
        self._given.append((*self._what, "approve", reason, actor))

    def expected(self, **options):
        return {"promote_days": 2.0, "given": options}


class Rollouts:
    def list(self, model=None, *, active=False):
        return [(SPEC, STATUS)] if model in {None, "eta"} else []

    def get(self, name):
        if name != "r1":
            raise UnknownName.of("rollout", name, ["r1"])
        return SPEC, STATUS

    def events(self, name):
        return []


class Control:
    def __init__(self):
        self.given = []
        self.audited = []
        loop = SimpleNamespace(frozen=lambda m: None, triggers=lambda m: [], story=lambda m: [])
        self.project = SimpleNamespace(
            rollout=lambda m, v: Handle(self.given, m, v),
            applied=SimpleNamespace(models={"eta": 1}, model=lambda m: m),
            database=SimpleNamespace(
                rollouts=Rollouts(),
                versions=SimpleNamespace(list=lambda m: [{"version": "v1"}]),
                monitors=SimpleNamespace(alerts=lambda since: [{"since": since}]),
                loop=loop,
                audit=SimpleNamespace(record=lambda *fact: self.audited.append(fact[1:])),
            ),
            clock=SimpleNamespace(now=lambda: NOW),
        )

    def health(self):
        return {"status": "ok"}

    async def work(self, call):
        return await asyncio.to_thread(call)

    order = work

    async def set_clock(self, to):
        self.given.append(to)
        return {"now": to.isoformat(), "did": []}


@pytest.fixture
def control():
    return Control()


@pytest.fixture
def api(control):
    return TestClient(create_app(control), base_url="http://127.0.0.1:8081")


def test_rollouts_are_listed_with_spec_and_status(api):
    (found,) = api.get("/v1/rollouts?model=eta").json()
    assert (found["status"]["phase"], [s["share"] for s in found["spec"]["steps"]]) == ("Step", [0.1, 0.5])
    assert api.get("/v1/rollouts?model=other").json() == []


def test_one_rollout_comes_with_its_events(api):
    found = api.get("/v1/rollouts/r1").json()
    assert found["events"] == []
    assert found["guardrails"] == []
    assert "next pass" in found["next"]["sentence"] or "step" in found["next"]["sentence"]


def test_a_release_is_started_by_a_post(api, control):
    answer = api.post("/v1/rollouts", json={"model": "eta", "version": "v2", "skip_shadow": True})
    assert answer.status_code == 200
    assert control.given == [
        ("eta", "v2", "start", {"skip_shadow": True, "cause": "manual", "actor": "api", "force": False})
    ]


def test_an_order_reaches_the_rollout_of_that_id(api, control):
    assert api.post("/v1/rollouts/r1/abort", json={"reason": "too slow"}).json()["status"]["id"] == "r1"
    assert control.given == [("eta", "v2", "abort", "too slow", "api")]


def test_an_approval_and_a_forced_promotion_reach_the_rollout(api, control):
    assert api.post("/v1/rollouts/r1/approve", json={"reason": "looked at it"}).status_code == 200
    assert api.post("/v1/rollouts/r1/promote", json={"reason": "hot fix", "force": True}).status_code == 200
    assert control.given == [
        ("eta", "v2", "approve", "looked at it", "api"),
        ("eta", "v2", "promote", "hot fix", "api", True),
    ]


def test_force_belongs_to_a_promotion_only(api, control):
    assert api.post("/v1/rollouts/r1/abort", json={"force": True}).status_code == 400
    assert control.given == []


def test_a_dry_run_by_post_starts_nothing(api, control):
    asked = {"model": "eta", "version": "v2", "dry_run": True, "per_day": 5000}
    assert api.post("/v1/rollouts", json=asked).json()["given"] == {"per_day": 5000, "skip_shadow": False}
    assert control.given == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/rollouts/r1/abrot", {}, 404, "did you mean abort"),
        ("/v1/rollouts/r2/abort", {}, 404, "known: r1"),
        ("/v1/rollouts", {"model": "eta"}, 400, "version"),
        ("/v1/rollouts", {"model": "eta", "version": "v9"}, 409, "may not be exposed"),
        ("/v1/clock", {"to": "yesterday"}, 400, "to"),
        ("/v1/nothing", {}, 404, "nothing"),
        ("/health", {}, 405, "not allowed"),
    ],
)
def test_a_bad_call_gets_one_sentence_and_its_status(api, path, body, status, words):
    answer = api.post(path, json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_the_clock_takes_a_time_with_its_zone(api, control):
    assert api.post("/v1/clock", json={"to": "2020-03-11T00:00:00-04:00"}).json()["did"] == []
    assert control.given == [NOW]


def test_models_alerts_and_loop_are_json(api):
    assert api.get("/v1/models").json() == {"eta": [{"version": "v1"}]}
    assert api.get("/v1/alerts").json() == [{"since": None}]
    assert api.get("/v1/alerts?since=junk").status_code == 400
    assert api.get("/v1/loop/eta").json()["frozen"] is None


def test_a_page_of_another_site_may_not_post(api, control):
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert api.post("/v1/clock", json={"to": NOW.isoformat()}, headers=headers).status_code == 403
    own = api.post("/v1/clock", json={"to": NOW.isoformat()}, headers={"origin": "http://127.0.0.1:8081"})
    assert own.status_code == 200


def test_a_configured_key_is_needed_for_everything_but_health(control):
    api = TestClient(create_app(control, key=b"secret"))
    assert api.get("/v1/models").status_code == 401
    assert api.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert api.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
    assert api.get("/health").status_code == 200


def test_a_project_that_is_not_open_is_a_503():
    class Closed(Control):
        def __init__(self):
            pass

        @property
        def project(self):
            raise Unavailable("control cannot answer yet: no connection")

    assert TestClient(create_app(Closed())).get("/v1/models").status_code == 503


@pytest.mark.parametrize("host", ["127.0.0.1/health?", "127.0.0.1/v1/features/online?"])
def test_a_host_header_does_not_choose_the_path_that_is_guarded(host):
    control = Control()
    answer = TestClient(create_app(control, key=b"k")).post("/v1/rollouts/r1/abort", headers={"host": host})
    assert (answer.status_code, control.given) == (401, [])


def test_every_order_is_audited_with_who_and_what_came_of_it_refused_ones_too(control, tmp_path):
    grant = KeyGrant("ann", "admin"), KeyGrant("bob", "reader")
    path = tmp_path / "access.json"
    keys = {hash_of(g.name): g for g in grant}
    path.write_bytes(msgspec.json.encode(Access(1, keys, closed=True)))
    api = TestClient(create_app(control, access=AccessFile(path)))
    for key, order in (("ann", "abort"), ("bob", "abort"), ("cyd", "abort"), ("ann", "explode")):
        api.post(f"/v1/rollouts/r1/{order}", headers={"x-api-key": key}, json={})
    api.get("/v1/rollouts", headers={"x-api-key": "ann"})
    what = "POST /v1/rollouts/{id}/{order}"
    assert [(who, action, facts["status"]) for who, action, _, facts in control.audited] == [
        ("key ann", what, 200), ("key bob", what, 403), ("key unknown", what, 401), ("key ann", what, 404),
    ]  # fmt: skip
    assert control.audited[0][3] == {"status": 200, "id": "r1", "order": "abort"}


def test_guesses_do_not_fill_the_audit_trail(control):
    api = TestClient(create_app(control, key=b"right"))
    for _ in range(40):
        assert api.post("/v1/rollouts/r1/abort", headers={"x-api-key": "wrong"}).status_code == 401
    assert 0 < len(control.audited) <= 30
