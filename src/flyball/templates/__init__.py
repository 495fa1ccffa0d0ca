"""Project templates: what `flyball init` writes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from flyball.errors import InputError, UnknownName

__all__ = ["TEMPLATES", "write_template"]

TEMPLATES = ("eta",)
_FILES = ("flyball.toml", "definitions.py")


def write_template(name: str, folder: Path, *, data: bool = True) -> list[Path]:
    """Write a template's files into a folder and return them; `data` adds its sample data.

    Raises:
        UnknownName: no such template.
        InputError: a file that would be written exists already; nothing is written.
    """
    if name not in TEMPLATES:
        raise UnknownName.of("template", name, TEMPLATES)
    targets = [folder / file for file in _FILES]
    for target in targets:
        if target.exists():
            raise InputError(f"{target} exists already; choose another folder, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text(".flyball/\n__pycache__/\n")
    for target in targets:
        target.write_text((resources.files("flyball.templates") / name / target.name).read_text())
    return [*targets, *([_sample(folder)] if data else [])]


def _sample(folder: Path) -> Path:
    """Copy the trips up to the template's clock."""
    from datetime import date

    from flyball.demo.trips import write_history

    target = folder / "data" / "trips" / "history.parquet"
    write_history(target, date(2020, 3, 11))
    return target
