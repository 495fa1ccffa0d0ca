"""Change one value of flyball.toml: comments and order stay, and a change that is not valid is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyball.config.file import find_file, flatten, overlay_of, parse, read_text
from flyball.config.keys import split_key
from flyball.config.values import convert, from_text
from flyball.disk import write_atomically
from flyball.errors import ConfigError

__all__ = ["set_value"]


def set_value(path: Path | str, key: str, text: str) -> None:
    """Write one value into flyball.toml; comments and order stay, and nothing is written unless all of it is valid.

    Args:
        path: flyball.toml or its folder.
        key: "server.port", or "env.production.server.port" for an overlay.
        text: The value as one would type it: 9000, true, 30s, production.
    """
    import tomlkit

    file = find_file(Path(path))
    *overlay, section, name = key.split(".") if key.count(".") in (1, 3) else ["", "", ""]
    if (overlay and (overlay[0] != "env" or not overlay[1])) or not name:
        raise ConfigError(f"{key!r} is no setting; write section.key, such as server.port, or env.NAME.section.key")
    plain = f"{section}.{name}"
    split_key(plain, None)
    before = read_text(file)
    parse(before, file)
    document = tomlkit.parse(before)
    table: Any = document
    for part in (*overlay, section):
        if part not in table:
            table[part] = tomlkit.table(part == "env")
        table = table[part]
    table[name] = from_text(plain, text)
    after = tomlkit.dumps(document)
    _check(after, file, overlay[1] if overlay else None)
    write_atomically(file, after.encode(), durable=True)


def _check(text: str, file: Path, environment: str | None) -> None:
    """Raise ConfigError unless this text, with and without the overlay, is a valid flyball.toml."""
    tree = parse(text, file)
    base = flatten({k: v for k, v in tree.items() if k != "env"}, file.name)
    convert(base, dict.fromkeys(base, file.name))
    both = base | overlay_of(tree, environment, file)
    convert(both, dict.fromkeys(both, file.name))
