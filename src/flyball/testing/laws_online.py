"""What every online store must hold to, as a class of tests: subclass it and say how to make your store.

The surprise: the laws know nothing of the values but what `features/packing` and `features/cells` make of them, so
a store that merges in its own way (a script in the server, say) is held to the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.features.cells import WindowLayout, answer
from flyball.features.packing import RowLayout, Rows, latest_known
from flyball.features.ports import OnlineStore
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec

__all__ = ["OnlineStoreLaws"]

_HOUR = 3_600_000_000
_SOURCE = SourceSpec("events", "events/*.parquet", "at", None, "UTC", (), None, 0)
_ENTITY = EntitySpec("thing", (ColumnSpec("thing", "int64"),))
_ROW = ViewSpec("newest", _ENTITY, _SOURCE, None, (FeatureSpec("v", "float64", "v"),))
_WINDOW = ViewSpec(
    "windows", _ENTITY, _SOURCE, None,
    (FeatureSpec("n", "int64", None, Stat.COUNT, _HOUR, 60_000_000),
     FeatureSpec("total", "float64", "v", Stat.SUM, _HOUR, 60_000_000)),
)  # fmt: skip


def _rows(*rows: tuple[int, int, float], sequence: int = 1) -> Rows:
    """Rows of one entity: (event, known, value)."""
    n = len(rows)
    event, known, values = (np.array(c) for c in zip(*rows, strict=True))
    columns = {"v": (values.astype(np.float64), np.zeros(n, bool))}
    order = np.arange(sequence, sequence + n)
    return Rows([b"one"], np.zeros(n, np.int64), event.astype(np.int64), event.astype(np.int64),
                known.astype(np.int64), order, columns)  # fmt: skip


def _record(event: int, value: float, *, known: int | None = None, floor: int = 10**15, sequence: int = 1) -> bytes:
    packed = RowLayout(_ROW).pack(_rows((event, known or event, value), sequence=sequence), floor)
    return packed[0][1]


def _events(*rows: tuple[int, int, float], floor: int, sequence: int = 1) -> bytes:
    return WindowLayout(_WINDOW).pack(_rows(*rows, sequence=sequence), floor)[0][1]


class OnlineStoreLaws:
    """Run these against a store.

    Example:
        class TestMyStore(OnlineStoreLaws):
            def make_store(self, folder):
                return MyStore(folder)
    """

    start_method: str = "fork"  # how the laws make processes: "spawn" where a store cannot be opened after a fork

    def make_store(self, folder: Path) -> OnlineStore:
        """Return a writable store; `folder` is empty and the test's own.

        Called again with the same folder, also in another process, it opens the same store once more.
        """
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        """The store under test."""
        store = self.make_store(tmp_path / "store")
        yield store
        store.close()

    def value(self, chain: bytes | None, at: int = 10**15) -> float:
        """Return the row feature of a stored chain at T."""
        assert chain is not None
        record = latest_known(chain, at)
        assert record is not None
        return float(RowLayout(_ROW).one.unpack_from(record, 24)[-1])

    def test_values_come_in_the_order_of_the_keys(self, store: OnlineStore) -> None:
        """Show that values come in the order of the keys."""
        store.write(puts=[(b"a", b"1"), (b"b", b"2")])
        assert store.get_many([b"b", b"none", b"a", b"b"]) == [b"2", None, b"1", b"2"]
        assert store.get_many([]) == []

    def test_the_newer_row_wins_in_any_order(self, store: OnlineStore) -> None:
        """Show that the newer row wins in any order."""
        old, new = _record(5, 1.0), _record(9, 2.0)
        for key, order in ((b"x", [old, new]), (b"y", [new, old])):
            for value in order:
                store.write(newer=[(key, value)])
        assert [self.value(v) for v in store.get_many([b"x", b"y"])] == [2.0, 2.0]

    def test_times_before_1970_are_older(self, store: OnlineStore) -> None:
        """Show that times before 1970 are older."""
        store.write(newer=[(b"x", _record(3, 1.0)), (b"x", _record(-3, 2.0))])
        assert self.value(store.get_many([b"x"])[0]) == 1.0

    def test_the_same_row_again_changes_nothing(self, store: OnlineStore) -> None:
        """Show that the same row again changes nothing."""
        assert store.write(newer=[(b"x", _record(5, 1.0))]) == 1
        assert store.write(newer=[(b"x", _record(5, 1.0))]) == 0

    def test_a_tie_in_event_goes_to_the_higher_sequence(self, store: OnlineStore) -> None:
        """Show that a tie in event goes to the higher sequence."""
        store.write(newer=[(b"x", _record(5, 2.0, sequence=8)), (b"x", _record(5, 1.0, sequence=7))])
        assert self.value(store.get_many([b"x"])[0]) == 2.0

    def test_a_row_not_yet_known_keeps_its_predecessor(self, store: OnlineStore) -> None:
        """Show that a row not yet known keeps its predecessor."""
        store.write(newer=[(b"x", _record(5, 1.0, floor=10)), (b"x", _record(9, 2.0, known=100, floor=10))])
        chain = store.get_many([b"x"])[0]
        assert (self.value(chain, 99), self.value(chain, 100)) == (1.0, 2.0)

    def test_windows_merge_in_any_order_and_redelivery_changes_nothing(self, store: OnlineStore) -> None:
        """Show that windows merge in any order and redelivery changes nothing."""
        first = _events((10, 10, 1.0), (20, 20, 2.0), floor=50)
        late = _events((15, 90, 4.0), floor=95, sequence=3)
        for value in (first, first, late, late, first):
            store.write(cells=[(b"w", value)])
        held = store.get_many([b"w"])[0]
        assert held is not None
        assert answer(WindowLayout(_WINDOW), [held], 100)[0].tolist() == [[3.0, 7.0]]

    def test_raw_events_count_only_when_known(self, store: OnlineStore) -> None:
        """Show that raw events count only when known."""
        store.write(cells=[(b"w", _events((10, 10, 1.0), (20, 200, 2.0), floor=50))])
        held = store.get_many([b"w"])[0]
        assert held is not None
        counts = [answer(WindowLayout(_WINDOW), [held], at)[0][0, 0] for at in (199, 200)]
        assert counts == [1.0, 2.0]

    def test_checkpoint_and_values_are_written_together(self, store: OnlineStore) -> None:
        """Show that checkpoint and values are written together."""
        store.write(cells=[(b"w", _events((10, 10, 1.0), floor=50))], puts=[(b"c", b"7")])
        with pytest.raises(Exception):  # noqa: B017 which error is the store's choice
            store.write(puts=[(b"c", b"8")], cells=[(b"c", b"no window value")])
        assert store.get_many([b"c"]) == [b"7"]

    def test_drop_removes_only_its_prefix(self, store: OnlineStore) -> None:
        """Show that drop removes only its prefix."""
        store.write(puts=[(b"va1", b"1"), (b"va2", b"1"), (b"vb1", b"1"), (b"v", b"1")])
        assert store.keys(b"va") == [b"va1", b"va2"]
        assert store.drop(b"va") == 2
        assert store.get_many([b"va1", b"vb1", b"v"]) == [None, b"1", b"1"]

    # -- several writers and readers ----------------------------------------------------------------------------------

    def test_two_writing_threads_lose_nothing(self, tmp_path: Path) -> None:
        """Show that the newest row wins and each event counts once when two threads write the same keys."""
        stores = [self.make_store(tmp_path / "store") for _ in range(2)]
        workers = [threading.Thread(target=_write_shuffled, args=(store, i)) for i, store in enumerate(stores)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        _check_shuffled(self, stores[0], writers=2)
        for store in stores:
            store.close()

    def test_two_writing_processes_lose_nothing(self, tmp_path: Path) -> None:
        """Show the same for two processes, made by one that uses the store itself."""
        store = self.make_store(tmp_path / "store")
        assert store.get_many([b"x"]) == [None]
        children = [self._fork(tmp_path / "store", _write_shuffled, i) for i in range(2)]
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0, 0]
        _check_shuffled(self, store, writers=2)
        store.close()

    def test_readers_never_see_a_torn_write(self, tmp_path: Path, store: OnlineStore) -> None:
        """Show that a reader sees whole rows, and rows of one write together, while a writer writes."""
        reader = self.make_store(tmp_path / "store")
        torn: list[object] = []
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                held = reader.get_many([b"a", b"b"])
                seen = [None if v is None else (self.value(v), _event(v)) for v in held]
                if seen[0] != seen[1] or (seen[0] is not None and seen[0][0] != seen[0][1]):
                    torn.append(seen)

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(1, 300):
            store.write(newer=[(b"a", _record(i, float(i))), (b"b", _record(i, float(i)))])
        done.set()
        for thread in threads:
            thread.join()
        reader.close()
        assert torn == []

    def test_a_writer_killed_anywhere_leaves_cells_and_checkpoint_in_step(self, tmp_path: Path) -> None:
        """Show that after kill -9 the cells hold exactly the events up to the checkpoint, and a replay ends right."""
        folder = tmp_path / "store"
        store = self.make_store(folder)
        for begin in (100, 200):
            child = self._fork(folder, _write_for_ever)
            until = time.monotonic() + 30
            while int((store.get_many([b"c"])[0] or b"0").decode()) < begin:
                assert time.monotonic() < until
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
            applied = int((store.get_many([b"c"])[0] or b"0").decode())
            assert _counted(store, b"w") == [applied] * 2
        for i in range(applied - 20, applied + 20):  # a redelivery, then the rest
            _write_event(store, i)
        assert _counted(store, b"w") == [applied + 19] * 2
        store.close()

    def _fork(self, folder: Path, work: Callable[..., None], *arguments: Any) -> Any:
        context: Any = multiprocessing.get_context(self.start_method)
        child = context.Process(target=_child, args=(self.make_store, folder, work, arguments), daemon=True)
        child.start()
        return child

    # -- sizes and bytes ----------------------------------------------------------------------------------------------

    def test_ten_thousand_keys_come_back_in_order(self, store: OnlineStore) -> None:
        """Show that ten thousand keys are written, read in any order, listed in order and dropped."""
        keys = [b"v" + i.to_bytes(4, "big") for i in range(10_000)]
        value = _record(5, 1.0)
        assert store.write(newer=[(key, value + b"") for key in keys]) == 10_000
        asked = [*keys, b"v", b"absent"]
        random.Random(1).shuffle(asked)
        assert store.get_many(asked) == [value if len(key) == 5 else None for key in asked]
        assert store.keys(b"v") == keys
        assert store.drop(b"v") == 10_000
        assert store.keys(b"") == []

    def test_keys_are_any_bytes(self, store: OnlineStore) -> None:
        """Show that zero bytes, 0xff and signs of patterns mean nothing in keys."""
        keys = sorted(
            [b"\x00", b"\x00\x00", b"a\x00b", b"a*", b"a?", b"a[b]", b"a\\", b"a\xff", b"a\xff\xff", b"ab", b"\n"]
        )
        store.write(puts=[(key, b"<" + key + b">") for key in keys])
        assert store.get_many(keys) == [b"<" + key + b">" for key in keys]
        assert store.keys(b"") == keys
        for prefix in (b"a", b"a*", b"a\xff", b"a\x00", b"\x00", b"a["):
            assert store.keys(prefix) == [key for key in keys if key.startswith(prefix)]
        assert store.drop(b"a\xff") == 2
        assert store.drop(b"a*") == 1
        assert store.get_many([b"a?", b"ab"]) == [b"<a?>", b"<ab>"]

    def test_a_write_of_everything_at_once_is_one_by_one(self, store: OnlineStore) -> None:
        """Show that a key written twice in one write ends as if written twice."""
        late, early = _events((10, 10, 1.0), floor=50, sequence=2), _events((20, 20, 2.0), floor=50, sequence=1)
        won = store.write(
            newer=[(b"x", _record(5, 1.0)), (b"x", _record(9, 2.0)), (b"x", _record(7, 3.0))],
            cells=[(b"w", early), (b"w", late), (b"w", early)],
            puts=[(b"p", b"1"), (b"p", None), (b"q", None), (b"q", b"2")],
        )
        assert won == 2
        assert self.value(store.get_many([b"x"])[0]) == 2.0
        assert store.get_many([b"p", b"q"]) == [None, b"2"]
        assert _counted(store, b"w") == [2.0]

    def test_any_writes_end_as_in_a_dictionary(self, tmp_path: Path) -> None:
        """Show by random operations that the store's bytes are those of a dictionary merged by the kernel."""
        from flyball.testing.machine_online import run

        run(lambda number: self.make_store(tmp_path / f"store{number}"))


def _child(make: Callable[[Path], OnlineStore], folder: Path, work: Callable[..., None], arguments: Any) -> None:
    work(make(folder), *arguments)
    os._exit(0)  # no tidying up of what a parent owns


_SHARED = [b"k%d" % i for i in range(8)]
_EACH = 60


def _write_shuffled(store: OnlineStore, writer: int) -> None:
    """Write rows and file events (which always count) of the same keys, in an order of this writer's own."""
    order = list(range(_EACH))
    random.Random(writer).shuffle(order)
    for i in order:
        at = 2 * i + writer + 1
        rows = [(b"r" + key, _record(at, float(at), known=at, floor=at + (i % 3) - 1)) for key in _SHARED]
        event = _events((at, at, 1.0), floor=1_000, sequence=-1)
        random.Random(i).shuffle(rows)
        store.write(newer=rows, cells=[(b"w" + key, event) for key in _SHARED], puts=[(b"c%d" % writer, b"%d" % i)])


def _check_shuffled(laws: OnlineStoreLaws, store: OnlineStore, *, writers: int) -> None:
    rows = store.get_many([b"r" + key for key in _SHARED])
    assert [laws.value(row) for row in rows] == [float(writers * _EACH)] * len(_SHARED)
    assert _counted(store, *(b"w" + key for key in _SHARED)) == [float(writers * _EACH)] * len(_SHARED)


def _write_event(store: OnlineStore, i: int) -> None:
    event = _events((i, i, 1.0), floor=10**6, sequence=i)
    store.write(newer=[(b"r", _record(i, float(i)))], cells=[(b"w", event), (b"w2", event)], puts=[(b"c", b"%d" % i)])


def _write_for_ever(store: OnlineStore) -> None:
    begin = int((store.get_many([b"c"])[0] or b"0").decode())
    for i in range(begin + 1, 10**6):
        _write_event(store, i)


def _counted(store: OnlineStore, *keys: bytes) -> list[float]:
    if keys == (b"w",) and store.get_many([b"w2"])[0] is not None:
        keys = b"w", b"w2"
    held = [value for value in store.get_many(keys) if value is not None]
    assert len(held) == len(keys)
    return [float(n) for n in answer(WindowLayout(_WINDOW), held, 10**8)[0][:, 0]]


def _event(record: bytes) -> float:
    return float(int.from_bytes(record[:8], "big") - (1 << 63))
