from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from flyball import config
from flyball.errors import ConfigError
from flyball.settings import Settings

TOML = """\
# our taxi project
[project]
name = "taxi"

[server]
port = 9000            # behind the proxy
deadline = "250ms"
max_body = "2MB"
key = "env:GATE_KEY"

[env.production.server]
port = 80
workers = 4

[env.production.control]
database = "postgresql://flyball@db/flyball"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flyball.toml"
    path.write_text(TOML)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def message(file: Path, text: str, environment: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(file, text), environment=environment)
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.exit_code == 2
    return said


def test_an_empty_file_means_the_defaults(file: Path) -> None:
    assert config.load(write(file, "")).settings == Settings()


def test_units_are_parsed_at_the_border(file: Path) -> None:
    server = config.load(file).settings.server
    assert (server.port, server.deadline, server.max_body) == (9000, timedelta(milliseconds=250), 2_000_000)


def test_the_folder_is_as_good_as_the_file(file: Path) -> None:
    assert config.load(file.parent).settings == config.load(file).settings
    assert config.load(str(file)).root == file.parent


def test_an_environment_overlays_the_file(file: Path) -> None:
    loaded = config.load(file, environment="production")
    assert (loaded.settings.server.port, loaded.settings.server.workers) == (80, 4)
    assert loaded.settings.server.deadline == timedelta(milliseconds=250)
    assert loaded.environment == "production"


def test_the_environment_may_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYBALL_ENV", "production")
    assert config.load(file).settings.server.port == 80


def test_every_value_knows_where_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYBALL_SERVER__WORKERS", "2")
    loaded = config.load(file, environment="production")
    assert loaded.settings.server.workers == 2
    assert loaded.origin("server.workers") == "FLYBALL_SERVER__WORKERS environment variable"
    assert loaded.origin("server.port") == "flyball.toml [env.production]"
    assert loaded.origin("server.deadline") == "flyball.toml line 7"
    assert loaded.origin("log.mode") == "default"
    assert ("project.name", "taxi", "flyball.toml line 3") in loaded.explain()


def test_lines_are_known_for_dotted_and_inline_keys(file: Path) -> None:
    loaded = config.load(write(file, '\nserver.port = 1\nlog = { mode = "sync" }\n'))
    assert (loaded.origin("server.port"), loaded.origin("log.mode")) == ("flyball.toml line 2", "flyball.toml line 3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1", "flyball.toml has an unknown setting server.prot; did you mean server.port"),
        ("[sevrer]\nport = 1", "unknown section [sevrer]; did you mean server"),
        ("[env.x.server]\nprot = 1", "[env.x] has an unknown setting server.prot"),
        ("[server]\nport = '80'", "server.port (flyball.toml line 2) is '80'; write a whole number"),
        ("[server]\nport = 99999", "a port lies between 0 (any free one) and 65535"),
        ("[server]\nport = true", "is True; write a whole number"),
        ("[server]\nworkers = 0", "at least 1 is needed"),
        ("[server]\ndeadline = 'soon'", "server.deadline (flyball.toml line 2): 'soon' is no duration"),
        ("[server]\ndeadline = 5", "'5' is no duration"),
        ("[server]\nmax_body = '8 apples'", "'8 apples' is no size"),
        ("[log]\nmode = 'fast'", 'is \'fast\'; write one of "async", "durable", "sync"'),
        ("[tracking]\nenabled = 'yes'", "write true or false"),
        ("server = 3", "server is a section; write [server]"),
        ("env = 3", "env is a table of environments"),
    ],
)
def test_a_wrong_setting_is_one_clear_sentence(file: Path, text: str, expected: str) -> None:
    assert expected in message(file, text)


def test_malformed_toml_names_the_line(file: Path) -> None:
    assert f"{file} line 2 is not valid TOML" in message(file, "[server]\nport = = 3\n")
    assert "line 1 is not valid TOML" in message(file, "[server")


def test_a_file_that_is_no_text_is_named(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="make it a UTF-8 text file"):
        config.load(file)


def test_an_unknown_environment_names_the_known_ones(file: Path) -> None:
    assert "did you mean production" in message(file, TOML, "producton")
    assert "known: none" in message(file, "", "production")


def test_a_missing_file_lists_every_place_searched_in_order(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    with pytest.raises(ConfigError) as caught:
        config.load(inner / "flyball.toml")
    said = str(caught.value)
    places = [said.index(str(p / "flyball.toml")) for p in (inner, tmp_path / "a", tmp_path)]
    assert places == sorted(places)
    assert "flyball init" in said


def test_a_project_is_found_from_a_folder_inside_it(file: Path) -> None:
    inner = file.parent / "notebooks"
    inner.mkdir()
    assert config.load(inner / "flyball.toml").root == file.parent


def test_an_unknown_variable_is_an_error_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYBALL_SERVER__PROT", "1")
    assert "environment variable FLYBALL_SERVER__PROT" in message(file, TOML)


def test_a_variable_is_typed_like_its_setting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYBALL_TRACKING__ENABLED", "false")
    monkeypatch.setenv("FLYBALL_CONTROL__LEASE", "3s")
    settings = config.load(file).settings
    assert (settings.tracking.enabled, settings.control.lease) == (False, timedelta(seconds=3))


# secrets


def test_a_secret_is_followed_to_a_variable_or_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_KEY", "s3cret")
    (file.parent / "key").write_text("other\n")
    loaded = config.load(file)
    assert loaded.secret(loaded.settings.server.key) == "s3cret"
    assert loaded.secret("file:key") == "other"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("env:NO_SUCH", "variable NO_SUCH is not set"), ("file:nowhere", "nowhere is missing or empty")],
)
def test_a_missing_secret_says_what_to_make(file: Path, reference: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.load(file).secret(reference)


@pytest.mark.parametrize(
    "text", ["[server]\nkey = 'hunter2'", "[control]\ndatabase = 'postgresql://me:hunter2@db/flyball'"]
)
def test_a_literal_secret_is_refused_without_repeating_it(file: Path, text: str) -> None:
    said = message(file, text)
    assert "write env:NAME or file:PATH" in said
    assert "hunter2" not in said
    with pytest.raises(ConfigError) as caught:
        config.load(write(file, "")).secret("hunter2")
    assert "hunter2" not in str(caught.value)


def test_the_database_is_sqlite_in_the_state_folder_unless_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load(file).database_url == f"sqlite:///{file.parent / '.flyball' / 'control.db'}"
    assert config.load(file, environment="production").database_url == "postgresql://flyball@db/flyball"
    monkeypatch.setenv("DB", "postgresql://me:pw@db/x")
    assert config.load(write(file, "[control]\ndatabase = 'env:DB'")).database_url == "postgresql://me:pw@db/x"
    relative = config.load(write(file, "[control]\ndatabase = 'sqlite:///c.db'")).database_url
    assert relative == f"sqlite:///{file.parent / 'c.db'}"


# set_value


def test_setting_a_value_keeps_comments_and_order(file: Path) -> None:
    config.set_value(file, "server.port", "9001")
    assert file.read_text() == TOML.replace("port = 9000            #", "port = 9001            #")


def test_setting_a_value_of_a_new_section_or_environment(file: Path) -> None:
    config.set_value(file, "log.mode", "sync")
    config.set_value(file, "env.staging.server.port", "81")
    assert config.load(file).settings.log.mode == "sync"
    assert config.load(file, environment="staging").settings.server.port == 81
    assert file.read_text().startswith("# our taxi project")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("server.port", "many"),
        ("server.prot", "1"),
        ("log.mode", "fast"),
        ("server", "1"),
        ("a.b.c", "1"),
        ("server.key", "hunter2"),
    ],
)
def test_an_invalid_value_is_not_written(file: Path, key: str, text: str) -> None:
    with pytest.raises(ConfigError):
        config.set_value(file, key, text)
    assert file.read_text() == TOML
    assert os.listdir(file.parent) == ["flyball.toml"]


def test_a_written_file_keeps_its_mode(file: Path) -> None:
    file.chmod(0o640)
    config.set_value(file, "server.port", "9001")
    assert file.stat().st_mode & 0o777 == 0o640


# schema


def test_the_schema_lists_each_key_with_type_default_and_meaning() -> None:
    listed = {s.key: s for s in config.schema()}
    assert all(s.doc and s.type for s in listed.values())
    assert (listed["server.deadline"].type, listed["server.deadline"].default) == ("duration", "1s")
    assert listed["log.mode"].choices == ("async", "durable", "sync")
    assert listed["online.map_size"].type == "size"


def test_getting_an_unknown_setting_names_near_ones(file: Path) -> None:
    loaded = config.load(file)
    assert loaded.get("server.port") == 9000
    with pytest.raises(ConfigError, match=r"did you mean server\.port"):
        loaded.origin("server.prt")


def test_each_setting_is_on_the_reference_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "settings.md").read_text()
    missing = []
    for s in config.schema():
        kind = ", ".join(f"`{c}`" for c in s.choices) or s.type
        row = f"| `{s.key}` | {kind} | {f'`{s.default}`' if s.default else ''} | {s.doc} |"
        if row not in page:
            missing.append(row)
    assert missing == []
