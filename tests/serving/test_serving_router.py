from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from flyball.rollout.routing import BUCKETS, ModelRoute, VersionRef, cut
from flyball.serving.routing.router import (
    CANDIDATE,
    CHAMPION,
    CONTROL,
    KILLED,
    VETOED,
    Assignment,
    assign,
    bucket,
    compile_route,
    mirrored,
)

A, B = VersionRef("v1", "a", "x", True), VersionRef("v2", "b", "y", False)


def route(share: float, *, salt: str = "s", shadow: float = 0.0, control: bool = True) -> ModelRoute:
    c = cut(share)
    top = BUCKETS - c if control else BUCKETS
    return ModelRoute("m", salt, A, B, c, top, BUCKETS, shadow=shadow)


def arms_of(made: ModelRoute, units: Iterable[str]) -> list[Assignment]:
    router = compile_route(made)
    assert router is not None
    return [router(unit, None, "", frozenset(), False) for unit in units]


def test_split_is_within_five_sigma_of_the_share() -> None:
    n = 200_000
    for share in (0.001, 0.01, 0.1, 0.5):
        arms = arms_of(route(share, salt=f"{share}"), (f"u{i}" for i in range(n)))
        hits = sum(arm is CANDIDATE for arm in arms)
        sigma = (n * share * (1 - share)) ** 0.5
        assert abs(hits - n * share) < 5 * sigma, share


def test_buckets_are_uniform_by_chi_square() -> None:
    n, cells = 100_000, 100
    counts = [0] * cells
    for i in range(n):
        counts[bucket("salt", str(i)) * cells // BUCKETS] += 1
    chi = sum((c - n / cells) ** 2 / (n / cells) for c in counts)
    assert chi < 99 + 5 * (2 * 99) ** 0.5


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_share_only_adds_units(unit: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if assign(route(low), unit) is CANDIDATE:
        assert assign(route(high), unit) is CANDIDATE


def test_control_cohort_is_as_large_as_the_candidates() -> None:
    arms = arms_of(route(0.1), map(str, range(100_000)))
    assert abs(arms.count(CONTROL) - arms.count(CANDIDATE)) < 5 * (2 * 100_000 * 0.09) ** 0.5


@given(st.text(), st.booleans(), st.booleans())
def test_veto_and_kill_only_take_from_the_candidate(unit: str, veto: bool, kill: bool) -> None:
    free, bound = assign(route(0.3), unit), assign(route(0.3), unit, veto=veto, kill=kill)
    if free is CANDIDATE and (veto or kill):
        assert bound is (KILLED if kill else VETOED)
    else:
        assert bound is free


def test_without_a_candidate_all_is_champion() -> None:
    assert assign(ModelRoute("m", "s", A, None, cut(1.0)), "u") is CHAMPION


def test_shadow_share_is_independent_of_the_arm() -> None:
    r = route(0.5, shadow=0.2)
    hits = [mirrored(r, str(i)) for i in range(50_000) if assign(r, str(i)) is not CANDIDATE]
    assert abs(sum(hits) / len(hits) - 0.2) < 5 * (0.16 / len(hits)) ** 0.5
    assert not mirrored(route(0.5), "u")
    assert mirrored(route(0.5, shadow=1.0), "u")
