"""Each setting, CLI verb and public name is documented, and nothing that is not there."""

from __future__ import annotations

import importlib.util
import re

import pytest
from docs_kit import DOCS, ROOT

import flyball as fb
from flyball import config
from flyball.serving.http.handlers import ROUTES

REFERENCE = DOCS / "reference"


def page(name):
    return (REFERENCE / name).read_text(encoding="utf-8")


def render_cli():
    spec = importlib.util.spec_from_file_location("render_cli", DOCS / "render_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_is_what_the_commands_say():
    assert page("cli.md") == render_cli().render(), "run: python docs/render_cli.py"


def test_every_verb_and_option_is_on_the_page():
    text = page("cli.md")
    missing = []
    for path, command in render_cli().verbs():
        wanted = [f"flyball {' '.join(path)}", *(f"{o.opts[0]}" for o in render_cli().options(command))]
        missing += [w for w in wanted if w not in text]
    assert missing == []


def test_every_setting_is_on_the_page():
    text = page("settings.md")
    keys = re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)
    assert keys == [s.key for s in config.schema()]
    assert [s.key for s in config.schema() if s.doc not in text] == []
    assert "{include} settings.md" in page("configuration.md")


@pytest.mark.parametrize("name", fb.__all__)
def test_every_public_name_is_on_the_page(name):
    assert re.search(rf"`(?:[^`]* )?fb\.{re.escape(name)}\b", page("python.md"))


def test_the_page_names_nothing_that_is_not_public():
    named = set(re.findall(r"`fb\.(\w+)", page("python.md")))
    assert named - set(fb.__all__) == set()


@pytest.mark.parametrize("namespace", ["gate", "guard", "monitor", "on", "strategy"])
def test_every_name_of_a_namespace_is_on_the_page(namespace):
    members = [m for m in vars(getattr(fb, namespace)) if not m.startswith("_")]
    text = page("python.md")
    assert [m for m in members if f"`fb.{namespace}.{m}(" not in text] == []


def test_every_name_of_the_experiments_library_is_on_the_page():
    rows = [row for row in page("python.md").splitlines() if row.startswith("| `fb.experiments")]
    named = {name for row in rows for code in re.findall(r"`([^`]+)`", row) for name in re.findall(r"\w+", code)}
    assert sorted(set(fb.experiments.__all__) - named) == []


def test_every_path_of_the_gateway_is_on_the_page():
    text = page("http.md")
    paths = set(re.findall(r'^ +\(?"(/[a-z0-9_/]+)"', (ROOT / "src/flyball/api/app.py").read_text(), re.MULTILINE))
    paths |= {re.sub(r"\{(\w+)\}", lambda name: name[1].upper().replace("SOURCE", "NAME"), r.path) for r in ROUTES}
    assert len(paths) > 10
    assert sorted(p for p in paths if p not in text) == []


def test_the_glossary_defines_each_term_once():
    terms = re.findall(r"^\| ([^|]+) \|", page("glossary.md"), re.MULTILINE)[2:]
    assert len(terms) > 60
    assert len(terms) == len(set(terms))
