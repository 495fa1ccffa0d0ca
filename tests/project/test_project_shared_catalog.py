"""A shared catalog: projects publish on apply and import by name and digest; names have one owner; away stops nothing."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import project_kit as kit
import pytest
import servers_kit

import flyball as fb
from flyball.adapters.catalog_files import FilesCatalog
from flyball.adapters.catalogs import open_catalog
from flyball.cli.app import run
from flyball.errors import ConfigError, ConflictError, DefinitionError, IntegrityError, Unavailable, UnknownName
from flyball.features.definitions.imported import ImportedView
from flyball.features.shared import Entry, obstacle
from flyball.project import Project
from flyball.units import to_micros

NOW = to_micros(datetime(2026, 1, 1, tzinfo=UTC))
READER = """\
import flyball as fb

traffic = fb.imported("traffic"{digest})
near = fb.FeatureService("near", features=[traffic.select("trips_1h")])
"""


@pytest.fixture(params=["files", "postgres"])
def url(request, tmp_path):
    """An empty catalog of each kind."""
    if request.param == "files":
        (tmp_path / "catalog").mkdir()
        return str(tmp_path / "catalog")
    import psycopg

    base, name = servers_kit.postgres_url(), servers_kit.fresh_namespace()
    with psycopg.connect(base, autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    return base.replace("/postgres?", f"/{name}?")


def project_in(folder: Path, name: str, url: str, definitions: str = kit.DEFINITIONS) -> Path:
    toml = kit.TOML.replace('name = "small"', f'name = "{name}"') + f'\n[catalog]\nurl = "{url}"\n'
    return kit.write_project(folder, toml=toml, definitions=definitions)


def view(name: str = "traffic", window: str = "1h", **about: str) -> fb.FeatureView:
    source = fb.ParquetSource("trips", "/data/trips.parquet", event_time="at")
    zone = fb.Entity("zone", keys={"zone": int})
    return fb.FeatureView(name, entity=zone, source=source, features=[fb.count("n", window=window)], **about)


def entry(made: fb.FeatureView, project: str = "one", at: int = NOW) -> Entry:
    return Entry(made.name, made.spec.digest, project, at, made.spec)


def opened(url: str):
    return open_catalog(url, Path("/"), lambda text: text)


def test_what_is_published_is_found_by_name_and_digest(url):
    catalog = opened(url)
    old, new = entry(view()), entry(view(window="2h"), at=NOW + 1)
    catalog.publish([old])
    catalog.publish([new, entry(view("other"))])
    assert [(e.name, e.digest, e.current) for e in opened(url).entries()] == [
        ("other", view("other").spec.digest, True), ("traffic", old.digest, False), ("traffic", new.digest, True),
    ]  # fmt: skip
    assert opened(url).entries("traffic")[0] == old
    assert opened(url).entries("nobody") == []


def test_a_definition_applied_again_is_the_current_one_again(url):
    catalog = opened(url)
    for made in (view(), view(window="2h"), view()):
        catalog.publish([entry(made)])
    assert [e.digest for e in catalog.entries() if e.current] == [view().spec.digest]


def test_a_description_replaces_its_own_and_keeps_the_time_of_the_first(url):
    catalog = opened(url)
    catalog.publish([entry(view())])
    catalog.publish([entry(view(owner="ops"), at=NOW + 5)])
    (found,) = catalog.entries()
    assert (found.owner, found.at) == ("ops", NOW)


def test_another_projects_name_is_never_overwritten_and_nothing_else_is_kept(url):
    catalog = opened(url)
    catalog.publish([entry(view())])
    with pytest.raises(ConflictError, match="belongs to project 'one'"):
        catalog.publish([entry(view("fresh"), "two"), entry(view(window="9h"), "two")])
    assert [(e.name, e.project, e.digest) for e in catalog.entries()] == [("traffic", "one", view().spec.digest)]


def test_of_many_projects_that_publish_one_name_at_once_exactly_one_gets_it(url):
    opened(url).publish([entry(view("first"))])
    won, lost = [], []
    ready = threading.Barrier(8)

    def race(project: str) -> None:
        ready.wait()
        try:
            opened(url).publish([entry(view(), project)])
        except ConflictError:
            lost.append(project)
        else:
            won.append(project)

    threads = [threading.Thread(target=race, args=(f"p{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert [e.project for e in opened(url).entries("traffic")] == won


def test_a_changed_definition_is_noticed(tmp_path):
    (tmp_path / "catalog").mkdir()
    catalog = FilesCatalog(str(tmp_path / "catalog"))
    catalog.publish([entry(view())])
    path = tmp_path / "catalog" / "traffic" / f"{view().spec.digest}.json"
    path.write_bytes(path.read_bytes().replace(b"/data/trips", b"/evil/trips"))
    with pytest.raises(IntegrityError, match="changed afterwards"):
        catalog.entries("traffic")


def test_an_object_store_is_a_catalog_too():
    catalog = FilesCatalog("memory://catalog-of-test")
    catalog.publish([entry(view())])
    catalog.publish([entry(view(window="2h"), at=NOW + 1)])
    assert [e.current for e in FilesCatalog("memory://catalog-of-test").entries()] == [False, True]
    with pytest.raises(ConflictError, match="'one'"):
        catalog.publish([entry(view(), "two")])


@pytest.mark.parametrize(
    "url",
    ["/nowhere/at/all", "nosuchscheme://x/y", "postgresql://nobody@127.0.0.1:1/none"],
    ids=["folder", "scheme", "server"],
)
def test_a_catalog_that_is_away_is_one_sentence(url):
    with pytest.raises(Unavailable, match="catalog"):
        opened(url).entries()


@pytest.mark.parametrize("url", ["redis://x/0", "https://example.org/views"])
def test_an_address_of_another_kind_is_refused(url):
    with pytest.raises(ConfigError, match="catalog.url begins with"):
        opened(url)


def test_a_view_published_by_one_project_is_read_by_another(url, tmp_path, capsys):
    giver = project_in(tmp_path / "giver", "giver", url)
    assert run(["apply", "--dry-run", "-p", str(giver)]) == 0
    assert "view traffic would be published" in capsys.readouterr().out
    assert run(["apply", "-p", str(giver)]) == 0
    said = capsys.readouterr()
    assert "view traffic is published" in said.out
    assert "relative to its project" in said.err
    taker = project_in(tmp_path / "taker", "taker", url, READER.format(digest=""))
    with Project.open(taker) as project:
        plan = project.apply()
        assert [c.name for c in plan.changes] == ["traffic"]
        assert plan.sharing.new == ()  # it is published by nobody but its project
        vectors = project.features.online([{"zone": 3}], ["near"])
        assert [s.name for s in vectors.status()[0].values()] == ["PRESENT"]
        assert project.apply().changes == ()
    assert run(["feature", "list", "--catalog", "-p", str(taker)]) == 0
    listed = capsys.readouterr().out
    assert "giver" in listed
    assert "yes" in listed


def test_an_import_stays_what_it_was_until_its_lock_is_deleted(url, tmp_path):
    giver = project_in(tmp_path / "giver", "giver", url)
    taker = project_in(tmp_path / "taker", "taker", url, READER.format(digest=""))
    with Project.open(giver) as project:
        project.apply()
        first = project.applied.view("traffic").spec.digest
    with Project.open(taker) as project:
        project.apply()
    kit.edit(giver, ('window="1h"', 'window="2h"'))
    with Project.open(giver) as project:
        project.apply(force=True)
        second = project.applied.view("traffic").spec.digest
    with Project.open(taker) as project:
        assert project.apply().changes == ()
        assert project.applied.view("traffic").spec.digest == first != second
    (taker / "flyball.catalog.lock").unlink()
    with Project.open(taker) as project:
        assert [c.action for c in project.apply().changes] == ["change"]
        assert project.applied.view("traffic").spec.digest == second
    (taker / "definitions.py").write_text(READER.format(digest=f', digest="{first}"'))
    with Project.open(taker) as project:
        project.apply()
        assert project.applied.view("traffic").spec.digest == first


def test_a_catalog_that_went_away_stops_nothing(tmp_path, capsys):
    url = tmp_path / "catalog"
    url.mkdir()
    giver = project_in(tmp_path / "giver", "giver", str(url))
    taker = project_in(tmp_path / "taker", "taker", str(url), READER.format(digest=""))
    for folder in (giver, taker):
        assert run(["apply", "-p", str(folder)]) == 0
    url.rename(tmp_path / "away")
    capsys.readouterr()
    kit.edit(giver, ('window="1h"', 'window="3h"'))
    assert run(["apply", "-p", str(giver)]) == 0
    assert "published by a later flyball apply" in capsys.readouterr().err
    assert not url.exists()
    clone = kit.copy_of(taker, tmp_path / "clone")  # has no state
    shutil.rmtree(clone / ".flyball")
    with Project.open(clone) as project:
        project.apply()
        assert project.features.online([{"zone": 3}], ["near"]).status()
    (tmp_path / "away").rename(url)
    assert run(["apply", "-p", str(giver)]) == 0
    assert "is published" in capsys.readouterr().out


def test_a_name_of_another_project_stops_the_apply_before_anything_happens(url, tmp_path, capsys):
    assert run(["apply", "-p", str(project_in(tmp_path / "one", "one", url))]) == 0
    other = project_in(tmp_path / "two", "two", url)
    assert run(["apply", "--dry-run", "-p", str(other)]) == 0
    assert "REFUSED: view 'traffic' belongs to project 'one'" in capsys.readouterr().out
    assert run(["apply", "-p", str(other)]) == 3
    assert "rename yours" in capsys.readouterr().err
    with Project.open(other) as project:
        assert project.database.deployments.applied() is None


def test_the_first_import_needs_the_catalog_and_says_so(tmp_path):
    taker = project_in(tmp_path / "taker", "taker", str(tmp_path / "missing"), READER.format(digest=""))
    with Project.open(taker) as project, pytest.raises(Unavailable, match=r"does not have it yet.*mounted"):
        project.apply()
    (tmp_path / "missing").mkdir()
    FilesCatalog(str(tmp_path / "missing")).publish([entry(view("traffc"))])
    with Project.open(taker) as project, pytest.raises(UnknownName, match="has no view 'traffic'"):
        project.apply()


def test_an_import_without_a_catalog_or_a_project_says_what_to_do(tmp_path):
    kit.write_project(tmp_path / "p", definitions=READER.format(digest=""))
    with Project.open(tmp_path / "p") as project, pytest.raises(ConfigError, match=r"\[catalog\]"):
        project.apply()
    with pytest.raises(DefinitionError, match="flyball apply"):
        fb.imported("traffic")


def test_a_lock_that_was_changed_is_refused(tmp_path):
    (tmp_path / "catalog").mkdir()
    url = str(tmp_path / "catalog")
    giver = project_in(tmp_path / "giver", "giver", url)
    taker = project_in(tmp_path / "taker", "taker", url, READER.format(digest=""))
    for folder in (giver, taker):
        assert run(["apply", "-p", str(folder)]) == 0
    lock = taker / "flyball.catalog.lock"
    lock.write_text(lock.read_text().replace("data/*.parquet", "evil/*.parquet"))
    with Project.open(taker) as project, pytest.raises(IntegrityError, match="changed afterwards"):
        project.apply()


def test_a_project_without_a_name_of_its_own_shares_nothing(tmp_path):
    folder = project_in(tmp_path / "p", "project", str(tmp_path / "catalog"))
    with Project.open(folder) as project, pytest.raises(ConfigError, match="its own"):
        project.apply()


def test_views_with_python_or_frames_are_shown_but_not_imported():
    def double(n):
        return 2 * n

    source = fb.ParquetSource("trips", "/data/trips.parquet", event_time="at")
    zone = fb.Entity("zone", keys={"zone": int})
    coded = fb.FeatureView(
        "coded", entity=zone, source=source,
        features=[fb.Feature("n", int), fb.computed("twice", fb.python(double, of={"n": int}))],
    )  # fmt: skip
    assert "runs Python code" in obstacle(coded.spec)
    with pytest.raises(DefinitionError, match="cannot be imported: it runs Python code"):
        ImportedView(entry(coded))
    framed = replace(view().spec, source=replace(view().spec.source, kind="frame", path="0" * 16))
    with pytest.raises(DefinitionError, match="DataFrame"):
        ImportedView(Entry("traffic", framed.digest, "one", NOW, framed))


def test_an_imported_view_is_used_like_ones_own():
    found = ImportedView(entry(view()))
    assert found["n"].names == found.names == ("n",)
    assert found.spec == view().spec
    assert found.entity.spec == view().entity.spec
    again = fb.FeatureView("mine", entity=found.entity, source=found.source, features=[fb.count("m", window="1d")])
    assert again.spec.source == found.spec.source
