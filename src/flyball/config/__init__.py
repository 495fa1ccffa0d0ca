"""Read flyball.toml into frozen settings, and know of every value where it came from.

Later wins: defaults, then the file, then its `[env.NAME]` table, then FLYBALL_SECTION__KEY environment variables.
The surprise: secrets are never in the file. A setting holds a reference, env:NAME or file:PATH, and `Config.secret`
follows it; a literal where a reference belongs is an error that does not repeat it.
"""

from __future__ import annotations

from flyball.config.keys import FILE, Setting, schema
from flyball.config.reading import Config, load
from flyball.config.writing import set_value

__all__ = ["FILE", "Config", "Setting", "load", "schema", "set_value"]
