"""Personal fields in the prediction log: masked, hashed or encrypted, and found again where that is right."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from flyball.errors import InputError
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.serving.personal import MASK, PersonalKeys, Protector, reveal

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
