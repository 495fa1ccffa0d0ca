"""Personal fields in the prediction log: masked, hashed or encrypted, and found again where that is right."""

from __future__ import annotations

import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_kit import Kit, double, infer_body, table, triple

from flyball.errors import InputError
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.records.types import Prediction, Shadow
from flyball.rollout.routing import ServingSpec
from flyball.serving.log.personal import MASK, PersonalKeys, Protector, reveal
from flyball.testing.in_process import client

KEYS = PersonalKeys(b"k" * 32, b"e" * 64)
SERVICE = FeatureService(
    "eta", "at", (ServiceColumn("zone", "field"), ServiceColumn("income", "field"), ServiceColumn("trips", "view", "v")),
    (InputSpec("zone", "int64"), InputSpec("income", "float64")),
)  # fmt: skip


def test_the_key_is_made_once_and_only_for_this_user(tmp_path):
    path = tmp_path / "keys" / "personal.key"
    with ThreadPoolExecutor(8) as pool:
        found = {k.hashing for k in pool.map(lambda _: PersonalKeys.load(path), range(40))}
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["personal.key"]


def test_each_kind_keeps_what_it_says():
    keep = Protector({"income": "mask", "user": "hash", "name": "encrypt"}, KEYS)
    kept = keep.inputs({"income": 12.5, "user": 7, "name": "ann", "zone": 3})
    assert kept["income"] == MASK
    assert kept["user"].startswith("h:")
    assert kept["name"].startswith("e:")
    assert kept["zone"] == 3
    assert "ann" not in str(kept)
    assert reveal(kept, KEYS) == kept | {"name": "ann"}


def test_null_stays_null():
    assert Protector({"user": "hash"}, KEYS).inputs({"user": None}) == {"user": None}


def test_equal_values_give_equal_texts_and_others_do_not():
    assert KEYS.hashed(7) == KEYS.hashed(7.0) == KEYS.hashed([7])
    assert len({KEYS.hashed(v) for v in (7, "7", 8, True, None, "true")}) == 6
    assert KEYS.encrypted("a", 7) == KEYS.encrypted("a", 7)
    assert KEYS.encrypted("a", 7) != KEYS.encrypted("b", 7)


def test_another_key_gives_other_texts():
    other = PersonalKeys(b"j" * 32, b"f" * 64)
    assert KEYS.hashed(7) != other.hashed(7)
    with pytest.raises(InputError, match="another one than when it was written"):
        other.decrypted("a", KEYS.encrypted("a", 7))


def test_a_unit_stays_one_unit():
    for kind in ("hash", "encrypt", "mask"):
        keep = Protector({"unit": kind}, KEYS)
        assert keep.unit("ann") == keep.unit("ann") != keep.unit("bob")
        assert "ann" not in keep.unit("ann")
    assert Protector({"user": "hash"}, KEYS).unit("ann") == "ann"


def test_a_personal_field_goes_out_of_the_features_too():
    row = Protector({"income": "hash"}, KEYS).features(SERVICE, [3.0, 12.5, 4.0])
    assert row[0] == 3.0
    assert row[1] != row[1]
    assert row[2] == 4.0


def test_without_a_key_of_encryption_the_field_is_masked():
    keep = Protector({"name": "encrypt"}, PersonalKeys(b"k" * 32))
    assert keep.inputs({"name": "ann"}) == {"name": MASK}


def test_what_may_stand_for_a_value_is_known():
    keep = Protector({"user": "hash", "name": "encrypt"}, KEYS)
    kept = keep.inputs({"user": 7, "name": "ann"})
    assert kept["user"] in KEYS.forms("user", 7)
    assert kept["name"] in KEYS.forms("name", "ann")


def test_the_log_of_a_gateway_holds_nothing_in_plain(tmp_path):
    keys = PersonalKeys.load(tmp_path / "personal.key", "secret")
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway(personal=lambda: keys)
    spec = ServingSpec(personal={"zone": "hash", "distance": "encrypt", "unit": "hash"})
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), share=0.5, shadow=1.0, serving=spec)))
        for unit in ("ann", "bob", "cyd", "dan"):
            answer = http.post("/v2/models/eta/infer", json=infer_body(2.5, 74321, unit=unit)).json()
            assert answer["outputs"][0]["data"][0] in {5.0, 7.5}
        http.post("/v2/models/eta/infer", json=infer_body(2.5, 74321))
        http.post("/v2/models/eta/infer", json=infer_body(2.5, 74321, unit="ann"))
    records = kit.records()
    predictions = [r for r in records if isinstance(r, Prediction)]
    assert len({r.unit for r in predictions}) == 5  # four named, and one that is its request's id
    assert [r.unit for r in predictions].count(keys.hashed("ann")) == 2
    assert {r.unit for r in records if isinstance(r, Shadow)} <= {r.unit for r in predictions}
    assert any(isinstance(r, Shadow) for r in records)
    assert sum(r.unit == r.id for r in predictions) == 1
    assert all(math.isnan(v) for r in predictions for v in r.features)  # both columns are personal fields
    assert {r.protected for r in predictions} == {"distance,unit,zone"}
    assert reveal(predictions[0].inputs, keys) == {"zone": keys.hashed(74321), "distance": 2.5}
    written = b"".join(p.read_bytes() for p in (tmp_path / "log").rglob("*.seg"))
    assert not any(word in written for word in (b"ann", b"bob", b"74321"))
