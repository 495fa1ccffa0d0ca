"""The guard's decisions, purely, and what a guarded store does with a store that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flyball.errors import Unavailable
from flyball.features.guarded import CLOSED, Breaker, Guard, GuardedStore, admit, fall_back, read_state, record

GUARD = Guard(budget=0.05, failures=3, pause=2.0)


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = CLOSED
    for failed in (True, True, False, True, True):
        breaker = record(breaker, GUARD, 0.0, failed=failed)
    assert breaker == Breaker("closed", 2, 0.0)
    assert record(breaker, GUARD, 7.0, failed=True) == Breaker("open", 3, 7.0)


def test_an_open_breaker_lets_one_read_try_after_the_pause() -> None:
    opened = Breaker("open", 3, 10.0)
    assert admit(opened, GUARD, 11.9) == (opened, False)
    trying, allowed = admit(opened, GUARD, 12.0)
    assert (trying.state, allowed) == ("half-open", True)
    assert admit(trying, GUARD, 12.1) == (trying, False)
    assert record(trying, GUARD, 12.2, failed=True) == Breaker("open", 4, 12.2)
    assert record(trying, GUARD, 12.2, failed=False) is CLOSED


def test_a_trial_that_never_reported_does_not_block_for_ever() -> None:
    trying, _ = admit(Breaker("open", 3, 0.0), GUARD, 2.0)
    assert admit(trying, GUARD, 4.0)[1]


@pytest.mark.parametrize(
    "policy, limit, age, found",
    [
        ("error", 0.0, 0.0, None),
        ("default", 0.0, 0.0, ([None, None], "defaulted")),
        ("error", 5.0, 5.0, ([b"1", None], "stale")),
        ("error", 5.0, 5.1, None),
        ("default", 5.0, 5.1, ([None, None], "defaulted")),
    ],
)
def test_what_a_failed_read_answers(
    policy: str, limit: float, age: float, found: tuple[list[bytes | None], str] | None
) -> None:
    guard = Guard(on_failure=policy, stale_limit=limit)  # type: ignore[arg-type]
    kept: dict[bytes, tuple[bytes | None, float]] = {b"a": (b"1", 100.0), b"b": (None, 100.0)}
    assert fall_back([b"a", b"b"], kept, guard, 100.0 + age) == found


def test_one_unknown_key_makes_stale_values_an_error_or_defaulted() -> None:
    kept: dict[bytes, tuple[bytes | None, float]] = {b"a": (b"1", 0.0)}
    assert fall_back([b"a", b"new"], kept, Guard(stale_limit=9.0), 1.0) is None
    some = Guard(stale_limit=9.0, on_failure="default")
    assert fall_back([b"a", b"new"], kept, some, 1.0) == ([b"1", None], "defaulted")


class Flaky:
    """A store that answers, fails or hangs as told."""

    def __init__(self) -> None:
        self.mode, self.asked = "well", 0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked += 1
        if self.mode == "fails":
            raise Unavailable("away")
        return [b"<" + key + b">" for key in keys]

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self.mode == "hangs":
            self.asked += 1
            await asyncio.Event().wait()
        return self.get_many(keys)


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reads_stop_asking_a_failing_store_and_start_again_after_the_pause() -> None:
    store, clock = Flaky(), Seconds()
    guarded = GuardedStore(store, Guard(failures=3, pause=2.0, on_failure="default"), monotonic=clock)
    store.mode = "fails"
    for _ in range(10):
        assert guarded.get_many([b"a"]) == [None]
        assert read_state.get() == "defaulted"
    assert (store.asked, guarded.breaker.state) == (3, "open")
    store.mode, clock.now = "well", 2.0
    assert guarded.get_many([b"a"]) == [b"<a>"]
    assert (read_state.get(), guarded.breaker) == ("", CLOSED)


def test_a_hanging_store_is_given_up_within_the_budget() -> None:
    store = Flaky()
    store.mode = "hangs"
    guarded = GuardedStore(store, Guard(budget=0.01, failures=2))

    async def ask() -> str:
        try:
            await guarded.aget_many([b"a"])
        except Unavailable as error:
            return str(error)
        return ""

    async def main() -> list[str]:
        return [await ask() for _ in range(4)]

    said = asyncio.run(main())
    assert said[0] == "the online store gave no answer within 10 ms"
    assert "failed 2 times in a row" in said[3]
    assert store.asked == 2


def test_values_read_before_serve_until_they_are_too_old() -> None:
    store, clock = Flaky(), Seconds()
    guarded = GuardedStore(store, Guard(stale_limit=5.0), monotonic=clock)
    assert guarded.get_many([b"a", b"b"]) == [b"<a>", b"<b>"]
    store.mode, clock.now = "fails", 5.0
    assert guarded.get_many([b"b"]) == [b"<b>"]
    assert read_state.get() == "stale"
    clock.now = 5.1
    with pytest.raises(Unavailable, match="away"):
        guarded.get_many([b"b"])


def test_each_task_has_its_own_flag() -> None:
    store = Flaky()
    guarded = GuardedStore(store, Guard(on_failure="default"))

    async def ask(mode: str) -> str:
        store.mode = mode
        await guarded.aget_many([b"a"])
        await asyncio.sleep(0)
        return read_state.get()

    async def main() -> list[str]:
        return list(await asyncio.gather(ask("fails"), ask("well"), ask("fails")))

    assert asyncio.run(main()) == ["defaulted", "", "defaulted"]
