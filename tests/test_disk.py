"""Replacing files: whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flyball.disk import replacing, write_atomically


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:
        draft.write_bytes(b"half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_the_mode_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"1")
    path.chmod(0o600)
    write_atomically(path, b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("durable", "expected"), [(True, ["a", "into"]), (False, [])])
def test_a_durable_write_brings_the_file_and_then_its_name_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, expected: list[str]
) -> None:
    synced: list[str] = []
    path = tmp_path / "into" / "a"

    def fsync(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        synced.append("a" if name.startswith(".a.") and not path.exists() else name)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"x", durable=durable)
    assert synced == expected
