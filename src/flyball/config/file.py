"""flyball.toml as text and tree: where it lies, on which line each key stands, what its overlays say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flyball.config.keys import FILE, hint, split_key
from flyball.errors import ConfigError
from flyball.settings import Settings

__all__ = ["find_file", "flatten", "lines_of", "origins_of", "overlay_of", "parse", "read_text"]

_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\-\"' ]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-\"']+(?:\s*\.\s*[A-Za-z0-9_\-\"']+)*)\s*=")


def find_file(path: Path) -> Path:
    """Return the file of a path or folder, searching the parents too; raises ConfigError with every place searched."""
    start = (path if path.suffix == ".toml" else path / FILE).absolute()
    if start.is_file():
        return start
    searched = (
        [start]
        if path.suffix == ".toml" and path.name != FILE
        else [folder / start.name for folder in (start.parent, *start.parent.parents)]
    )
    for candidate in searched:
        if candidate.is_file():
            return candidate
    places = ", then ".join(str(p) for p in searched)
    raise ConfigError(
        f"there is no {start.name}; searched {places}; run flyball init to make a project, or give its path"
    )


def read_text(file: Path) -> str:
    """Return the file's text; raises ConfigError."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; make it a UTF-8 text file that you may read") from None


def parse(text: str, file: Path) -> dict[str, Any]:
    """Return the TOML tree; raises ConfigError that names the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        where = re.search(r"line (\d+)", said)
        line = where[1] if where else str(text.count("\n") + 1)
        problem = said.partition(" (at ")[0].rstrip(".")
        problem = problem[:1].lower() + problem[1:]
        raise ConfigError(f"{file} line {line} is not valid TOML: {problem}; correct that line") from None


def flatten(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return {"server.port": 8080, ...}, refusing names nobody knows."""
    known = [f.name for f in fields(Settings)]
    flat: dict[str, Any] = {}
    for section, body in tree.items():
        if section not in known:
            raise ConfigError(f"{where} has an unknown section [{section}]; {hint(section, [*known, 'env'])}")
        if not isinstance(body, Mapping):
            raise ConfigError(f"{where}: {section} is a section; write [{section}] and its keys below it")
        for name, value in body.items():
            split_key(f"{section}.{name}", where)
            flat[f"{section}.{name}"] = value
    return flat


def overlay_of(tree: Mapping[str, Any], name: str | None, file: Path) -> dict[str, Any]:
    """Return what `[env.NAME]` says, flat; every other environment's table is checked too.

    Raises:
        ConfigError: there is no such environment, or a table names what nobody knows.
    """
    tables = tree.get("env", {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{file.name}: env is a table of environments; write [env.production.server] and its keys")
    flat = {}
    for environment, body in tables.items():
        if not isinstance(body, Mapping):
            raise ConfigError(f"{file.name}: env.{environment} is no table; write [env.{environment}.server]")
        flat[environment] = flatten(body, f"{file.name} [env.{environment}]")
    if name is None:
        return {}
    if name not in flat:
        raise ConfigError(f"{file} has no environment [env.{name}]; {hint(name, sorted(flat))}")
    return flat[name]


def origins_of(tree: Mapping[str, Any], lines: Mapping[str, int], file: Path) -> dict[str, str]:
    """Return "flyball.toml line 7" of each value outside of `[env]`, by key."""
    origins = {}
    for section, body in tree.items():
        if section == "env" or not isinstance(body, Mapping):
            continue
        for name in body:
            line = lines.get(f"{section}.{name}") or lines.get(section)
            origins[f"{section}.{name}"] = f"{file.name} line {line}" if line else file.name
    return origins


def lines_of(text: str) -> dict[str, int]:
    """Return the line of each key, found by reading headers and assignments; multi-line values hold no keys of ours."""
    found: dict[str, int] = {}
    header = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            header = _bare(match[1])
        elif match := _KEY.match(line):
            found.setdefault(f"{header}.{_bare(match[1])}" if header else _bare(match[1]), number)
    return found


def _bare(key: str) -> str:
    return re.sub(r"[\s\"']", "", key)
