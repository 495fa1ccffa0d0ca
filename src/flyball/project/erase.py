"""`project.features.erase`: take a subject out of everything flyball keeps, and prove it.

Order matters. Training sets go first, because their rows are found by way of the source's; then the prediction log, the
online rows and the ingest log, quarantine and frames, at last the user's own files when that is asked for. Each step
does nothing the second time, so an erasure that was killed is simply given again. Meanwhile every view is claimed as a
build claims it, so that no build which read the rows before writes them after. The surprise: the proof and the audit
trail name the subject by a keyed hash only; a list of everyone who was erased would undo the erasing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.datasets.erase import ExampleRefs, erased_copy
from flyball.datasets.types import DatasetManifest
from flyball.errors import ConflictError, FlyballError
from flyball.features.erase import Subject, concerns, long_keys, mask, matching_keys, raw_mask, subject_of
from flyball.features.packing import namespace
from flyball.features.spec import SourceSpec
from flyball.project.erase_log import erase_predictions
from flyball.project.erase_owner import Owner
from flyball.project.proof import Erasure, Place, added, keyed_hash, same
from flyball.project.views import defined_sources, defined_views
from flyball.records.types import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.definitions import Model
    from flyball.project.root import Project

__all__ = ["Erasure", "Place", "erase"]

_PATIENCE = 60.0  # seconds to wait for builds that run


def erase(
    project: Project, subject: Mapping[str, Any], *, dry_run: bool = False, rewrite_sources: bool = False
) -> Erasure:
    """Erase a subject and return the proof.

    Raises:
        UnknownName: no entity has such a key.
        InputError: a value is null or of another type than its key.
        ConflictError: another process writes the online store and cannot be asked to.
    """
    return _Work(project, subject, dry_run=dry_run, rewrite=rewrite_sources).run()


@dataclass(slots=True)
class _Notes:
    """What an erasure did so far; survives a kill."""

    places: list[Place] = field(default_factory=list)


class _Work:
    """One erasure."""

    def __init__(self, project: Project, given: Mapping[str, Any], *, dry_run: bool, rewrite: bool) -> None:
        self.project = project
        self.views = defined_views(project)
        self.subject: Subject = subject_of(given, self.views)
        self.mine = Owner(project, self.subject, self.views)
        self.sources = defined_sources(project, self.views)
        self.dry_run = dry_run
        self.rewrite = rewrite
        self.remaining: list[str] = []
        self.hash = keyed_hash(project.layout.state / "keys" / "erasure.key", self.mine.plain())

    def run(self) -> Erasure:
        project, started = self.project, self.project.clock.now()
        number, kept = (0, {}) if self.dry_run else project.database.erasures.begin(self.hash, started)
        notes = msgspec.convert(kept.get("notes", {}), _Notes)
        found: list[Place] = []
        with nullcontext() if self.dry_run else self._claimed():
            for step in self._steps():
                some = list(step())
                if not self.dry_run:
                    some = added(notes.places, some)
                    notes.places = [p for p in notes.places if not any(same(p, q) for q in some)] + some
                    project.database.erasures.note(number, {"notes": msgspec.to_builtins(notes)})
                found += some
        self._forget()
        rebuilt = () if self.dry_run else tuple(self._rebuild(found))
        found = found if self.dry_run else [self._looked_again(place) for place in notes.places]
        self._wipe()
        self._warn()
        proof = Erasure(
            self.hash, started, project.clock.now(), self.dry_run, tuple(found), tuple(self.remaining), rebuilt
        )
        if not self.dry_run:
            body = msgspec.to_builtins(proof)
            project.database.erasures.note(number, body, done=True)
            facts = {"removed": proof.removed, "clean": proof.clean, "remaining": len(proof.remaining), "proof": number}
            project.database.audit.record(proof.finished, "cli", "erased", self.hash[:16], facts)
        return proof

    def _steps(self) -> list[Callable[[], Iterable[Place]]]:
        return [self._datasets, self._predictions, self._stored, self._quarantine, self._files]

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Keep builds of all views away, waiting for those that run; remove what a killed one left."""
        from flyball.adapters.upkeep import FolderUpkeep

        upkeep, patience = FolderUpkeep(self.project.layout.state), time.monotonic() + _PATIENCE
        with ExitStack() as held:
            for view in sorted(self.views, key=lambda v: v.digest):
                while True:
                    try:
                        held.enter_context(upkeep.claim(view))
                        break
                    except ConflictError:
                        if time.monotonic() > patience:
                            raise
                        time.sleep(0.05)
                shutil.rmtree(upkeep.spill(view), ignore_errors=True)
            yield

    def _forget(self) -> None:
        """Have all engines read again what was rewritten, those of other processes too."""
        for source in self.sources:
            self.project.engine.forget(source.name)
        if not self.dry_run:
            self.project.layout.ingest.mkdir(parents=True, exist_ok=True)
            (self.project.layout.ingest / "erased").touch()

    # -- training sets --------------------------------------------------------------------------------------------

    def _datasets(self) -> Iterator[Place]:
        for manifest in self._manifests():
            refs = self._refs(manifest)
            if refs is None:
                continue
            gone, new = erased_copy(manifest, self.project.layout, refs, write=not self.dry_run)
            if new.digest != manifest.digest:
                self.project.database.datasets.supersede(manifest.digest, new)
            yield Place("training sets", manifest.model, gone, was=manifest.digest, now=new.digest if gone else "")
        if not self.dry_run:
            self._sweep()

    def _manifests(self) -> Iterator[DatasetManifest]:
        store, layout = self.project.database.datasets, self.project.layout
        for model in {*self.project.applied.models, *self.project.database.versions.models()}:
            for manifest in store.list(model):
                if not manifest.superseded_by and (layout.datasets / f"{manifest.digest}.parquet").exists():
                    yield manifest

    def _sweep(self) -> None:
        """Remove the files of superseded sets, of a killed erasure too."""
        for model in {*self.project.applied.models, *self.project.database.versions.models()}:
            for manifest in self.project.database.datasets.list(model):
                if manifest.superseded_by and manifest.superseded_by != manifest.digest:
                    (self.project.layout.datasets / f"{manifest.digest}.parquet").unlink(missing_ok=True)

    def _refs(self, manifest: DatasetManifest) -> ExampleRefs | None:
        """Return the source rows of the subject among a set's examples, None where they cannot be its."""
        model = self._model(manifest)
        if manifest.join == "as_served":
            return self._served_refs(manifest, model)
        if model is None or model.examples.source is None:
            self._remain(
                f"training set {manifest.digest[:12]} of {manifest.model}: its definitions are gone; remove it"
            )
            return None
        source = model.examples.source.spec
        rows = self._rows(source)
        if rows is None:
            return None
        units = self._units(model)
        event, sequence = (rows.column(n).to_numpy() for n in ("__event", "__sequence"))
        return ExampleRefs.of(event, sequence, mask(rows, self.subject), units)

    def _served_refs(self, manifest: DatasetManifest, model: Model | None) -> ExampleRefs:
        """Return the subject's rows of a set that was made of the prediction log, by the log and by its unit."""
        from flyball.datasets.files import open_dataset

        mine, known = self._requests
        held = open_dataset(manifest, self.project.layout).table.column("__sequence").to_numpy()
        gone = int((~np.isin(held, known)).sum())
        if gone:
            self._remain(
                f"training set {manifest.digest[:12]} of {manifest.model}: the prediction log no longer holds the "
                f"requests of {gone} of its rows, so they are only searched by unit; remove it if the subject may be "
                f"among them"
            )
        units = [] if model is None else self._units(model)
        forms = [form for unit in units for form in self.project.personal_keys().forms("unit", unit)]
        return ExampleRefs(set(), set(), frozenset([*units, *forms]), mine)

    @cached_property
    def _requests(self) -> tuple[frozenset[int], np.ndarray]:
        """The sequences by which training sets know the subject's predictions, and all predictions of the log."""
        from flyball.datasets.served import sequence_of

        mine, known = set(), []
        for record in self.project.log.records():
            if isinstance(record, Prediction):
                known.append(sequence_of(record.id))
                if self.mine.owns(record):
                    mine.add(known[-1])
        return frozenset(mine), np.array(known, dtype=np.int64)

    def _units(self, model: Model) -> list[str]:
        unit = model.examples.unit
        return [str(self.subject[unit])] if unit in self.subject and len(self.subject) == 1 else []

    def _model(self, manifest: DatasetManifest) -> Model | None:
        for code in dict.fromkeys([manifest.code, ""]):
            try:
                known = self.project.definitions_of(code) if code else self.project.applied
            except (FlyballError, OSError, ImportError):
                continue
            if manifest.model in known.models:
                return known.models[manifest.model]
        return None

    def _rows(self, source: SourceSpec) -> pa.Table | None:
        """Return all accepted rows of a source with the subject's keys, None when it lacks one of them."""
        try:
            if not self.subject.keys() <= self.project.engine.types(source).keys():
                return None
            return self.project.engine.scan(source, columns=list(self.subject))
        except FlyballError as error:
            self._remain(f"source {source.name} cannot be read ({error}); search it yourself")
            return None

    # -- prediction log -------------------------------------------------------------------------------------------

    def _predictions(self) -> Iterator[Place]:
        if self.project.settings.log.kafka:
            self._remain("the copy of the prediction log on Kafka: erase it there, or let its retention pass")
        yield from erase_predictions(self.project, self.mine.owns, dry_run=self.dry_run)

    # -- ingest log and online rows -------------------------------------------------------------------------------

    def _stored(self) -> Iterator[Place]:
        found = self.project.features.erase_stored(
            self.mine.plain(), self.views, self.sources, known=self._long_keys(), dry_run=self.dry_run
        )
        for name, count in found.log.items():
            yield Place("ingest log", name, count)
        for name, count in found.ids.items():
            yield Place("event ids", name, count)
            if count:
                self._remain(
                    f"events of source {name}: whoever delivers the subject's events again brings them back; stop it"
                )
        for digest, count in found.online.items():
            view = next(v for v in self.views if v.digest == digest)
            yield Place("online store", f"{view.name} {digest}", count)

    def _long_keys(self) -> dict[str, list[bytes]]:
        """Return, by view digest, the subject's keys that only its rows tell, as they are stored by digest."""
        found = {}
        for view in self.views:
            names = [k.name for k in view.entity.keys]
            if not concerns(view.entity, self.subject) or self.subject.keys() == set(names):
                continue
            try:
                rows = self.project.engine.scan(view.source, columns=names)
            except FlyballError:
                continue
            import pyarrow as pa

            store, prefix = self.project.features._store(), namespace(view.digest)
            mine = rows.filter(pa.array(mask(rows, self.subject)))
            found[view.digest] = matching_keys(store, view, self.subject, mine)
            orphans = set(store.keys(prefix + b"h")) - {prefix + key for key in long_keys(view.entity, rows)}
            if orphans:
                self._remain(
                    f"view {view.name} {view.digest}: {len(orphans)} long keys of rows that are no more do not show "
                    f"whose they are; build it again: flyball materialize {view.name} --full"
                )
        return found

    # -- files ----------------------------------------------------------------------------------------------------

    def _quarantine(self) -> Iterator[Place]:
        folder = self.project.layout.state / "quarantine"
        for path in sorted(folder.glob("*/*.parquet")):
            source = next((s for s in self.sources if s.name == path.parent.name), None)
            gone = self._file(path, source)
            yield Place("quarantine", f"{path.parent.name}/{path.name}", gone)

    def _files(self) -> Iterator[Place]:
        from flyball.features.reading.files import source_files

        state = self.project.layout.state
        for source in self.sources:
            if source.kind in {"table", "query"}:
                if self._rows_of(source):
                    self._remain(f"source {source.name}: its rows lie in a database of yours; delete them there")
                continue
            for file in source_files(self.project.root, source, state):
                if file.is_remote:
                    if self._rows_of(source):
                        self._remain(f"source {source.name}: {file.name} is not on this machine; rewrite it there")
                elif source.kind == "frame":
                    yield from self._frame(Path(file.place), source)
                else:
                    yield from self._source_file(Path(file.place), file.name, source)

    def _source_file(self, path: Path, name: str, source: SourceSpec) -> Iterator[Place]:
        if self.rewrite:
            was = _digest(path)
            gone = self._file(path, source)
            yield Place("source files", name, gone, was=was if gone else "", now=_digest(path) if gone else "")
            return
        try:
            rows = self._file(path, source, count_only=True)
        except (OSError, ValueError) as error:
            self._remain(f"source {source.name}: {name} cannot be searched ({error}); look into it yourself")
            return
        if rows:
            self._remain(
                f"source {source.name}: {rows} rows in {name}, your own file; take them out with --rewrite-sources, "
                "else a rebuild of a view brings them back online"
            )

    def _frame(self, path: Path, source: SourceSpec) -> Iterator[Place]:
        """Write a kept frame again; its name, the digest of what was handed over, stays."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from flyball.features.manifest import write_sorted

        table = pq.read_table(path)
        gone = raw_mask(source, table, self.subject)
        was = _digest(path)
        if gone.any() and not self.dry_run:
            write_sorted(table.filter(pa.array(~gone)), path, by=(source.event_time,))
        yield Place("frames", source.name, int(gone.sum()), was=was if gone.any() else "", now=_digest(path))
        if gone.any():
            self._remain(f"frame of source {source.name}: whoever hands it over still has these rows")

    def _file(self, path: Path, source: SourceSpec | None, *, count_only: bool = False) -> int:
        from flyball.adapters.erase_files import count_rows, rewrite_file

        def mine(table: pa.Table) -> np.ndarray:
            return mask(table, self.subject) if source is None else raw_mask(source, table, self.subject)

        return count_rows(path, mine) if self.dry_run or count_only else rewrite_file(path, mine)

    def _rows_of(self, source: SourceSpec) -> int:
        rows = self._rows(source)
        return 0 if rows is None else int(mask(rows, self.subject).sum())

    # -- afterwards -----------------------------------------------------------------------------------------------

    def _rebuild(self, found: Sequence[Place]) -> Iterator[str]:
        """Build views again: of other entities, whose answers still counted the subject's rows, and over new files.

        Not those in which the subject would come back, because its rows remain in files of the user's.
        """
        from flyball.adapters.local.views import read_views

        touched = {p.name for p in found if p.removed and p.kind in {"ingest log", "frames"}}
        files = any(p.removed for p in found if p.kind == "source files")
        attached = {v.digest for v in (*self.project.applied.view_specs, *read_views(self.project.layout))}
        for view in self.views:
            affected = view.source.name in touched or (files and self._has_file(view.source, found))
            returns = concerns(view.entity, self.subject) and self._left_in(view.source)
            if view.digest in attached and affected and not returns:
                self.project.features.fill(view, full=True)
                yield view.name

    def _has_file(self, source: SourceSpec, found: Sequence[Place]) -> bool:
        from flyball.features.reading.files import source_files

        names = {f.name for f in source_files(self.project.root, source, self.project.layout.state)}
        return any(p.kind == "source files" and p.removed and p.name in names for p in found)

    def _left_in(self, source: SourceSpec) -> bool:
        return any(text.startswith(f"source {source.name}:") for text in self.remaining)

    def _looked_again(self, place: Place) -> Place:
        """Search a place once more."""
        if place.kind not in self._seen:
            again = self._again
            steps = {
                "training sets": again._datasets, "prediction log": again._predictions, "ingest log": again._stored,
                "online store": again._stored, "event ids": again._stored, "quarantine": again._quarantine,
            }  # fmt: skip
            self._seen[place.kind] = list(steps.get(place.kind, again._files)())
        found = self._seen[place.kind]
        return replace(place, left=sum(p.removed for p in found if (p.kind, p.name) == (place.kind, place.name)))

    @cached_property
    def _seen(self) -> dict[str, list[Place]]:
        return {}

    @cached_property
    def _again(self) -> _Work:
        return _Work(self.project, self.mine.plain(), dry_run=True, rewrite=self.rewrite)

    def _wipe(self) -> None:
        """Have the online store forget the bytes of what was deleted, or say that they are there still."""
        kind, path = self.project.settings.online.store, self.project.layout.online
        if self.dry_run or (kind == "lmdb" and not path.exists()):
            return
        if kind == "lmdb":
            compact = getattr(self.project.features._store(), "compact", None)
            if compact is not None and not compact():
                self._remain(
                    "free pages of the online store may still hold erased keys as bytes that no read returns, because "
                    "other processes have it open; it is written anew when the first one opens it after all have "
                    "ended: flyball down, then flyball up"
                )
        elif kind == "postgres":
            self._remain("PostgreSQL keeps erased rows as dead tuples, and in its WAL; run VACUUM FULL on its tables")
        else:
            self._remain("Redis may keep erased keys in its append-only file until it is rewritten: BGREWRITEAOF")

    def _warn(self) -> None:
        """Say what cannot be taken back: versions that learned from the subject's rows."""
        superseded = {
            m.digest
            for model in self.project.database.versions.models()
            for m in self.project.database.datasets.list(model)
            if m.superseded_by
        }
        for model in self.project.database.versions.models():
            for version in self.project.database.versions.list(model):
                if version.dataset in superseded:
                    self._remain(
                        f"{model} {version.version} learned from a training set that has been superseded; "
                        f"train a new version to replace it: flyball run --model {model}"
                    )
                    self._remain(
                        f"{model} {version.version}: sample.npy of its artifact (and of its mirror in MLflow) holds up "
                        "to 256 feature rows without keys, the subject's may be among them; reference.bin holds counts "
                        "and sums by bin only. They go with the artifact, once a new version serves"
                    )
        online = self.project.settings.online
        if online.store != "lmdb" and online.stale_limit:
            self._remain(
                f"workers may answer with values read before for {online.stale_limit} while {online.store} is away"
            )

    def _remain(self, text: str) -> None:
        if text not in self.remaining:
            self.remaining.append(text)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(file.read()).hexdigest()[:16]
