from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from test_features_rowlayout import T0, packed

import flyball as fb
from flyball.definitions import Definitions
from flyball.errors import BadRequest, DefinitionError, DuplicateName, UnknownName
from flyball.features.definitions import FeatureView, ViewSelection
from flyball.features.definitions.services import expand
from flyball.features.lookup import Lookup, lookup
from flyball.features.online import OnlineReader
from flyball.features.packing import namespace
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService, Status

SOURCE = fb.ParquetSource("s", "none/*.parquet", event_time="at")
USER = fb.Entity("user", keys={"user": int})
SHOP = fb.Entity("shop", keys={"user": int, "shop": str})


def view(name: str = "users", *features: Any, entity: fb.Entity = USER, **more: Any) -> FeatureView:
    given = features or [fb.Feature("a", int), fb.Feature("b", float, default=-1.0), fb.Feature("e", fb.Vector(2))]
    return fb.FeatureView(name, entity=entity, source=SOURCE, features=given, **more)


class Store:
    """A dictionary that counts round trips."""

    def __init__(self, *views: tuple[FeatureView, list[tuple[Any, ...]]]) -> None:
        self.values: dict[bytes, bytes] = {}
        self.trips: list[int] = []
        for one, rows in views:
            self.values |= {namespace(one.spec.digest) + k: v for k, v in packed(one.spec, rows).items()}

    def get_many(self, keys: Any) -> list[bytes | None]:
        self.trips.append(len(keys))
        assert len(set(keys)) == len(keys)
        return [self.values.get(k) for k in keys]

    async def aget_many(self, keys: Any) -> list[bytes | None]:
        return self.get_many(keys)


# -- views ------------------------------------------------------------------------------------------------------------


def test_what_is_for_people_changes_no_digest() -> None:
    plain = view()
    told = view("users", fb.Feature("a", int, description="A", unit="km"), fb.Feature("b", float, default=-1.0),
                fb.Feature("e", fb.Vector(2)), owner="ana", description="who", tags=["x"], freshness="1h", refresh="15m",
                readers=["risk"], writers=["feed"])  # fmt: skip
    assert told.spec.digest == plain.spec.digest
    about = told.spec.about
    assert (about.owner, about.tags, about.freshness, about.refresh) == ("ana", ("x",), 3_600_000_000, "15m")
    assert (about.readers, about.writers) == (("risk",), ("feed",))
    assert told.spec.features[0].about.unit == "km"
    assert view("users", fb.Feature("a", int)).spec.digest != plain.spec.digest


@pytest.mark.parametrize("refresh", ["15m", "0 * * * *", "*/5 8-18 * * 1-5"])
def test_a_refresh_is_a_duration_or_a_cron_line(refresh: str) -> None:
    assert view(refresh=refresh).spec.about.refresh == refresh


@pytest.mark.parametrize("refresh", ["soon", "0s", "* * *"])
def test_another_refresh_is_refused(refresh: str) -> None:
    with pytest.raises(DefinitionError, match="cron line"):
        view(refresh=refresh)


def test_a_computed_feature_needs_features_before_it() -> None:
    half = fb.ratio("a", "b", name="half")
    spec = view("v", fb.Feature("a", float), fb.Feature("b", float), half).spec
    assert [f.name for f in spec.stored] == ["a", "b"]
    with pytest.raises(UnknownName, match="no feature of view 'v' before 'half' named 'b'"):
        view("v", fb.Feature("a", float), half, fb.Feature("b", float))
    with pytest.raises(DefinitionError, match="no features of its source"):
        fb.FeatureView("v", entity=USER, source=SOURCE, features=[])


def test_a_selection_names_what_is_there_once() -> None:
    users = view()
    assert users.select("e", "a").names == users["e", "a"].names == ("e", "a")
    with pytest.raises(UnknownName, match="no feature of users named 'aa'; did you mean a"):
        users["aa"]
    with pytest.raises(DuplicateName, match="selected twice"):
        users.select("a", "a")
    with pytest.raises(DefinitionError, match="nothing is selected"):
        users.select()
    with pytest.raises(TypeError, match="no list"):
        list(users)


# -- services ---------------------------------------------------------------------------------------------------------


def test_a_service_reads_views_selections_texts_and_services_once_each() -> None:
    users, shops = view(), view("shops", fb.Feature("risk", float), fb.Feature("age", int), entity=SHOP)
    inner = fb.FeatureService("inner", features=[users["b"], "shops:age"])
    service = fb.FeatureService("fraud", features=[users.select("a"), inner, "users:a", "shops"], owner="ana")
    assert not service.is_bound
    with pytest.raises(DefinitionError, match="by text"):
        _ = service.names
    found = Definitions.of([users, shops, service])
    assert found.service("fraud").names == ("users:a", "users:b", "shops:age", "shops:risk")
    assert found.selected(["fraud", "users:e"]) == ["users:a", "users:b", "shops:age", "shops:risk", "users:e"]
    assert service.spec.about.owner == "ana"
    with pytest.raises(UnknownName, match="feature view or service named 'fraut'; did you mean fraud"):
        found.selected(["fraut"])


def test_a_service_with_an_unknown_name_is_refused_when_collected() -> None:
    for text, says in (("shops", "feature view .* named 'shops'"), ("users:x", "feature of users named 'x'")):
        service = fb.FeatureService("s", features=[text])
        with pytest.raises(UnknownName, match=says):
            Definitions.of([view(), service])
    with pytest.raises(DuplicateName, match="both named 'users'"):
        Definitions.of([view(), fb.FeatureService("users", features=["users"])])
    with pytest.raises(DuplicateName, match="two different views named 'users'"):
        fb.FeatureService("s", features=[view(), view("users", fb.Feature("z", int))])
    with pytest.raises(DefinitionError, match="lists 3"):
        fb.FeatureService("s", features=[3])


def test_a_model_s_columns_are_what_its_services_select() -> None:
    users, shops = view(), view("shops", fb.Feature("risk", float), fb.Feature("age", int), entity=SHOP)
    service = fb.FeatureService("s", features=[shops["age"], users["e"]])
    parts = expand([service, fb.Field("miles", float), users["a"]])
    compiled = compile_service("m", "at", parts, SOURCE.spec)
    assert compiled.names == ("age", "e_0", "e_1", "a", "miles")
    assert [v.name for v in compiled.views] == ["shops", "users"]
    assert all(isinstance(p, ViewSelection | fb.Field) for p in parts)
    with pytest.raises(DuplicateName):
        compile_service("m", "at", expand([users, users]), SOURCE.spec)


# -- reading ----------------------------------------------------------------------------------------------------------


def three() -> tuple[Store, list[FeatureView], FeatureService]:
    users = view()
    ratio = fb.ratio("x", "y", name="part")
    sums = view("sums", fb.Feature("x", float), fb.Feature("y", float), ratio, fb.Feature("z", bool))
    more = view("more", fb.Feature("word", str), fb.Feature("m", fb.Decimal(6, 2)))
    store = Store((users, [(1, 2.0, [3, 4]), (None, None, None)]), (sums, [(1.0, 4.0, True), (1.0, 0.0, None)]),
                  (more, [("w", Decimal("2.50")), (None, Decimal("1.00"))]))  # fmt: skip
    views = [users, sums, more]
    service = compile_service("m", "at", [sums, users, fb.Field("f", float), more["m"]], SOURCE.spec)
    return store, views, service


def test_many_views_are_read_in_one_round_trip() -> None:
    store, _, service = three()
    reader = OnlineReader(store, service)  # type: ignore[arg-type]
    asked = [0, 1, 0, 9, None]
    matrix, statuses = reader.read({"user": asked, "f": [5.0] * 5}, 5, T0)
    assert store.trips == [9]  # three entities of three views; the null key and the repeated one are not asked for
    nan = np.nan
    first = [1, 4, 0.25, 1, 1, 2, 3, 4, 5, 2.5]
    second = [1, 0, nan, nan, nan, -1, nan, nan, 5, 1]
    none = [nan, nan, nan, nan, nan, -1, nan, nan, 5, nan]
    np.testing.assert_array_equal(matrix, [first, second, first, none, none])
    assert service.names == ("x", "y", "part", "z", "a", "b", "e_0", "e_1", "f", "m")
    null, gone = int(Status.NULL), int(Status.MISSING)
    assert statuses.tolist()[1] == [0, 0, null, null, null, null, null, null, 0, 0]
    assert statuses.tolist()[3] == [gone] * 8 + [0, gone]
    for row, user in enumerate(asked):
        one, status = reader.read({"user": [user], "f": [5.0]}, 1, T0)
        np.testing.assert_array_equal(one[0], matrix[row])
        np.testing.assert_array_equal(status[0], statuses[row])
    assert store.trips[1:] == [3, 3, 3, 3]  # and none for the null key


def test_reading_a_remote_store_is_awaited_once() -> None:
    store, _, service = three()
    reader = OnlineReader(store, service)  # type: ignore[arg-type]
    for users in ([0], [0, 1, 7]):
        inputs = {"user": users, "f": [1.0] * len(users)}
        trips = len(store.trips)
        (a, b), (c, d) = reader.read(inputs, len(users), T0), asyncio.run(reader.aread(inputs, len(users), T0))
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        assert len(store.trips) == trips + 2


def test_a_look_up_shows_computed_features_and_keeps_types() -> None:
    store, views, _ = three()
    specs = [v.spec for v in views]
    names = ["sums:part", "users", "more"]
    found = lookup(store, [{"user": 0}, {"user": 1}, {"user": 0}, {"user": None}], specs, names, T0)  # type: ignore[arg-type]
    assert store.trips == [6]
    dicts = found.to_dicts()
    assert [d["part"] for d in dicts] == [0.25, None, 0.25, None]
    assert [str(d["m"]) for d in dicts] == ["2.50", "1.00", "2.50", "None"]
    assert [d["b"] for d in dicts] == [2.0, -1.0, 2.0, -1.0]
    assert [s["part"] for s in found.status()] == [Status.PRESENT, Status.NULL, Status.PRESENT, Status.MISSING]
    again = asyncio.run(Lookup(specs, names).aread(store, [{"user": 0}], T0))  # type: ignore[arg-type]
    assert again.to_dicts()[0]["part"] == 0.25
    with pytest.raises(BadRequest, match="row 1 misses 'user', a key; it has users"):
        lookup(store, [{"user": 1}, {"users": 1}], specs, names, T0)  # type: ignore[arg-type]


def test_requests_with_vectors_and_decimals_fill_their_columns() -> None:
    service = compile_service("m", "at", [fb.Field("v", fb.Vector(2)), fb.Field("d", fb.Decimal(4, 2), required=False)],
                              SOURCE.spec)  # fmt: skip
    reader = OnlineReader(Store(), service)  # type: ignore[arg-type]
    matrix, statuses = reader.read({"v": [[1, 2], None]}, 2, T0)
    np.testing.assert_array_equal(matrix, [[1, 2, np.nan], [np.nan] * 3])
    assert statuses.tolist() == [[0, 0, 3], [1, 1, 3]]
    with pytest.raises(BadRequest, match=r"v in row 0 is \[1\] .*a list of 2 numbers"):
        reader.read({"v": [[1]]}, 1, T0)


def test_texts_and_times_are_refused_in_a_matrix_but_not_in_a_look_up() -> None:
    for kind in (str, bytes, fb.List(int)):
        with pytest.raises(DefinitionError, match="feature 'x' of view 'v' is"):
            compile_service("m", "at", [view("v", fb.Feature("x", kind))], SOURCE.spec)
    assert replace(view("v", fb.Feature("x", str)).spec, ttl=None).features[0].type == "string"
