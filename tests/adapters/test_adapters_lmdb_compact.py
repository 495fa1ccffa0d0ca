"""Compacting the LMDB store: nothing deleted is left in its file, and nobody who has it open is disturbed."""

from __future__ import annotations

import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest

from flyball.adapters import lmdb_compact
from flyball.adapters.lmdb import LMDBStore

WORD = b"zebra-subject"
READER = """
import sys
from pathlib import Path
from flyball.adapters.lmdb import LMDBStore
store = LMDBStore(Path(sys.argv[1]), readonly=True)
print("open", flush=True)
sys.stdin.readline()
print(len(store.keys(b"k")), flush=True)
"""


def fill(store: LMDBStore, seed: int = 5) -> dict[bytes, bytes]:
    """Write keys in random order, some of the subject among them, and delete the subject's."""
    random = np.random.default_rng(seed)
    kept = {b"k%06d" % n: random.bytes(int(random.integers(1, 9000 if n % 50 == 0 else 90))) for n in range(3000)}
    mine = {b"k%06d-" % n + WORD: WORD * 3 for n in range(0, 3000, 7)}
    items = [*kept.items(), *mine.items()]
    for part in np.array_split(random.permutation(len(items)), 20):
        store.write(puts=[items[i] for i in part])
    store.write(puts=[(key, None) for key in mine])
    return kept


def content(store: LMDBStore) -> dict[bytes, bytes | None]:
    keys = store.keys(b"")
    return dict(zip(keys, store.get_many(keys), strict=True))


def test_deleted_bytes_are_gone_and_all_else_is_there(tmp_path):
    store = LMDBStore(tmp_path / "online")
    kept = fill(store)
    data = tmp_path / "online" / "data.mdb"
    assert WORD in data.read_bytes()
    assert store.compact()
    assert WORD not in data.read_bytes()
    assert content(store) == kept
    store.write(puts=[(b"new", b"1")])
    store.close()
    again = LMDBStore(tmp_path / "online", readonly=True)
    assert content(again) == kept | {b"new": b"1"}
    again.close()
    assert sorted(p.name for p in (tmp_path / "online").iterdir()) == ["data.mdb", "lock.mdb"]


def test_a_store_that_another_process_reads_is_compacted_when_the_next_opens_it(tmp_path):
    path = tmp_path / "online"
    store = LMDBStore(path)
    kept = fill(store)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "open\n"
    assert not store.compact()
    assert lmdb_compact.is_due(path)
    assert content(store) == kept
    store.write(puts=[(b"k-late", b"1")])
    out, _ = reader.communicate("\n", timeout=30)
    assert int(out) == len(kept) + 1  # it saw the same file to its end
    store.close()
    opened = LMDBStore(path, readonly=True)
    assert not lmdb_compact.is_due(path)
    assert WORD not in (path / "data.mdb").read_bytes()
    assert content(opened) == kept | {b"k-late": b"1"}
    opened.close()


def test_threads_read_and_write_while_it_is_compacted(tmp_path):
    store = LMDBStore(tmp_path / "online")
    kept, failures, ending = fill(store), [], threading.Event()
    keys = list(kept)[:50]

    def read() -> None:
        while not ending.is_set():
            if store.get_many(keys) != [kept[k] for k in keys]:
                failures.append("read")

    def write() -> None:
        n = 0
        while not ending.is_set():
            store.write(puts=[(b"w%06d" % n, b"1")])
            n += 1
        written.append(n)

    written: list[int] = []
    threads = [threading.Thread(target=t) for t in (read, write)]
    for thread in threads:
        thread.start()
    done = [store.compact() for _ in range(5)]
    ending.set()
    for thread in threads:
        thread.join(30)
    assert all(done)
    assert not failures
    assert len(store.keys(b"w")) == written[0]
    store.close()


@pytest.mark.parametrize("error", [OSError("No space left on device"), lmdb.Error("disk")])
def test_a_full_disk_leaves_the_store_as_it_was_and_still_due(tmp_path, monkeypatch, error):
    path = tmp_path / "online"
    store = LMDBStore(path)
    kept = fill(store)

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(lmdb_compact, "_rewrite", full)
        assert not store.compact()
    assert content(store) == kept
    assert lmdb_compact.is_due(path)
    (path / "compacting").mkdir()  # what a killed one leaves
    (path / "compacting" / "data.mdb").write_bytes(b"half")
    store.close()
    store = LMDBStore(path)
    assert not lmdb_compact.is_due(path)
    assert content(store) == kept
    store.close()
