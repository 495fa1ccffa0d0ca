"""What no file of this repository may hold: the address of a package registry, or a path of somebody's machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".py", ".toml", ".md", ".txt", ".cfg", ".ini", ".html", ".css", ".js", ".json", ".yaml", ".yml", ".mako", ".sh"}
FORBIDDEN = (
    re.compile(r"--(extra-)?index-url|--find-links|--trusted-host"),
    re.compile(r"[p]ypi(\.python)?\.org|[p]ythonhosted\.org|registry\.[n]pmjs|https?://[^\s\"')]*/simple\b"),
    re.compile(r"(?<![\w.])/(home|Users)/\w+/"),
    re.compile(r"(?<![\w./-])/(work|root)/\w+"),
)  # this file is left out below


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.splitlines()]


def test_type_checkers_may_read_the_package() -> None:
    assert (ROOT / "src/flyball/py.typed").exists()


def violations(text: str) -> list[str]:
    return [match[0] for pattern in FORBIDDEN for match in pattern.finditer(text)]


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    found = {}
    for path in tracked():
        if path == Path(__file__) or not path.is_file():
            continue
        if path.suffix in TEXT or path.name in {"Makefile", "run"}:
            names = violations(path.read_text(encoding="utf-8"))
            if names:
                found[str(path.relative_to(ROOT))] = names
    assert found == {}


PLANTED = [
    "--index-url x",
    "https://host/simple/",
    f"open('{'/'.join(['', 'home', 'me', 'x'])}')",
    "/".join(['"', "work", "x"]),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_address_is_caught(planted: str) -> None:
    assert violations(planted)


def test_each_dependency_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    end = lines.index("[project.scripts]")
    entries = [line for line in lines[start + 1 : end] if re.match(r'\s+"|\w+ = \["', line)]
    assert [line for line in entries if "#" not in line] == []


def test_constraints_hold_pins_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+( ; .+)?", line)] == []


def test_each_test_file_has_a_name_of_its_own() -> None:
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({n for n in names if names.count(n) > 1}) == []
