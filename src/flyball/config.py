"""Read flyball.toml into frozen settings, and know of every value where it came from.

Later wins: defaults, then the file, then its `[env.NAME]` table, then FLYBALL_SECTION__KEY environment variables.
The surprise: secrets are never in the file. A setting holds a reference, env:NAME or file:PATH, and `Config.secret`
follows it; a literal where a reference belongs is an error that does not repeat it.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

import msgspec

from flyball import units
from flyball.errors import ConfigError, UnitError, nearest
from flyball.layout import Layout
from flyball.settings import Settings

__all__ = ["FILE", "Config", "Setting", "load", "schema", "set_value"]

FILE = "flyball.toml"
_PREFIX = "FLYBALL_"
_SIZES = frozenset({"server.max_body", "server.host_memory", "online.map_size", "training.memory"})
_SECRETS = frozenset({"server.key", "control.key"})
_ADDRESSES = frozenset({"control.database", "tracking.uri"})  # may hold a password, then a reference is needed
_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\-\"' ]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-\"']+(?:\s*\.\s*[A-Za-z0-9_\-\"']+)*)\s*=")
_DOCS = {
    "project.name": "what the project is called",
    "project.definitions": "the Python file that says what exists",
    "project.state": "the folder flyball writes to",
    "server.host": "address the gateway listens on",
    "server.port": "port the gateway listens on",
    "server.workers": "worker processes on that port",
    "server.deadline": "time for a whole request",
    "server.max_body": "largest request body",
    "server.key": "reference (env:NAME or file:PATH) to the key callers must send; empty for none",
    "server.host_memory": "memory limit of a host process, 0 for none",
    "control.host": "address of the control API and pages",
    "control.port": "port of the control API and pages",
    "control.database": "sqlite:///PATH or postgresql://USER@HOST/NAME; empty for SQLite in the state folder",
    "control.key": "reference (env:NAME or file:PATH) to the key of the control API; empty for none",
    "control.interval": "time between two passes",
    "control.lease": "how long a silent control process keeps its lease",
    "online.store": "where newest values are kept",
    "online.map_size": "size of the store's memory map to begin with; it grows",
    "log.mode": "when a prediction's log record is written: async, durable or sync",
    "log.full": "what happens when the disk is full: fail_open (count drops) or fail_closed (503)",
    "tracking.uri": "MLflow's address; empty for SQLite in the state folder",
    "tracking.enabled": "whether runs are tracked in MLflow",
    "training.threads": "threads of a stage",
    "training.timeout": "longest time of a stage",
    "training.memory": "memory limit of a stage",
    "clock.domain": "the machine's time, or a simulated one that POST /v1/clock steps",
    "clock.start": "where a simulated clock begins, ISO 8601 in UTC",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key flyball.toml may hold."""

    key: str
    type: str
    default: str
    doc: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one project and where each came from; `root` is the folder of flyball.toml."""

    settings: Settings
    root: Path
    path: Path | None = None
    environment: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where this project keeps what."""
        return Layout(self.root, self.root / self.settings.project.state)

    @property
    def database_url(self) -> str:
        """The control database's address; a relative SQLite path counts from the project's root."""
        url = self.settings.control.database
        if url.startswith(("env:", "file:")):
            url = self.secret(url)
        if not url:
            return f"sqlite:///{self.layout.state / 'control.db'}"
        scheme, _, rest = url.partition(":///")
        return f"sqlite:///{self.root / rest}" if scheme == "sqlite" and rest else url

    def get(self, key: str) -> Any:
        """Return one value, such as `get("server.port")`; raises ConfigError with near names."""
        section, name = _split(key, None)
        return getattr(getattr(self.settings, section), name)

    def origin(self, key: str) -> str:
        """Return where a value came from: a line of the file, an overlay, an environment variable, the default."""
        _split(key, None)
        return self.origins.get(key, "default")

    def explain(self) -> list[tuple[str, Any, str]]:
        """Return (key, value, origin) of every setting in order."""
        return [(s.key, self.get(s.key), self.origin(s.key)) for s in schema()]

    def secret(self, reference: str) -> str:
        """Return what a reference, env:NAME or file:PATH (relative to the project's root), stands for.

        Raises:
            ConfigError: the variable or file is missing, or this is no reference (its text is not repeated).
        """
        kind, colon, name = reference.partition(":")
        match kind if colon and name else "":
            case "env":
                value = os.environ.get(name, "")
                missing = f"environment variable {name} is not set or empty; export it before starting flyball"
            case "file":
                path = self.root / Path(name).expanduser()
                value = _read_secret(path)
                missing = f"secret file {path} is missing or empty; create it, readable only by you"
            case _:
                raise _literal("a secret")
        if not value:
            raise ConfigError(missing)
        return value


def load(path: Path | str, *, environment: str | None = None) -> Config:
    """Read a project's flyball.toml.

    Args:
        path: The file, or the project's folder; without the file there, its parents are searched too.
        environment: Which `[env.NAME]` table overlays the file; None means the variable FLYBALL_ENV, or none.

    Raises:
        ConfigError: the file is missing or malformed, or a setting is unknown or wrong.
    """
    file = _find(Path(path))
    name = environment or os.environ.get("FLYBALL_ENV") or None
    text = _read(file)
    tree = _parse(text, file)
    origins = _file_origins(tree, _lines(text), file)
    values = _flatten({k: v for k, v in tree.items() if k != "env"}, file.name)
    overlay = _overlay(tree, name, file)
    values |= overlay
    origins |= dict.fromkeys(overlay, f"{file.name} [env.{name}]")
    outside = _variables(os.environ)
    values |= {key: value for key, (_, value) in outside.items()}
    origins |= {key: f"{variable} environment variable" for key, (variable, _) in outside.items()}
    settings = _convert(values, origins)
    return Config(settings, file.parent, file, name, MappingProxyType(origins))


def set_value(path: Path | str, key: str, text: str) -> None:
    """Write one value into flyball.toml; comments and order stay, and nothing is written unless all of it is valid.

    Args:
        path: flyball.toml or its folder.
        key: "server.port", or "env.production.server.port" for an overlay.
        text: The value as one would type it: 9000, true, 30s, production.
    """
    import tomlkit

    file = _find(Path(path))
    *overlay, section, name = key.split(".") if key.count(".") in (1, 3) else ["", "", ""]
    if (overlay and (overlay[0] != "env" or not overlay[1])) or not name:
        raise ConfigError(f"{key!r} is no setting; write section.key, such as server.port, or env.NAME.section.key")
    plain = f"{section}.{name}"
    _split(plain, None)
    before = _read(file)
    _parse(before, file)
    document = tomlkit.parse(before)
    table: Any = document
    for part in (*overlay, section):
        if part not in table:
            table[part] = tomlkit.table(part == "env")
        table = table[part]
    table[name] = _typed(plain, text)
    after = tomlkit.dumps(document)
    _check(after, file, overlay[1] if overlay else None)
    _replace(file, after)


def schema() -> tuple[Setting, ...]:
    """Return every key of flyball.toml with type, default and meaning, in order."""
    found = []
    for section in fields(Settings):
        kind = _section_type(section.name)
        hints = _hints(section.name)
        for item in fields(kind):
            key = f"{section.name}.{item.name}"
            choices = tuple(str(c) for c in getattr(hints[item.name], "__args__", ()))
            found.append(
                Setting(key, _type_name(key, hints[item.name]), _show(item.default), _DOCS.get(key, ""), choices)
            )
    return tuple(found)


def _find(path: Path) -> Path:
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


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; make it a UTF-8 text file that you may read") from None


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        where = re.search(r"line (\d+)", said)
        line = where[1] if where else str(text.count("\n") + 1)
        problem = said.partition(" (at ")[0].rstrip(".")
        problem = problem[:1].lower() + problem[1:]
        raise ConfigError(f"{file} line {line} is not valid TOML: {problem}; correct that line") from None


def _flatten(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return {"server.port": 8080, ...}, refusing names nobody knows."""
    known = [f.name for f in fields(Settings)]
    flat: dict[str, Any] = {}
    for section, body in tree.items():
        if section not in known:
            raise ConfigError(f"{where} has an unknown section [{section}]; {_hint(section, [*known, 'env'])}")
        if not isinstance(body, Mapping):
            raise ConfigError(f"{where}: {section} is a section; write [{section}] and its keys below it")
        for name, value in body.items():
            _split(f"{section}.{name}", where)
            flat[f"{section}.{name}"] = value
    return flat


def _overlay(tree: Mapping[str, Any], name: str | None, file: Path) -> dict[str, Any]:
    tables = tree.get("env", {})
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{file.name}: env is a table of environments; write [env.production.server] and its keys")
    flat = {}
    for environment, body in tables.items():
        if not isinstance(body, Mapping):
            raise ConfigError(f"{file.name}: env.{environment} is no table; write [env.{environment}.server]")
        flat[environment] = _flatten(body, f"{file.name} [env.{environment}]")
    if name is None:
        return {}
    if name not in flat:
        raise ConfigError(f"{file} has no environment [env.{name}]; {_hint(name, sorted(flat))}")
    return flat[name]


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Return {key: (variable, value)} of FLYBALL_SECTION__KEY variables."""
    found: dict[str, tuple[str, Any]] = {}
    for variable, text in sorted(environ.items()):
        section, double, name = variable.removeprefix(_PREFIX).lower().partition("__")
        if not variable.startswith(_PREFIX) or not double:
            continue
        key = f"{section}.{name}"
        _split(key, f"environment variable {variable}")
        found[key] = variable, _typed(key, text)
    return found


def _convert(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    """Parse units, check types strictly and freeze."""
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        hint = _hints(section)[name]
        origin = origins.get(key, FILE)
        tree.setdefault(section, {})[name] = _value(key, value, hint, origin)
    return msgspec.convert(tree, Settings, strict=True)


def _value(key: str, value: Any, hint: Any, origin: str) -> Any:
    if key in _SECRETS and value and not (isinstance(value, str) and re.match(r"(env|file):.", value)):
        raise _literal(f"{key} ({origin})")
    if key in _ADDRESSES and isinstance(value, str) and re.search(r"://[^/@]*:[^/@]+@", value):
        raise _literal(f"{key} ({origin})")
    try:
        if hint is timedelta:
            parsed: Any = units.duration(value if isinstance(value, str) else str(value))
        elif key in _SIZES and isinstance(value, str):
            parsed = units.size(value)
        else:
            parsed = msgspec.convert(value, hint, strict=True)
    except UnitError as error:
        raise ConfigError(f"{key} ({origin}): {error}") from None
    except msgspec.ValidationError:
        raise ConfigError(f"{key} ({origin}) is {value!r}; {_expected(key, hint)}") from None
    problem = _out_of_range(key, parsed)
    if problem:
        raise ConfigError(f"{key} ({origin}) is {value!r}; {problem}")
    return parsed


def _out_of_range(key: str, value: Any) -> str:
    if key.endswith(".port") and not 0 <= value <= 65535:
        return "a port lies between 0 (any free one) and 65535"
    if key in {"server.workers", "training.threads"} and value < 1:
        return "at least 1 is needed"
    if isinstance(value, timedelta) and value <= timedelta(0):
        return "a time above zero is needed"
    if key in _SIZES and value < (0 if key == "server.host_memory" else 1):
        return "a larger size is needed"
    return ""


def _expected(key: str, hint: Any) -> str:
    choices = getattr(hint, "__args__", ())
    if choices:
        return "write one of " + ", ".join(f'"{c}"' for c in choices)
    words = {str: 'a text in quotes, such as "name"', int: "a whole number", bool: "true or false"}
    size = ' or a size such as "64MiB"' if key in _SIZES else ""
    return f"write {words.get(hint, 'a value of another type')}{size}"


def _typed(key: str, text: str) -> Any:
    """Return typed text as TOML would hold it: true and whole numbers only where they are wanted."""
    section, name = key.split(".")
    hint = _hints(section)[name]
    if hint is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if hint is int and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return text


def _split(key: str, where: str | None) -> tuple[str, str]:
    """Return (section, name) of a known key, else raise ConfigError that names the nearest one."""
    section, _, name = key.partition(".")
    known = _keys()
    if key not in known:
        said = f"{where} has an unknown setting {key}" if where else f"there is no setting {key}"
        raise ConfigError(f"{said}; {_hint(key, sorted(known), section)}")
    return section, name


def _hint(name: str, known: list[str], section: str = "") -> str:
    close = nearest(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    same = [k for k in known if section and k.startswith(f"{section}.")]
    return f"known: {', '.join(same or known) or 'none'}"


@cache
def _keys() -> frozenset[str]:
    return frozenset(f"{f.name}.{item.name}" for f in fields(Settings) for item in fields(_section_type(f.name)))


@cache
def _section_type(section: str) -> type[Any]:
    kind: type[Any] = get_type_hints(Settings)[section]
    return kind


@cache
def _hints(section: str) -> dict[str, Any]:
    return get_type_hints(_section_type(section))


def _lines(text: str) -> dict[str, int]:
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


def _file_origins(tree: Mapping[str, Any], lines: Mapping[str, int], file: Path) -> dict[str, str]:
    origins = {}
    for section, body in tree.items():
        if section == "env" or not isinstance(body, Mapping):
            continue
        for name in body:
            line = lines.get(f"{section}.{name}") or lines.get(section)
            origins[f"{section}.{name}"] = f"{file.name} line {line}" if line else file.name
    return origins


def _check(text: str, file: Path, environment: str | None) -> None:
    """Raise ConfigError unless this text, with and without the overlay, is a valid flyball.toml."""
    tree = _parse(text, file)
    base = _flatten({k: v for k, v in tree.items() if k != "env"}, file.name)
    _convert(base, dict.fromkeys(base, file.name))
    both = base | _overlay(tree, environment, file)
    _convert(both, dict.fromkeys(both, file.name))


def _replace(file: Path, text: str) -> None:
    """Write beside the file, then take its place at once; its mode stays."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(file.stat().st_mode & 0o777)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _literal(what: str) -> ConfigError:
    return ConfigError(
        f"{what} holds a literal secret where a reference belongs; write env:NAME or file:PATH and keep it there"
    )


def _type_name(key: str, hint: Any) -> str:
    if key in _SECRETS:
        return "reference"
    if key in _SIZES:
        return "size"
    return {str: "text", int: "number", bool: "true or false", timedelta: "duration"}.get(hint, "choice")


def _show(default: Any) -> str:
    if default is MISSING:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default.total_seconds():g}s" if isinstance(default, timedelta) else str(default)
