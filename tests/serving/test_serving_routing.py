"""Segments, variants, holdout, testers and flags: what is decided, and that growing a share only adds units."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import ConflictError, DefinitionError, DuplicateName, InputError, UnknownName
from flyball.rollout.routing import BUCKETS, ModelRoute, RoutingTable, Variant, VersionRef, check_route, cut
from flyball.rollout.splits import split_for
from flyball.serving.definitions import Flag, Segment, Serving
from flyball.serving.routing.flags import CompiledFlag, Flags
from flyball.serving.routing.router import (
    CHAMPION,
    HOLDOUT,
    KILLED,
    VETOED,
    Assignment,
    assign,
    bucket,
    compile_route,
    mirrored,
)

REFS = {name: VersionRef(name, name, name, trusted=False) for name in ("v1", "v2", "v3", "v4")}
PLAIN = ModelRoute("m", "s", REFS["v1"])
WITH = replace(PLAIN, candidate=REFS["v2"], candidate_cut=cut(0.1), control_from=cut(0.1), control_to=cut(0.2))
UNITS = [f"u{i}" for i in range(20_000)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
WHERES = [{"a": "x"}, {"a": ["x", 1, True]}, {"a": ">= 3"}, {"a": "!= x"}, {"a": "not in x, 3"}, {"a": "starts with x"},
          {"a": "> b and <= y"}]  # fmt: skip


def segmented(*segments: object, **route: object) -> ModelRoute:
    return replace(WITH, segments=segments, **route)  # type: ignore[arg-type]


def assigned(route: ModelRoute, attributes: dict[str, object] | None = None) -> dict[str, Assignment]:
    router = compile_route(route)
    assert router is not None
    return {unit: router(unit, attributes, "", frozenset(), False) for unit in UNITS}


@pytest.mark.parametrize(
    ("where", "attributes", "fits"),
    [
        ({"country": ["DE", "AT"]}, {"country": "AT"}, True),
        ({"country": ["DE", "AT"]}, {"country": "FR"}, False),
        ({"country": ["DE"]}, {}, False),
        ({"country": "not in DE, AT"}, {}, True),
        ({"country": "!= DE"}, {"country": None}, True),
        ({"groups": "beta"}, {"groups": ["alpha", "beta"]}, True),
        ({"groups": "!= beta"}, {"groups": ["alpha", "beta"]}, False),
        ({"age": ">= 18 and < 65"}, {"age": 18}, True),
        ({"age": ">= 18 and < 65"}, {"age": 65}, False),
        ({"age": ">= 18"}, {"age": "18"}, False),
        ({"age": ">= 18"}, {"age": True}, False),
        ({"age": ">= 18"}, {"age": [20]}, False),
        ({"born": ">= 2000-01-01"}, {"born": "2001-05-05"}, True),
        ({"staff": True}, {"staff": 1}, False),
        ({"staff": True}, {"staff": True}, True),
        ({"level": 1}, {"level": 1.0}, True),
        ({"level": 1}, {"level": True}, False),
        ({"zip": "== '18'"}, {"zip": "18"}, True),
        ({"plan": "starts with pro-"}, {"plan": "pro-max"}, True),
        ({"plan": "starts with pro-"}, {"plan": 3}, False),
        ({"a": "x", "b": "y"}, {"a": "x"}, False),
    ],
)
def test_a_segment_fits_what_it_says(where: dict, attributes: dict, fits: bool) -> None:
    route = segmented(Segment("seg", where=where, to="candidate"))
    found = assign(route, "anybody", attributes=attributes)
    assert (found.why == "segment seg") is fits


@given(attributes=st.dictionaries(st.sampled_from("ab"), JSON, max_size=2), where=st.sampled_from(WHERES))
def test_no_attribute_is_an_error(attributes: dict, where: dict) -> None:
    assert assign(segmented(Segment("seg", where=where, to="candidate")), "u", attributes=attributes)


def test_the_first_fitting_segment_decides_and_its_share_lies_within_it() -> None:
    route = segmented(
        Segment("at", where={"country": "AT"}, to="champion"),
        Segment("german", where={"country": ["DE", "AT"]}, to="candidate", share="50%"),
    )
    austria = {a.arm for a in assigned(route, {"country": "AT"}).values()}
    germany = assigned(route, {"country": "DE"}).values()
    assert austria == {"champion"}
    share = sum(a.arm == "candidate" for a in germany) / len(UNITS)
    assert abs(share - 0.5) < 5 * (0.25 / len(UNITS)) ** 0.5  # the 10 % of everybody lie among those 50 %
    assert not any(a.drawn for a in germany)
    assert assign(route, UNITS[0], attributes={"country": "FR"}).drawn


def test_a_segment_to_an_arm_that_is_not_there_is_no_rule() -> None:
    route = replace(PLAIN, segments=(Segment("seg", where={"a": 1}, to="candidate"),))
    assert assign(route, "u", attributes={"a": 1}) is CHAMPION


@given(unit=st.text(min_size=1), low=st.floats(0, 1), high=st.floats(0, 1), grown=st.sampled_from("csv"))
def test_growing_a_share_of_any_kind_only_adds_units_to_that_arm(
    unit: str, low: float, high: float, grown: str
) -> None:
    small, large = sorted((low, high))

    def route(share: float) -> ModelRoute:
        candidate = cut(share) if grown == "c" else cut(0.1)
        variant = Variant("v3", REFS["v3"], cut(0.4), cut(0.4) + round(share * cut(0.3)) if grown == "v" else cut(0.5))
        segment = Segment("seg", where={"a": 1}, to="candidate", share=share if grown == "s" else 0.2)
        return replace(WITH, candidate_cut=candidate, control_from=0, control_to=0, variants=(variant,),
                       segments=(segment,), holdout=cut(0.05))  # fmt: skip

    attributes = {"a": 1} if grown == "s" else {}
    before, after = (assign(route(s), unit, attributes=attributes) for s in (small, large))
    arm = "v3" if grown == "v" else "candidate"
    if before.arm == arm:
        assert after.arm == arm
    assert (before is HOLDOUT) is (after is HOLDOUT)


def test_holdout_gets_the_champion_whatever_the_rest_says_and_no_shadow() -> None:
    route = segmented(
        Segment("all", where={"a": 1}, to="candidate"), holdout=cut(0.1), candidate_cut=BUCKETS, shadow=1.0
    )
    held = {u for u, a in assigned(route, {"a": 1}).items() if a is HOLDOUT}
    assert abs(len(held) / len(UNITS) - 0.1) < 5 * (0.09 / len(UNITS)) ** 0.5
    assert not any(mirrored(route, u) for u in held)
    assert {a.arm for u, a in assigned(route).items() if u not in held} == {"candidate"}


def test_a_tester_gets_the_arm_asked_for_and_is_no_evidence() -> None:
    route = replace(WITH, testers=True, variants=(Variant("v3", REFS["v3"]),), holdout=cut(1.0))
    for arm in ("candidate", "champion", "v3"):
        found = assign(route, "u", wish=arm)
        assert (found.arm, found.why, found.drawn) == (arm, "header", False)
    assert assign(replace(route, testers=False), "u", wish="candidate") is HOLDOUT


def test_kill_switch_and_veto_go_before_everything() -> None:
    route = segmented(
        Segment("seg", where={"a": 1}, to="candidate"), testers=True,
        variants=(Variant("v3", REFS["v3"], cut(0.5), BUCKETS),),
    )  # fmt: skip
    inside = next(u for u in UNITS if bucket("s", u) < cut(0.1))
    variant = next(u for u in UNITS if bucket("s", u) >= cut(0.5))
    assert assign(route, inside, kill=True) is KILLED
    assert assign(route, inside, veto=True) is VETOED
    for found in (
        assign(route, "u", wish="candidate", veto=True),
        assign(route, "u", attributes={"a": 1}, kill=True),
        assign(route, variant, off={"v3"}),
        assign(route, variant, kill=True),
    ):
        assert found.arm == "champion"
        assert not found.drawn
    assert assign(route, variant, veto=True).arm == "v3"


def test_variants_have_their_shares_and_leave_the_rest_to_the_champion() -> None:
    route = split_for(PLAIN, REFS, {"v3": cut(0.2), "v4": cut(0.3)}, holdout=cut(0.05))
    arms = [assign(route, u).arm for u in UNITS]
    for name, share in (("v3", 0.2), ("v4", 0.3), ("champion", 0.5)):
        assert abs(arms.count(name) / len(UNITS) - share) < 5 * (share * (1 - share) / len(UNITS)) ** 0.5, name


@given(shares=st.lists(st.integers(1, BUCKETS // 6), min_size=1, max_size=6), growth=st.floats(0, 1), unit=st.text())
def test_growing_all_variants_alike_moves_nobody(shares: list[int], growth: float, unit: str) -> None:
    names = [f"w{k}" for k in range(len(shares))]
    refs = dict.fromkeys(names, REFS["v3"])
    before = split_for(PLAIN, refs, dict(zip(names, shares, strict=True)), holdout=0)
    most = BUCKETS / sum(shares)
    grown = {n: int(s * (1 + (most - 1) * growth)) for n, s in zip(names, shares, strict=True)}
    try:
        after = split_for(before, refs, grown, holdout=0)
    except ConflictError:  # a start is rounded down, so the last bucket of the room may be missing
        assert growth > 0.9
        return
    arm = assign(before, unit).arm
    if arm != "champion":
        assert assign(after, unit).arm == arm


def test_a_variant_that_cannot_grow_where_it_lies_is_told_how_to() -> None:
    route = split_for(PLAIN, REFS, {"v3": cut(0.2), "v4": cut(0.2)}, holdout=0)
    with pytest.raises(ConflictError, match=r"has room for 50\.00%.*--stop"):
        split_for(route, REFS, {"v3": cut(0.6), "v4": cut(0.2)}, holdout=0)
    with pytest.raises(ConflictError, match=r"ask for 120\.00%"):
        split_for(PLAIN, REFS, {"v3": cut(0.6), "v4": cut(0.6)}, holdout=0)
    with pytest.raises(InputError, match="v1 gets what the others leave"):
        split_for(PLAIN, REFS, {"v1": cut(0.6)}, holdout=0)


def test_a_variant_that_comes_later_moves_no_unit_of_another() -> None:
    one = split_for(PLAIN, REFS, {"v3": cut(0.2)}, holdout=0)
    two = split_for(one, REFS, {"v3": cut(0.2), "v4": cut(0.2)}, holdout=0)
    back = split_for(two, REFS, {"v4": cut(0.2)}, holdout=0)
    before, both, after = ({u: a.arm for u, a in assigned(route).items()} for route in (one, two, back))
    assert {u for u in UNITS if before[u] == "v3"} == {u for u in UNITS if both[u] == "v3"}
    assert {u for u in UNITS if both[u] == "v4"} == {u for u in UNITS if after[u] == "v4"}


def test_two_arms_may_not_claim_the_same_units() -> None:
    taken = replace(WITH, variants=(Variant("v3", REFS["v3"], cut(0.15), cut(0.3)),))
    with pytest.raises(ConflictError, match=r"the control cohort and variant v3 both claim the units of 15 % to 20 %"):
        check_route(taken)


# -- flags ----------------------------------------------------------------------------------------------------------------


def test_a_flag_gives_each_value_its_share_and_the_default_to_the_rest() -> None:
    flag = CompiledFlag(Flag("color", values={"blue": "20%", "green": "30%"}, default="red"))
    given_ = [flag.decide(u).value for u in UNITS]
    for value, share in (("blue", 0.2), ("green", 0.3), ("red", 0.5)):
        assert abs(given_.count(value) / len(UNITS) - share) < 5 * (share * (1 - share) / len(UNITS)) ** 0.5, value


def test_a_flag_that_is_off_is_the_default_for_everybody() -> None:
    flag = Flag("f", share="100%", segments=[Segment("s", where={"a": 1}, to=True)], on=False)
    assert CompiledFlag(flag).decide("u", {"a": 1}).value is False
    assert CompiledFlag(replace(flag, on=True)).decide("u").value is True


def test_a_flags_segments_go_first() -> None:
    flag = CompiledFlag(Flag("f", segments=[Segment("staff", where={"staff": True}, to=True)]))
    assert flag.decide("u", {"staff": True}).why == "segment staff"
    assert flag.decide("u", {"staff": True}).value is True
    assert flag.decide("u").value is False


@given(unit=st.text(), a=st.floats(0, 1), b=st.floats(0, 1))
def test_a_flag_ramps_monotonely(unit: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if CompiledFlag(Flag("f", share=low)).decide(unit).value:
        assert CompiledFlag(Flag("f", share=high)).decide(unit).value


def test_an_unknown_flag_names_its_neighbours() -> None:
    flags = Flags(RoutingTable(1, 0, 0, flags={"new_map": Flag("new_map")}))
    with pytest.raises(UnknownName, match="new_map"):
        flags.decide("newmap", "u")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Flag("f", values={"a": "60%", "b": "60%"}), "120%"),
        (lambda: Flag("f", values={"a": "1%"}, share="1%"), "short form"),
        (lambda: Flag("f", segments=[Segment("s", where={"a": 1}, to="nope")]), "goes to 'nope'"),
        (lambda: Flag("a flag"), "no plain word"),
        (lambda: Segment("s", where={}, to="candidate"), "no condition"),
        (lambda: Segment("s", where={"a": []}, to="candidate"), "one of nothing"),
        (lambda: Segment("s", where={"a": ">= "}, to="candidate"), "compares with nothing"),
        (lambda: Segment("s", where={"a": {"b": 1}}, to="candidate"), "text, a number"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(make, match: str) -> None:
    with pytest.raises(DefinitionError, match=match):
        make()


def test_two_segments_of_one_name_are_refused() -> None:
    with pytest.raises(DuplicateName, match="2 segments are named 's'"):
        Serving(segments=[Segment("s", where={"a": 1}, to="candidate")] * 2)


def test_a_table_with_all_of_it_survives_the_file() -> None:
    segment = Segment("s", where={"a": [1, "x", True, 1.5]}, to="v3")
    route = split_for(replace(PLAIN, segments=(segment,), testers=True), REFS, {"v3": 5}, holdout=7)
    table = RoutingTable(3, 1, 5, {"m": route}, "split", {"f": Flag("f", values={"a": "1%", 2: "2%", True: 0.5})})
    assert RoutingTable.from_json(table.to_json()) == table
