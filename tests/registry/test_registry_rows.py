"""Arrays of artifacts are read by many threads at once, and objects are never unpickled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flyball.registry.rows import read_rows


def test_many_threads_read_at_once(tmp_path):
    wanted = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "rows.npy", wanted)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: read_rows(tmp_path / "rows.npy").sum(), range(2000)))
    assert set(found) == {wanted.sum()}


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_rows(tmp_path / "objects.npy")
