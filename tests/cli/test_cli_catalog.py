"""The catalog on the command line and in the API: what a view is, how it is now, what it was, what came of it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import httpx
import project_kit as kit
import pytest

from flyball.api.app import create_app
from flyball.cli.app import run
from flyball.project import Project


@pytest.fixture
def ask(capsys):
    def call(folder, *arguments, code=0):
        capsys.readouterr()
        assert run([*arguments, "-p", str(folder)]) == code
        return capsys.readouterr().out

    return call


def document(ask, folder, *arguments):
    return json.loads(ask(folder, *arguments, "--json"))


def test_show_says_how_a_view_is_now(trained_template, ask):
    found = document(ask, trained_template, "feature", "show", "traffic")
    assert found["rows_online"] == 6
    assert found["quarantined"] == 0
    assert found["age_s"] == pytest.approx(0, abs=3600)
    assert [f["missing_share"] for f in found["features"]] == [0.0, 0.0]
    assert found["source_about"]["where"] == "minutes between 1 and 60"
    assert found["last_refresh"].startswith("2020-03-12")
    readers = [(r["model"], r["version"], r["lifecycle"], r["current"], r["deployment"]) for r in found["read_by"]]
    assert readers == [
        ("eta", "v1", "champion", True, "champion, 100% of units (table 1)"),
        ("eta", "v2", "candidate", True, ""),
    ]
    assert found["definitions"] == ["eta"]


def test_show_prints_it_for_people(trained_template, ask):
    said = ask(trained_template, "feature", "show", "traffic")
    assert "6 entities online" in said
    assert "eta v1" in said
    assert "mean of minutes over 1 d" in said


def test_a_view_whose_entities_fell_silent_shows_its_age_and_its_absent_values(trained, ask):
    kit.edit(trained, ("default=0.0", "default=None"))
    with Project.open(trained) as project:
        project.apply()
    assert run(["config", "set", "clock.start", "2020-03-20T00:00:00+00:00", "-p", str(trained)]) == 0
    found = document(ask, trained, "feature", "show", "traffic")
    assert found["age_s"] == pytest.approx(8 * 86_400, abs=3600)
    assert {f["name"]: f["missing_share"] for f in found["features"]} == {"trips_1h": 0.0, "minutes_24h": 1.0}


def test_versions_tell_the_digests_over_applies_and_what_changed(trained, ask):
    with Project.open(trained) as project:
        first = project.features.views()[0].digest
    kit.edit(trained, ('fb.count("trips_1h", window="1h")', 'fb.count("trips_1h", window="3h")'))
    assert run(["apply", "-p", str(trained)]) == 0
    kit.edit(trained, ("    from sklearn", "    # only code\n    from sklearn"))
    assert run(["apply", "-p", str(trained)]) == 0
    found = document(ask, trained, "feature", "show", "traffic", "--versions")
    assert [v["action"] for v in found] == ["add", "change"]
    assert found[0]["digest"] == first != found[1]["digest"]
    assert {"field": "feature trips_1h window", "was": "1 h", "now": "3 h", "rebuilds": True} in found[1]["fields"]
    assert "feature trips_1h window: 1 h -> 3 h" in ask(trained, "feature", "show", "traffic", "--versions")


@pytest.mark.parametrize("words", ["TRAFFIC", "trips_1h", "zone", "mean minutes", "trips"])
def test_search_finds_names_features_entities_and_sources(trained_template, ask, words):
    assert [h["view"] for h in document(ask, trained_template, "feature", "search", *words.split())] == ["traffic"]


def test_search_wants_every_word(trained_template, ask):
    assert document(ask, trained_template, "feature", "search", "traffic", "weather") == []
    assert "nothing matches" in ask(trained_template, "feature", "search", "weather")


def test_lineage_goes_from_the_source_to_the_deployment(trained_template, ask):
    said = ask(trained_template, "feature", "lineage", "traffic")
    order = ["source trips", "view traffic", "model eta: reads minutes_24h, trips_1h", "version eta v1", "deployment"]
    assert [said.index(word) for word in order] == sorted(said.index(word) for word in order)
    (tree,) = document(ask, trained_template, "feature", "lineage", "eta")
    assert [tree["kind"], tree["children"][0]["kind"]] == ["source", "view"]


def test_lineage_keeps_a_replaced_definition_that_a_version_still_reads(trained, ask):
    kit.edit(trained, ('ttl="7d"', 'ttl="8d"'))
    assert run(["apply", "-p", str(trained)]) == 0
    (tree,) = document(ask, trained, "feature", "lineage")
    assert [c["text"].rpartition(", ")[2] for c in tree["children"]] == ["applied", "still read"]
    assert [len(c["children"][0]["children"]) for c in tree["children"]] == [0, 2]


def test_lineage_is_drawn(trained_template, tmp_path, ask):
    for name in ("l.svg", "l.html"):
        ask(trained_template, "feature", "lineage", "--out", str(tmp_path / name))
        text = (tmp_path / name).read_text()
        assert "version eta v1" in text
        assert "<script" not in text
    ask(trained_template, "feature", "lineage", "--out", str(tmp_path / "l.png"), code=2)


def test_an_unknown_name_is_told_with_near_ones(trained_template, capsys):
    for arguments in (("show", "trafic"), ("show", "trafic", "--versions"), ("lineage", "trafic")):
        capsys.readouterr()
        assert run(["feature", *arguments, "-p", str(trained_template)]) == 2
        assert "traffic" in capsys.readouterr().err


def test_the_api_says_the_same(trained_template):
    async def work(call):
        return call()

    async def get(app, path):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8081") as http:
            return await http.get(path)

    with Project.open(trained_template) as project:
        app = create_app(SimpleNamespace(project=project, work=work))
        (view,) = asyncio.run(get(app, "/v1/features")).json()
        assert view["name"] == "traffic"
        assert [h["view"] for h in asyncio.run(get(app, "/v1/features?search=trips")).json()] == ["traffic"]
        one = asyncio.run(get(app, "/v1/features/traffic")).json()
        assert one["rows_online"] == 6
        assert one["versions"][0]["action"] == "add"
        assert one["lineage"][0]["kind"] == "source"
        assert asyncio.run(get(app, "/v1/features/nothing")).status_code == 404
