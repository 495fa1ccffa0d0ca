"""The front of the gateway: keys with scopes, rates, ids, traces, lines, browsers, and the end."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from serving_kit import Kit, double, infer_body, table

from flyball.errors import Busy
from flyball.serving.http import access
from flyball.serving.http.access import Access, AccessFile, KeyGrant, hash_of
from flyball.serving.http.accesslog import AccessLog, Line, template
from flyball.serving.http.front import Front
from flyball.serving.http.limits import Rates
from flyball.serving.http.tracing import Parent, Tracer, parent_of
from flyball.serving.shared.slots import Counter, SharedMap
from flyball.testing.in_process import client

V2 = "/v2/models/eta/infer"
LATER = 4_000_000_000_000_000


@pytest.fixture
def world(tmp_path):
    """Make a client of a gateway that serves eta, with a front of one's choice."""
    made = []

    def make(grants=None, *, server_key=None, slot=0, shared=None, **options):
        access = None
        if grants is not None:
            path = tmp_path / "access.json"
            import msgspec

            path.write_bytes(msgspec.json.encode(Access(1, grants, closed=True, format=2)))
            access = AccessFile(path)
        kit = Kit(tmp_path, v1=double)
        front = Front(key=server_key, access=access, **options)
        gateway = kit.gateway(front=front, log=None, slot=slot, shared=shared or SharedMap.in_memory())
        http = client(gateway)
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        made.append(http)
        return http

    yield make
    for http in made:
        http.close()


def ask(http, key=None, path=V2, **headers):
    sent = {"authorization": f"Bearer {key}"} if key else {}
    return http.post(path, json=infer_body(zone=987654), headers=sent | headers)


def grant(name="ann", **fields):
    return KeyGrant(name, fields.pop("role", "caller"), **({"seat": 5} | fields))


def test_a_key_opens_its_models_only(world):
    http = world({hash_of("good"): grant(models=("eta",)), hash_of("else"): grant("bob", models=("churn",))})
    answers = [ask(http, k) for k in ("good", "else", "wrong", None)]
    assert [a.status_code for a in answers] == [200, 403, 401, 401]
    assert answers[1].json() == {"error": "key bob may not ask model 'eta'; it is for churn"}
    assert answers[2].headers["www-authenticate"] == "Bearer"
    assert http.gateway.slot.total(Counter.REFUSED_KEY) == 3


def test_an_expired_key_opens_nothing_even_when_it_was_right_before(world, monkeypatch):
    now = [time.time()]
    soon = int((now[0] + 60) * 1e6)
    monkeypatch.setattr(access, "time", SimpleNamespace(time=lambda: now[0], monotonic=time.monotonic))
    http = world({hash_of("k"): grant(expires=soon), hash_of("later"): grant("bob", expires=LATER)})
    assert ask(http, "k").status_code == 200
    now[0] += 60
    refused = ask(http, "k")
    assert (refused.status_code, refused.json()["error"]) == (401, "key ann has expired; ask for a new one")
    assert ask(http, "later").status_code == 200


def test_a_file_of_roles_only_is_still_read(tmp_path):
    path = tmp_path / "access.json"
    path.write_text(json.dumps({"version": 3, "keys": {hash_of("k"): "feeds"}, "closed": True}))
    found = AccessFile(path).grant(b"k", None)
    assert (found.role, found.models, found.rate) == ("feeds", (), 0.0)


def test_guesses_do_not_fill_what_is_remembered(tmp_path):
    from flyball.errors import BadRequest

    path = tmp_path / "access.json"
    path.write_text(json.dumps({"version": 3, "keys": {hash_of("k"): "feeds"}, "closed": True}))
    access = AccessFile(path)
    for k in range(50):
        with pytest.raises(BadRequest):
            access.grant(b"guess%d" % k, None)
    access.grant(b"k", None)
    assert list(access._grants) == [b"k"]


class Clock:
    now = 9_000_000_000_000

    def __call__(self):
        return self.now


def test_a_rate_holds_over_two_gateways(world):
    clock, shared = Clock(), SharedMap.in_memory(slots=2)
    rates = Rates.in_memory(slots=2, clock=clock)
    grants = {hash_of("k"): grant(rate=2.0, burst=3.0)}
    one = world(grants, rates=rates, shared=shared)
    two = world(grants, rates=rates.seen_by(1), slot=1, shared=shared)
    answers = [ask(http, "k") for http in (one, two, one, two, one)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "1"
    assert answers[3].json() == {"error": "key ann may make 2 requests a second and made more; send again in 1 s"}
    assert sum(shared.slot(k).total(Counter.REFUSED_RATE) for k in (0, 1)) == 2
    clock.now += 500_000_000
    assert ask(two, "k").status_code == 200


def test_callers_without_a_key_share_the_rate_of_the_server(world):
    http = world(rate=2.0, rates=Rates.in_memory(clock=Clock()))
    assert [ask(http).status_code for _ in range(3)] == [200, 200, 429]
    assert http.get("/health").status_code == 200


def test_too_much_work_is_503_and_says_when_to_come_again(world, monkeypatch):
    http = world()

    async def busy(*_, **__):
        error = Busy("4,096 requests wait")
        error.retry_after = 2.2
        raise error

    monkeypatch.setattr(http.gateway._answerer, "answer", busy)
    refused = ask(http)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "3")
    assert http.gateway.slot.total(Counter.REFUSED_BUSY) == 1


@pytest.mark.parametrize(("given", "answered"), [("abc-1", "abc-1"), ("x" * 128, "x" * 128), ("x" * 129, None),
                                                 ("a b", None), ("", None), (None, None)])  # fmt: skip
def test_a_sane_request_id_comes_back(world, given, answered):
    headers = {} if given is None else {"x-request-id": given}
    assert ask(world(), **headers).headers.get("x-request-id") == answered


def test_an_id_comes_back_with_a_refusal_too(world):
    assert ask(world({}), **{"x-request-id": "abc"}).headers["x-request-id"] == "abc"


GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("header", "valid"), [
    (GOOD, True), (GOOD[:-2] + "00", True), ("cc" + GOOD[2:] + "-more", True),
    (GOOD + "-more", False), ("ff" + GOOD[2:], False), (GOOD.upper(), False), (GOOD[:-1], False), ("", False),
    ("00-" + "0" * 32 + GOOD[35:], False), (GOOD[:36] + "0" * 16 + "-01", False), ("x" * 10_000, False),
])  # fmt: skip
def test_a_trace_is_continued_only_when_its_header_is_valid(header, valid):
    assert (parent_of(header.encode()) is not None) == valid


def test_what_a_trace_header_says():
    assert parent_of(GOOD.encode()) == Parent(GOOD[3:35], GOOD[36:52], sampled=True)


def test_browsers_are_answered_only_from_known_places(world):
    http = world(server_key=b"k", origins=["https://good.example"])
    asked = {"origin": "https://good.example", "access-control-request-method": "POST"}
    allowed = http.options(V2, headers=asked)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    for origin in ("https://evil.example", "https://good.example.evil", "null"):
        refused = http.options(V2, headers=asked | {"origin": origin})
        assert refused.status_code in {401, 405}
        assert "access-control-allow-origin" not in refused.headers
        assert refused.headers["vary"] == "origin"
    real = ask(http, "k", origin="https://good.example")
    assert (real.status_code, real.headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert "access-control-allow-origin" in ask(http, "no", origin="https://good.example").headers


def test_without_origins_no_browser_is_told_anything(world):
    answer = world().options(V2, headers={"origin": "https://a.example", "access-control-request-method": "POST"})
    assert answer.status_code in {204, 405}
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_line_says_what_was_asked_and_nothing_personal(world, tmp_path):
    path = tmp_path / "access.log"
    http = world({hash_of("fb_secret"): grant()}, access_log=AccessLog(path))
    ask(http, "fb_secret", path=V2 + "?email=ann@example.org", **{"traceparent": GOOD, "x-request-id": "r1"})
    ask(http, "fb_wrong", path="/people/ann@example.org")
    http.close()
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(x["path"], x["status"]) for x in lines] == [("/v2/models/{model}/infer", 200), ("other", 401)]
    first = lines[0]
    assert (first["model"], first["version"], first["key"], first["request"]) == ("eta", "v1", "ann", "r1")
    assert first["trace"] == GOOD[3:35]
    assert first["ms"] > 0
    assert first["sent"] > 0
    assert first["received"] > 0
    assert len(lines[1]["request"]) == 32
    assert not any(word in text for word in ("ann@", "fb_", "987654", "email"))


def test_lines_that_the_disk_does_not_take_are_counted(tmp_path):
    dropped = []
    log = AccessLog(tmp_path / "sub" / "access.log", dropped.append)
    (tmp_path / "sub").rmdir()
    log.put(Line(0, "GET", "/", 200, 1, 0, 0))
    log.close()
    assert dropped == [1]


@pytest.mark.parametrize(("path", "said"), [
    ("/v2/models/eta/infer", "/v2/models/{model}/infer"), ("/v2/models/infer/versions/v1/infer",
    "/v2/models/{model}/versions/{version}/infer"), ("/predict", "/predict"), ("/v1/sources/a%20b/events",
    "/v1/sources/{source}/events"), ("/wp-login.php", "other"), ("/" + "v2/" * 50, "other"), ("/", "other"),
])  # fmt: skip
def test_paths_become_templates(path, said):
    assert template(path) == said


def test_spans_continue_the_callers_trace():
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = memory.InMemorySpanExporter()
    tracer = Tracer(SimpleSpanProcessor(exporter))
    tracer.record(parent_of(GOOD.encode()), "POST /predict", ended=10_000_000, took=5_000_000, stages=(10, 20, 30, 40))
    tracer.record(None, "GET /", ended=10_000_000, took=1_000, failed=True)
    spans = {s.name: s for s in exporter.get_finished_spans()}
    assert set(spans) == {"parse", "features", "wait", "model", "POST /predict", "GET /"}
    root = spans["POST /predict"]
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (GOOD[3:35], GOOD[36:52])
    assert (root.start_time, root.end_time) == (5_000_000, 10_000_000)
    assert (spans["model"].start_time, spans["model"].end_time) == (5_060_000, 5_100_000)
    assert spans["model"].parent.span_id == root.context.span_id
    assert spans["GET /"].parent is None
    assert not spans["GET /"].status.is_ok
    tracer.close()


def test_traces_are_off_unless_the_environment_names_a_place():
    assert Tracer.from_environment({}) is None
    assert Tracer.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is None
    assert Tracer.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}) is None


def test_readiness_says_at_once_that_the_worker_leaves(world):
    http = world()
    assert http.get("/v2/health/ready").status_code == 200
    http.gateway.drain()
    assert http.get("/v2/health/ready").status_code == 503
    assert ask(http).status_code == 200


def test_an_answer_to_nothing_heard_carries_nothing_more(world):
    assert set(ask(world()).headers) == {"content-type", "content-length"}
