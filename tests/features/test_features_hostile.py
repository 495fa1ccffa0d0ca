"""Hostile surroundings: passwords in addresses, damaged ids and access files, names that are paths; nothing leaks or is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from test_online_event_ids import World, trip

import flyball as fb
from flyball.adapters.catalogs import open_catalog
from flyball.adapters.duckdb_raw import relation_shape
from flyball.adapters.event_ids import EventIdIndex
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.postgres_link import Link
from flyball.errors import BadRequest, ConfigError, FlyballError, IntegrityError, SourceError, Unavailable
from flyball.features.shared import Entry, entry_from
from flyball.serving.http.access import AccessFile

PASSWORD = "s3cr3t-pw"
BROKEN = (
    f"postgresql://u:{PASSWORD}@[::1/x",
    f"postgresql://u:{PASSWORD}%zz@h/x",
    f"postgresql://u:{PASSWORD}@127.0.0.1:1/x",
)
FILES = (f"ftp://u:{PASSWORD}@127.0.0.1:1/x", f"nope://u:{PASSWORD}@127.0.0.1/x")


@pytest.mark.parametrize("url", BROKEN + FILES)
def test_no_error_of_the_catalog_shows_the_password_of_its_address(url: str) -> None:
    with pytest.raises(FlyballError) as caught:
        open_catalog(url, Path(), str).entries()  # type: ignore[union-attr]
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", BROKEN)
def test_no_error_of_the_online_store_shows_the_password_of_its_address(url: str) -> None:
    with pytest.raises((Unavailable, ConfigError)) as caught:
        Link.open(url)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("part", ["source", "entity"])
def test_a_published_view_whose_names_are_paths_is_refused(part: str) -> None:
    import msgspec

    source = fb.ParquetSource("trips", "/data/trips.parquet", event_time="at")
    zone = fb.Entity("zone", keys={"zone": int})
    spec = fb.FeatureView("traffic", entity=zone, source=source, features=[fb.count("n", window="1h")]).spec
    spec = replace(spec, **{part: replace(getattr(spec, part), name="../../evil")})
    data = msgspec.json.encode(Entry("traffic", spec.digest, "one", 1, spec))
    with pytest.raises(IntegrityError, match="is no name"):
        entry_from(data, spec.digest, "traffic")


def test_events_that_an_older_copy_of_the_log_lacks_are_taken_again(tmp_path: Path) -> None:
    """Who puts the log back from a backup and sends everything again has everything again."""
    world = World(tmp_path)
    world.ingest.push("trips", [trip(f"e{k}") for k in range(5)])
    world.close()
    for path in (tmp_path / "log").glob("*.seg"):
        path.unlink()
    world = World(tmp_path)
    assert world.ingest.push("trips", [trip(f"e{k}") for k in range(5)]).accepted == 5
    assert world.log.last() == 5
    world.close()


_OPEN = "import sys; from pathlib import Path; from flyball.adapters.event_ids import EventIdIndex as I; {}"


def test_an_index_of_event_ids_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    index = EventIdIndex(tmp_path / "ids", horizon=1)
    index.add("s", [b"%016d" % k for k in range(5_000)], range(1, 5_001), 1)
    index.close()
    data = tmp_path / "ids" / "1" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 3 * 4096])
    look = f"i = I(Path({str(tmp_path / 'ids')!r}), horizon=1); print(i.find([b'%016d' % 7]), i.covered('s'))"
    found = subprocess.run([sys.executable, "-c", _OPEN.format(look)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "[0] 0\n")  # a bus error would end the process


@pytest.mark.parametrize("damaged", [b'{"keys":{"\xff":"admin"}}', b"[" * 100_000, b"{", b"null", b""])
def test_a_damaged_access_file_lets_nobody_in_and_is_no_crash(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "access.json"
    path.write_bytes(damaged)
    with pytest.raises(BadRequest) as caught:
        AccessFile(path).current.grant(b"", None)
    assert caught.value.status == 401


def _compacted(folder: Path) -> Path:
    """Give a log of one closed stretch, its online store lost."""
    world = World(folder)
    world.ingest.push("trips", [trip(f"e{k}") for k in range(50)])
    assert world.log._writer is not None
    world.log._writer.close()
    world.log.compact()
    world.close()
    shutil.rmtree(folder / "online")
    (parts,) = (folder / "log").glob("*.parts")
    return parts


@pytest.mark.parametrize("name", ["0.parquet", "index.json"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "changed", "null"])
def test_a_damaged_part_of_the_log_stops_the_writer_and_is_named(tmp_path: Path, name: str, how: str) -> None:
    """Not skipped, not read for ever: a replay without it would miss rows in silence."""
    damaged = _compacted(tmp_path) / name
    data = damaged.read_bytes()
    if how == "gone":
        damaged.unlink()
    else:
        broken = {"empty": b"", "cut": data[:-50], "changed": b"\xff" * len(data), "null": b"null"}[how]
        damaged.write_bytes(broken)
    with pytest.raises(IntegrityError, match=rf"{name} of the ingest log is damaged"):
        World(tmp_path)
    if how != "gone":
        damaged.write_bytes(data)
        assert FileIngestLog(tmp_path / "log").read("trips").num_rows == 50
    if how != "gone" and name == "index.json":  # the lock went with the failed attempt
        world = World(tmp_path)
        assert world.count() == 50
        world.close()


@pytest.mark.parametrize(
    "query", ["{q}) ; COPY (SELECT 1) TO '{out}'; SELECT * FROM ({q}", "{q}; {q}", "COPY ({q}) TO '{out}'"]
)
def test_a_query_that_is_not_one_query_runs_nothing(tmp_path: Path, query: str) -> None:
    """An imported view's query is another project's text: it reads, and does nothing else."""
    plain = "SELECT 1 AS zone, TIMESTAMP '2026-01-01' AS moment"
    out = tmp_path / "out.csv"
    source = fb.SQLSource("q", query.format(q=plain, out=out), event_time="moment")
    with pytest.raises(SourceError, match="its query"):
        relation_shape(source.spec, tmp_path, 1)
    assert not out.exists()
    commented = fb.SQLSource("q", plain + " -- of the year", event_time="moment")
    assert list(relation_shape(commented.spec, tmp_path, 1).fields) == ["zone", "moment"]


def test_an_address_to_attach_shows_no_password(tmp_path: Path) -> None:
    url = f"nosuch:host=h password={PASSWORD}"
    source = fb.TableSource("t", database=url, event_time="at")
    with pytest.raises(SourceError) as caught:
        relation_shape(source.spec, tmp_path, 1)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
