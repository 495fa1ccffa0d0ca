"""Where the project's Python functions are found: which code snapshot declares a reference, and importing it.

`code.json` in the state folder says for each reference the digest of the snapshot that declared it. It is written when
code is snapshot, and only grows: a version or view of the past keeps its functions. The surprise: nothing is imported
before something asks for a function that this process does not know.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from pathlib import Path

import msgspec

from flyball.disk import write_atomically
from flyball.errors import IntegrityError
from flyball.features import callables
from flyball.features.spec import CodeRef
from flyball.layout import Layout
from flyball.registry.code import load_definitions

__all__ = ["find_in_snapshots", "record_refs"]


class _Entry(msgspec.Struct, frozen=True):
    """A snapshot and the module within it whose import declares the reference."""

    code: str
    module: str


def record_refs(layout: Layout, refs: Iterable[CodeRef], *, code: str, module: str) -> None:
    """Remember that the snapshot `code` declares these references when its file `module` is imported."""
    path = _path(layout)
    wanted = {_key(ref): _Entry(code, module) for ref in refs}
    if not wanted:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _read(path)
        if wanted.keys() <= before.keys():
            return  # the snapshot of old declares the same function
        body = msgspec.json.encode({**wanted, **before}, order="deterministic")
        write_atomically(path, body, durable=True)


def find_in_snapshots(layout: Layout) -> None:
    """Let this process find functions it does not know in the project's code snapshots, whose digests are checked."""

    def find(ref: CodeRef) -> bool:
        entry = _read(_path(layout)).get(_key(ref))
        if entry is None:
            return False
        load_definitions(layout.code / entry.code, entry.module)
        return True

    callables.find_with(str(layout.state), find)


def _key(ref: CodeRef) -> str:
    return f"{ref.name}@{ref.digest}"


def _path(layout: Layout) -> Path:
    return layout.state / "code.json"


def _read(path: Path) -> dict[str, _Entry]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Entry])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"code.json of the state folder is damaged ({error}); delete it, then apply") from error
