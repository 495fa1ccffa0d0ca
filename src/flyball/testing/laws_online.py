"""What every online store must hold to, as a class of tests: subclass it and say how to make your store.

The surprise: the laws know nothing of the values but what `features/packing` and `features/cells` make of them, so
a store that merges in its own way (a script in the server, say) is held to the same bytes.
"""

from __future__ import annotations

from pathlib import Path

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

    def make_store(self, folder: Path) -> OnlineStore:
        """Return an empty, writable store; `folder` is empty and the test's own."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> OnlineStore:
        """The store under test."""
        return self.make_store(tmp_path / "store")

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
                store.put_newer([(key, value)])
        assert [self.value(v) for v in store.get_many([b"x", b"y"])] == [2.0, 2.0]

    def test_times_before_1970_are_older(self, store: OnlineStore) -> None:
        """Show that times before 1970 are older."""
        store.put_newer([(b"x", _record(3, 1.0)), (b"x", _record(-3, 2.0))])
        assert self.value(store.get_many([b"x"])[0]) == 1.0

    def test_the_same_row_again_changes_nothing(self, store: OnlineStore) -> None:
        """Show that the same row again changes nothing."""
        assert store.put_newer([(b"x", _record(5, 1.0))]) == 1
        assert store.put_newer([(b"x", _record(5, 1.0))]) == 0

    def test_a_tie_in_event_goes_to_the_higher_sequence(self, store: OnlineStore) -> None:
        """Show that a tie in event goes to the higher sequence."""
        store.put_newer([(b"x", _record(5, 2.0, sequence=8)), (b"x", _record(5, 1.0, sequence=7))])
        assert self.value(store.get_many([b"x"])[0]) == 2.0

    def test_a_row_not_yet_known_keeps_its_predecessor(self, store: OnlineStore) -> None:
        """Show that a row not yet known keeps its predecessor."""
        store.put_newer([(b"x", _record(5, 1.0, floor=10)), (b"x", _record(9, 2.0, known=100, floor=10))])
        chain = store.get_many([b"x"])[0]
        assert (self.value(chain, 99), self.value(chain, 100)) == (1.0, 2.0)

    def test_windows_merge_in_any_order_and_redelivery_changes_nothing(self, store: OnlineStore) -> None:
        """Show that windows merge in any order and redelivery changes nothing."""
        first = _events((10, 10, 1.0), (20, 20, 2.0), floor=50)
        late = _events((15, 90, 4.0), floor=95, sequence=3)
        for value in (first, first, late, late, first):
            store.merge_cells([(b"w", value)], checkpoint=None)
        held = store.get_many([b"w"])[0]
        assert held is not None
        assert answer(WindowLayout(_WINDOW), [held], 100)[0].tolist() == [[3.0, 7.0]]

    def test_raw_events_count_only_when_known(self, store: OnlineStore) -> None:
        """Show that raw events count only when known."""
        store.merge_cells([(b"w", _events((10, 10, 1.0), (20, 200, 2.0), floor=50))], checkpoint=None)
        held = store.get_many([b"w"])[0]
        assert held is not None
        counts = [answer(WindowLayout(_WINDOW), [held], at)[0][0, 0] for at in (199, 200)]
        assert counts == [1.0, 2.0]

    def test_checkpoint_and_values_are_written_together(self, store: OnlineStore) -> None:
        """Show that checkpoint and values are written together."""
        store.merge_cells([(b"w", _events((10, 10, 1.0), floor=50))], checkpoint=(b"c", b"7"))
        with pytest.raises(Exception):  # noqa: B017 which error is the store's choice
            store.write(puts=[(b"c", b"8")], cells=[(b"c", b"no window value")])
        assert store.get_many([b"c"]) == [b"7"]

    def test_drop_removes_only_its_prefix(self, store: OnlineStore) -> None:
        """Show that drop removes only its prefix."""
        store.write(puts=[(b"va1", b"1"), (b"va2", b"1"), (b"vb1", b"1"), (b"v", b"1")])
        assert store.keys(b"va") == [b"va1", b"va2"]
        assert store.drop(b"va") == 2
        assert store.get_many([b"va1", b"vb1", b"v"]) == [None, b"1", b"1"]
