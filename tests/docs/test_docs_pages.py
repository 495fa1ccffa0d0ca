"""Python on a page runs; commands on a page exist; every page is reachable and the pages build."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib

import click
import pytest
from docs_kit import DOCS, ROOT, blocks, run_python

from flyball import config
from flyball.cli.app import TREE, LazyGroup

PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
SESSIONS = {DOCS / "tutorial" / "first-loop.md", DOCS / "tutorial" / "features.md"}  # run in test_docs_tutorial.py
WITH_PYTHON = [p for p in PAGES if p not in SESSIONS and blocks(p, "python")]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(blocks(page, "python"), page)


def commands(page):
    """Return the flyball command lines of a page's shell blocks."""
    for block in blocks(page, "shell", "console"):
        for line in block.text.splitlines():
            if match := re.match(r"(?:\$ )?(flyball .*)", line):
                yield shlex.split(match[1].partition(" > ")[0], comments=True)[1:]


@pytest.mark.parametrize("page", [ROOT / "README.md", *(p for p in PAGES if list(commands(p)))], ids=name)
def test_commands_on_the_page_exist(page):
    for words in commands(page):
        given = list(words)
        command: click.Command = LazyGroup("flyball", TREE, "")
        while isinstance(command, LazyGroup):
            verb = given.pop(0)
            found = command.get_command(click.Context(command), verb)
            assert found is not None, f"{name(page)}: there is no verb {verb!r} in: flyball {' '.join(words)}"
            command = found
        command.make_context(" ".join(words), given)  # wrong options or arguments raise


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_toml_on_the_page_is_a_valid_flyball_toml(page, tmp_path, monkeypatch):
    for block in blocks(page, "toml"):
        file = tmp_path / "flyball.toml"
        file.write_text(block.text)
        for environment in (None, *tomllib.loads(block.text).get("env", {})):
            assert config.load(file, environment=environment).root == tmp_path


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{name(page)}: {target}")
    assert broken == []


def test_the_pages_build_without_warnings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
