from __future__ import annotations

import stat
from pathlib import Path

from flyball.layout import Layout


def test_everything_flyball_writes_is_below_the_state_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path, tmp_path / ".flyball")
    names = [n for n, v in vars(Layout).items() if isinstance(v, property)]
    paths = [getattr(layout, name) for name in names]
    assert all(layout.state in path.parents for path in paths)
    assert len(set(paths)) == len(paths)


def test_a_socket_path_is_short_private_and_of_one_project(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    first, second = Layout(deep, deep / "a").socket("control"), Layout(deep, deep / "b").socket("control")
    assert first != second
    assert first == Layout(deep, deep / "a").socket("control")
    assert len(str(first)) < 100
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    for path in (first, second):
        path.parent.rmdir()
