from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flyball.adapters.lmdb import LMDBStore
from flyball.errors import Unavailable
from flyball.features.ports import OnlineStore
from flyball.testing.laws_online import OnlineStoreLaws


class TestLMDB(OnlineStoreLaws):
    start_method = "spawn"

    def make_store(self, folder: Path) -> OnlineStore:
        return LMDBStore(folder, 1_000_000)


def test_the_map_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = LMDBStore(tmp_path / "s", 200_000)
    for i in range(40):
        store.write(puts=[(b"%04d" % (i * 100 + j), b"x" * 300) for j in range(100)])
    assert store.map_size > 1_000_000
    assert len(store.keys(b"")) == 4000


def test_a_reader_in_another_process_follows_a_grown_map(tmp_path: Path) -> None:
    store = LMDBStore(tmp_path / "s", 200_000)
    store.write(puts=[(b"k", b"0")])
    code = (
        "import sys; from pathlib import Path; from flyball.adapters.lmdb import LMDBStore\n"
        "s = LMDBStore(Path(sys.argv[1]), readonly=True)\n"
        "for line in sys.stdin: print(s.get_many([line.strip().encode()])[0].decode()[:5], flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write("k\n")
        child.stdin.flush()
        assert child.stdout.readline() == "0\n"
        store.write(puts=[(b"%04d" % i, b"y" * 3000) for i in range(500)])
        child.stdin.write("0499\n")
        child.stdin.flush()
        assert child.stdout.readline() == "yyyyy\n"
        child.stdin.close()


def test_many_small_commits_beside_readers_do_not_fill_the_map(tmp_path: Path) -> None:
    store, reader = LMDBStore(tmp_path / "s", 400_000), LMDBStore(tmp_path / "s", readonly=True)
    for _ in range(1500):
        store.write(puts=[(b"k", b"z" * 500)])
        reader.get_many([b"k"])
    assert store.map_size == 400_000


def test_a_reader_in_the_same_process_becomes_part_of_a_writable_environment(tmp_path: Path) -> None:
    LMDBStore(tmp_path / "s").close()
    reader = LMDBStore(tmp_path / "s", readonly=True)
    writer = LMDBStore(tmp_path / "s")
    writer.write(puts=[(b"k", b"1")])
    assert reader.get_many([b"k"]) == [b"1"]
    writer.close()
    assert reader.get_many([b"k"]) == [b"1"]
    with pytest.raises(Unavailable, match="reading only"):
        reader.write(puts=[(b"k", b"2")])


def test_a_missing_store_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="flyball apply"):
        LMDBStore(tmp_path / "none", readonly=True)


def test_threads_read_while_the_map_grows(tmp_path: Path) -> None:
    store = LMDBStore(tmp_path / "s", 200_000)
    store.write(puts=[(b"k", b"1")])
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if store.get_many([b"k"]) != [b"1"]:
                wrong.append("lost")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(60):
        store.write(puts=[(b"%d" % i, b"x" * 20_000)])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


_FULL = """
import resource, signal, sys
from pathlib import Path
from flyball.adapters.lmdb import LMDBStore
from flyball.errors import Unavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = LMDBStore(Path(sys.argv[1]), 8_000_000)
store.write(puts=[(b"first", b"1")])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))  # the disk is full from here on
written = []
try:
    for i in range(10_000):
        store.write(puts=[(b"%05d" % i, b"x" * 3000)])
        written.append(i)
except Unavailable as error:
    print(error)
assert 0 < len(written) < 1_000, len(written)
assert store.get_many([b"first"]) == [b"1"]
assert all(v == b"x" * 3000 for v in store.get_many([b"%05d" % i for i in written]))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # there is room again
store.write(puts=[(b"last", b"2")])
store.close()
again = LMDBStore(Path(sys.argv[1]), readonly=True)
assert again.get_many([b"first", b"last"]) == [b"1", b"2"]
assert all(v == b"x" * 3000 for v in again.get_many([b"%05d" % i for i in written]))
"""


def test_a_full_disk_is_one_clear_sentence_and_loses_nothing_written(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "is the disk full?" in done.stdout
