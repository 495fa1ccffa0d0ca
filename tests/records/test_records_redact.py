"""Records are taken out of segments in place: offsets stay, others stay, a kill in the middle is mended."""

from __future__ import annotations

import os
import random

import pytest

from flyball.records import redact as redaction
from flyball.records.log import follow
from flyball.records.redact import recover, redact
from flyball.records.segment import SegmentWriter, read_frames
from flyball.records.types import Erased, Outcome, Prediction, decode, encode


def prediction(k: int, user: int, size: int) -> Prediction:
    return Prediction(
        f"p{k}", "eta", "v1", "champion", 1, f"u{user}", k, {"user": user, "x": "y" * size}, [1.0], b"\0", 2.0
    )


def written(folder, seed=0, frames=60):
    rng = random.Random(seed)
    writer = SegmentWriter(folder / "w0", rotate_bytes=4000)
    k = 0
    for _ in range(frames):
        records = []
        for _ in range(rng.randint(1, 5)):
            records.append(prediction(k, rng.randint(1, 4), rng.choice([0, 3, 200, 250, 300, 66_000])))
            k += 1
        records.append(Outcome(f"p{k - 1}", 1.0, 2, 3))
        writer.append(encode(records))
    return writer


def of_user(user):
    return lambda r: isinstance(r, Prediction) and r.inputs.get("user") == user


def frames_of(folder):
    return {(p.name, f.start, f.end): decode(f.payload) for p in sorted(folder.glob("*/*.seg")) for f in read_frames(p)}


@pytest.mark.parametrize("seed", range(5))
def test_only_what_is_meant_goes_and_every_offset_stays(tmp_path, seed):
    writer = written(tmp_path, seed)
    before = frames_of(tmp_path)
    found = redact(tmp_path, of_user(2))
    after = frames_of(tmp_path)
    assert after.keys() == before.keys()
    for place, records in before.items():
        rest = [r for r in after[place] if not isinstance(r, Erased)]
        assert rest == [r for r in records if not of_user(2)(r)]
    assert found.records == sum(of_user(2)(r) for records in before.values() for r in records) > 0
    assert redact(tmp_path, of_user(2)).records == 0
    writer.close()


def test_every_length_that_a_record_can_have_is_filled(tmp_path):
    for size in (*range(80), *range(180, 270), *range(65_480, 65_560)):
        payload = encode([prediction(1, 2, size), Outcome("p", 1.0, 2, 3)])
        assert len(redaction._same_length([Outcome("p", 1.0, 2, 3)], len(payload))) == len(payload)


def test_a_writer_goes_on_appending_and_a_reader_goes_on_from_its_cursor(tmp_path):
    writer = written(tmp_path)
    cursor: dict[str, int] = {}
    follow(tmp_path, cursor)
    redact(tmp_path, of_user(1))
    writer.append(encode([prediction(999, 7, 3)]))
    assert [r.id for b in follow(tmp_path, cursor) for r in b.records] == ["p999"]
    writer.close()


@pytest.mark.parametrize("killed_at", [0, 1, 7])
def test_a_kill_while_writing_is_mended(tmp_path, monkeypatch, killed_at):
    written(tmp_path).close()
    before = frames_of(tmp_path)
    calls = 0
    real = os.pwrite

    def kill(fd, data, offset):
        nonlocal calls
        calls += 1
        if calls > killed_at:
            real(fd, bytes(data)[:9], offset)  # a torn frame
            raise KeyboardInterrupt
        return real(fd, data, offset)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "pwrite", kill)
        redact(tmp_path, of_user(3))
    assert recover(tmp_path)
    redact(tmp_path, of_user(3))
    after = frames_of(tmp_path)
    assert after.keys() == before.keys()
    assert not any(of_user(3)(r) for records in after.values() for r in records)
    assert not recover(tmp_path)


def test_bytes_of_the_subject_are_gone_from_the_files(tmp_path):
    writer = SegmentWriter(tmp_path / "w0")
    writer.append(
        encode([Prediction("p1", "m", "v1", "champion", 1, "ada", 1, {"user": "ada lovelace"}, [], b"", 1.0)])
    )
    writer.close()
    redact(tmp_path, lambda r: True)
    assert b"ada" not in next(tmp_path.glob("*/*.seg")).read_bytes()
