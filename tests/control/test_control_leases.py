from __future__ import annotations

from datetime import timedelta

import pytest

from flyball.control import Database
from flyball.control.engine import Gate
from flyball.control.leases import Leases
from flyball.errors import FenceLost, InputError

TTL = timedelta(seconds=15)


class Wall:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def leases(db: Database, wall: Wall) -> Leases:
    gate: Gate = db._gate
    return Leases(gate, wall=wall)


def test_only_one_owner_holds_a_lease(leases: Leases) -> None:
    held = leases.acquire("control", "a", TTL)
    assert held is not None
    assert held.expires == 1015.0
    assert leases.acquire("control", "b", TTL) is None
    assert leases.acquire("other", "b", TTL) is not None
    holder = leases.holder("control")
    assert holder == held


def test_an_expired_lease_is_taken_over_and_its_former_owner_is_told(leases: Leases, wall: Wall) -> None:
    old = leases.acquire("control", "a", TTL)
    assert old is not None
    wall.now += 15.0
    with pytest.raises(FenceLost, match="it expired"):
        leases.check(old)
    new = leases.acquire("control", "b", TTL)
    assert new is not None
    assert new.fence > old.fence
    with pytest.raises(FenceLost, match="b holds it now"):
        leases.renew(old)
    leases.release(old)
    leases.check(new)


def test_renewing_begins_the_time_to_live_anew(leases: Leases, wall: Wall) -> None:
    lease = leases.acquire("control", "a", TTL)
    assert lease is not None
    wall.now += 14.0
    lease = leases.renew(lease)
    wall.now += 14.0
    leases.check(lease)
    assert leases.acquire("control", "b", TTL) is None


def test_a_late_owner_may_renew_while_nobody_took_over(leases: Leases, wall: Wall) -> None:
    lease = leases.acquire("control", "a", TTL)
    assert lease is not None
    wall.now += 60.0
    assert leases.renew(lease).fence == lease.fence


def test_a_restarted_owner_gets_a_new_fence_at_once(leases: Leases) -> None:
    former = leases.acquire("control", "a", TTL)
    present = leases.acquire("control", "a", TTL)
    assert former is not None
    assert present is not None
    leases.check(present)
    with pytest.raises(FenceLost):
        leases.check(former)


def test_a_released_lease_is_free_and_cannot_be_renewed(leases: Leases) -> None:
    lease = leases.acquire("control", "a", TTL)
    assert lease is not None
    leases.release(lease)
    with pytest.raises(FenceLost):
        leases.renew(lease)
    assert leases.holder("control") is None
    assert leases.acquire("control", "b", TTL) is not None


def test_a_lease_needs_an_owner_and_time(leases: Leases) -> None:
    with pytest.raises(InputError):
        leases.acquire("control", "", TTL)
    with pytest.raises(InputError):
        leases.acquire("control", "a", timedelta(0))
