"""A rule machine for online stores: random writes against a dictionary that the kernel merges one by one.

The surprise: values are compared as bytes. Whatever merges in a server must come to the very bytes that one process
would have written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from flyball.features.cells import merge_windows
from flyball.features.packing import merge_rows
from flyball.features.ports import OnlineStore
from flyball.testing import laws_online as laws

__all__ = ["run"]

_ROWS = [b"va\x00", b"va\xff", b"vb*"]
_CELLS = [b"wa", b"wb"]
_PLAIN = [b"c1", b"c2"]
_times = st.integers(0, 12)
_rows = st.tuples(st.sampled_from(_ROWS), _times, st.integers(0, 8), _times, st.integers(1, 3))
_cells = st.tuples(st.sampled_from(_CELLS), _times, st.integers(0, 8), _times, st.integers(-1, 12))
_puts = st.tuples(st.sampled_from(_PLAIN), st.one_of(st.none(), st.binary(max_size=4)))


def run(make: Callable[[int], OnlineStore], *, examples: int = 25, steps: int = 10) -> None:
    """Run the machine on stores that `make(number)` opens, each empty."""
    numbers = itertools.count()

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = make(next(numbers))
            self.model: dict[bytes, bytes] = {}

        @rule(rows=st.lists(_rows, max_size=5), cells=st.lists(_cells, max_size=3), puts=st.lists(_puts, max_size=2))
        def write(
            self,
            rows: list[tuple[bytes, int, int, int, int]],
            cells: list[tuple[bytes, int, int, int, int]],
            puts: list[tuple[bytes, bytes | None]],
        ) -> None:
            newer = [
                (key, laws._record(event, event + 0.5, known=event + later, floor=floor, sequence=sequence))
                for key, event, later, floor, sequence in rows
            ]
            windows = [
                (key, laws._events((event, event + later, 1.0), floor=floor, sequence=sequence or 1))
                for key, event, later, floor, sequence in cells
            ]
            assert self.store.write(newer=newer, cells=windows, puts=puts) == self._model(newer, windows, puts)
            self._check()

        @rule(prefix=st.sampled_from([b"va", b"v", b"wa", b"vb*", b"zz"]))
        def drop(self, prefix: bytes) -> None:
            gone = [key for key in self.model if key.startswith(prefix)]
            assert self.store.drop(prefix) == len(gone)
            for key in gone:
                del self.model[key]
            self._check()

        def _model(
            self,
            newer: list[tuple[bytes, bytes]],
            cells: list[tuple[bytes, bytes]],
            puts: list[tuple[bytes, bytes | None]],
        ) -> int:
            won = 0
            for key, value in newer:
                changed = merge_rows(self.model.get(key), value)
                if changed is not None:
                    self.model[key], won = changed, won + 1
            for key, value in cells:
                self.model[key] = merge_windows([(self.model.get(key), value)])[0]
            for key, plain in puts:
                if plain is None:
                    self.model.pop(key, None)
                else:
                    self.model[key] = plain
            return won

        def _check(self) -> None:
            asked = [*_ROWS, *_CELLS, *_PLAIN]
            assert self.store.get_many(asked) == [self.model.get(key) for key in asked]
            assert self.store.keys(b"") == sorted(self.model)

        def teardown(self) -> None:
            self.store.close()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck), database=None,
        ),
    )  # fmt: skip
