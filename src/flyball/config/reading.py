"""Layers become one `Config`: defaults, the file, its overlay, environment variables; each value keeps its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyball.config.file import find_file, flatten, lines_of, origins_of, overlay_of, parse, read_text
from flyball.config.keys import schema, split_key
from flyball.config.values import convert, from_text, literal
from flyball.errors import ConfigError
from flyball.layout import Layout
from flyball.settings import Settings

__all__ = ["Config", "load"]

_PREFIX = "FLYBALL_"


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
        section, name = split_key(key, None)
        return getattr(getattr(self.settings, section), name)

    def origin(self, key: str) -> str:
        """Return where a value came from: a line of the file, an overlay, an environment variable, the default."""
        split_key(key, None)
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
                raise literal("a secret")
        if not value:
            raise ConfigError(missing)
        return value

    def secret_if_set(self, reference: str) -> str | None:
        """Return what `secret` does, None for an empty reference."""
        return self.secret(reference) if reference else None


def load(path: Path | str, *, environment: str | None = None) -> Config:
    """Read a project's flyball.toml.

    Args:
        path: The file, or the project's folder; without the file there, its parents are searched too.
        environment: Which `[env.NAME]` table overlays the file; None means the variable FLYBALL_ENV, or none.

    Raises:
        ConfigError: the file is missing or malformed, or a setting is unknown or wrong.
    """
    file = find_file(Path(path))
    name = environment or os.environ.get("FLYBALL_ENV") or None
    text = read_text(file)
    tree = parse(text, file)
    origins = origins_of(tree, lines_of(text), file)
    values = flatten({k: v for k, v in tree.items() if k != "env"}, file.name)
    over = overlay_of(tree, name, file)
    values |= over
    origins |= dict.fromkeys(over, f"{file.name} [env.{name}]")
    outside = _variables(os.environ)
    values |= {key: value for key, (_, value) in outside.items()}
    origins |= {key: f"{variable} environment variable" for key, (variable, _) in outside.items()}
    settings = convert(values, origins)
    return Config(settings, file.parent, file, name, MappingProxyType(origins))


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Return {key: (variable, value)} of FLYBALL_SECTION__KEY variables."""
    found: dict[str, tuple[str, Any]] = {}
    for variable, text in sorted(environ.items()):
        section, double, name = variable.removeprefix(_PREFIX).lower().partition("__")
        if not variable.startswith(_PREFIX) or not double:
            continue
        key = f"{section}.{name}"
        split_key(key, f"environment variable {variable}")
        found[key] = variable, from_text(key, text)
    return found


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
