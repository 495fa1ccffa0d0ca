"""Values as TOML or a person wrote them become settings: units parsed, types checked strictly, ranges held."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from flyball import units
from flyball.config.keys import ADDRESSES, FILE, SECRETS, SIZES, ZERO, types_of
from flyball.errors import ConfigError, UnitError
from flyball.settings import Settings

__all__ = ["convert", "from_text", "literal"]


def convert(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    """Parse units, check types strictly and freeze."""
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        hint = types_of(section)[name]
        origin = origins.get(key, FILE)
        tree.setdefault(section, {})[name] = _value(key, value, hint, origin)
    return msgspec.convert(tree, Settings, strict=True)


def from_text(key: str, text: str) -> Any:
    """Return typed text as TOML would hold it: true and whole numbers only where they are wanted."""
    section, name = key.split(".")
    hint = types_of(section)[name]
    if hint is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if hint is int and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return text


def literal(what: str) -> ConfigError:
    """Return the error for a secret written out, which its message does not repeat."""
    return ConfigError(
        f"{what} holds a literal secret where a reference belongs; write env:NAME or file:PATH and keep it there"
    )


def _value(key: str, value: Any, hint: Any, origin: str) -> Any:
    if key in SECRETS and value and not (isinstance(value, str) and re.match(r"(env|file):.", value)):
        raise literal(f"{key} ({origin})")
    if key in ADDRESSES and isinstance(value, str) and re.search(r"://[^/@]*:[^/@]+@", value):
        raise literal(f"{key} ({origin})")
    try:
        if hint is timedelta:
            parsed: Any = units.duration(value if isinstance(value, str) else str(value))
        elif key in SIZES and isinstance(value, str):
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
    if key in {"server.workers", "training.threads", "online.failures"} and value < 1:
        return "at least 1 is needed"
    if isinstance(value, timedelta) and value <= timedelta(0) and key not in ZERO:
        return "a time above zero is needed"
    if key in SIZES and value < (0 if key == "server.host_memory" else 1):
        return "a larger size is needed"
    return ""


def _expected(key: str, hint: Any) -> str:
    choices = getattr(hint, "__args__", ())
    if choices:
        return "write one of " + ", ".join(f'"{c}"' for c in choices)
    words = {str: 'a text in quotes, such as "name"', int: "a whole number", bool: "true or false"}
    size = ' or a size such as "64MiB"' if key in SIZES else ""
    return f"write {words.get(hint, 'a value of another type')}{size}"
