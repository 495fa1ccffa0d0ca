"""`flyball apply`: make the working definitions live.

Order matters: the code snapshot and the new views' rows come first, the record that makes them live last, so that an
apply that is killed in the middle changes nothing and can simply be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from flyball.errors import ConflictError, DefinitionError, Refused, SourceError, UnknownName
from flyball.features.difference import FieldChange, breaks, difference
from flyball.features.spec import ViewSpec, digest_of
from flyball.project.access import write_access
from flyball.project.readers import Reader, readers_of
from flyball.project.routing import apply_routing
from flyball.project.shared import Sharing, publish, sharing
from flyball.project.views import in_use

if TYPE_CHECKING:
    from flyball.definitions import Definitions, Model
    from flyball.project.root import Project

__all__ = ["Change", "Plan", "apply", "check_columns", "plan"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the working and the applied definitions.

    Of a view: `fields` that differ, `readers` (models and versions that read it), what of it `breaks` whom, and
    whether its online rows are built anew (`rebuilds`); the old rows stay beside them while a version reads them.
    """

    kind: Literal["view", "model", "flag", "experiment", "code"]
    name: str
    action: Literal["add", "change", "remove"]
    text: str
    fields: tuple[FieldChange, ...] = ()
    readers: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    rebuilds: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` changes, or changed."""

    code: str
    changes: tuple[Change, ...]
    filled: tuple[str, ...] = ()  # views whose rows were built
    sharing: Sharing = Sharing()  # what goes to the shared catalog

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return bool(self.changes)

    @property
    def breaking(self) -> tuple[str, ...]:
        """What breaks whom, one sentence each."""
        return tuple(f"view {c.name}: {text}" for c in self.changes for text in c.breaks)


def plan(project: Project) -> Plan:
    """Compare the working definitions with the applied ones."""
    from flyball.project.runs import working_code

    code = working_code(project)
    record = None if project.is_temporary else project.database.deployments.applied()
    old = None if record is None else project.definitions_of(record.code)
    new = project.working
    _require_something(project)
    readers = {} if old is None else readers_of(project, old, new)
    changes = [*_view_changes(project, old, new, readers), *_model_changes(old, new), *_flag_changes(old, new)]
    changes += _experiment_changes(project, old, new)
    if record is not None:
        changes += _never_built(project, new.view_specs, {c.name for c in changes if c.kind == "view"})
    if record is not None and record.code != code and not changes:
        changes.append(Change("code", "project", "change", "only code changed, in some Python file of the project"))
    return Plan(code, tuple(changes), sharing=sharing(project))


def apply(project: Project, *, progress: Progress | None = None, force: bool = False) -> Plan:
    """Apply and return what changed; `force` applies a breaking change, and the audit trail says so.

    Raises:
        Refused: a version that serves or may, or a model's definition, reads what a change takes away.
        DefinitionError: nothing is defined, or a definition does not make sense.
        SourceError: a source is missing, empty, or lacks a column; nothing is applied.
        ConflictError: a view's name belongs to another project in the shared catalog; nothing is applied.
    """
    from flyball.project.runs import snapshot_working

    proposed = plan(project)
    if proposed.sharing.refused:
        raise ConflictError("; ".join(proposed.sharing.refused))
    specs = project.working.view_specs
    check_columns(project)
    if proposed.breaking and not force:
        raise Refused(
            f"this apply breaks what is read: {'; '.join(proposed.breaking)}. Keep the old definition beside the new "
            "one under another name, or apply it all the same with: flyball apply --force"
        )
    code = snapshot_working(project)
    record = None if project.is_temporary else project.database.deployments.applied()
    filled = _fill(project, specs, () if record is None else record.views, progress)
    now = project.clock.now()
    if not project.is_temporary:
        names = ",".join(sorted(project.working.models))
        project.database.deployments.record_applied(code, now, specs, definitions=names, actor="cli")
        facts = {"changes": [c.text for c in proposed.changes], "forced": list(proposed.breaking)}
        project.database.audit.record(now, "cli", "applied", code, facts)
    for source in project.working.sources.values():  # from here on a file with other types is an error
        project.engine.pin(source)
    project.features.attach(in_use(project, specs))
    if not project.is_temporary:
        write_access(project)
    apply_routing(project, project.working)
    return Plan(code, proposed.changes, tuple(filled), publish(project, proposed.sharing))


def _require_something(project: Project) -> None:
    if not (project.working.models or project.working.views or project.working.flags or project.working.experiments):
        where = project.root / project.settings.project.definitions
        raise DefinitionError(
            f"{where} defines neither a model nor a feature view; an example is made by: flyball init --template eta"
        )


def check_columns(project: Project) -> None:
    """Raise SourceError unless every source can be read and has the columns that views and models need of it."""
    definitions = project.working
    _require_something(project)
    for name, source in definitions.sources.items():
        types = project.engine.types(source, fresh=True)
        for spec in definitions.view_specs:
            if spec.source.name == name:
                _check_view(spec, types)
        for model in definitions.models.values():
            if model.examples.source is not None and model.examples.source.spec.name == name:
                wanted = {model.examples.at, model.label.column} - {derived for derived, _ in model.examples.derive}
                _require(f"model {model.name!r}", name, wanted, types)


def _check_view(spec: ViewSpec, types: Mapping[str, str]) -> None:
    keys = {key.name: key.type for key in spec.entity.keys}
    _require(f"view {spec.name!r}", spec.source.name, {*keys, *(f.of for f in spec.features if f.of)}, types)
    for key, kind in keys.items():
        if types[key] != kind:
            raise SourceError(
                f"view {spec.name!r}: key {key!r} is {kind}, but source {spec.source.name!r} has {types[key]}; "
                f"declare Entity({spec.entity.name!r}, keys=...) with the type of the column"
            )


def _require(who: str, source: str, wanted: set[str], types: Mapping[str, str]) -> None:
    for name in sorted(wanted - types.keys()):
        raise SourceError(f"{who} needs column {name!r} of source {source!r}: {UnknownName.of('column', name, types)}")


def _fill(
    project: Project, specs: tuple[ViewSpec, ...], before: tuple[ViewSpec, ...], progress: Progress | None
) -> list[str]:
    """Attach the views beside those applied before, and build the rows of those that were never built."""
    digests = {spec.digest for spec in specs}
    project.features.attach(in_use(project, [*(v for v in before if v.digest not in digests), *specs]))
    filled = []
    for spec in specs:
        if project.features.is_filled(spec):
            continue
        tell = None if progress is None else (lambda done, total, name=spec.name: progress(name, done, total))
        project.features.fill(spec, progress=tell)
        filled.append(spec.name)
    return filled


def _never_built(project: Project, specs: Sequence[ViewSpec], told: set[str]) -> list[Change]:
    """Name views that are as they were applied, but whose online rows are not there: an apply builds them."""
    return [
        Change("view", v.name, "change", f"view {v.name}: its online rows were never built; they are", rebuilds=True)
        for v in specs
        if v.name not in told and not project.features.is_filled(v)
    ]


def _view_changes(
    project: Project, old: Definitions | None, new: Definitions, readers: Mapping[str, list[Reader]]
) -> list[Change]:
    before = {} if old is None else {v.name: v for v in old.view_specs}
    after = {v.name: v for v in new.view_specs}
    changes = [
        Change("view", n, "add", f"view {n} is new ({len(after[n].features)} features)", rebuilds=True)
        for n in after.keys() - before.keys()
    ]
    for name, view in before.items():
        change = _view_change(view, after.get(name), readers.get(name, []), _lost_column(project, view))
        if change is not None:
            changes.append(change)
    return sorted(changes, key=lambda c: c.name)


def _view_change(old: ViewSpec, new: ViewSpec | None, readers: Sequence[Reader], lost: str | None) -> Change | None:
    """Return what becomes of an applied view, None when nothing does."""
    found = difference(old, new) if new is not None else ()
    broken = [(b.text, [r.name for r in readers if r.reads(b.features)]) for b in breaks(old, new)]
    if lost is not None:
        broken.append((lost, [r.name for r in readers]))
    texts = tuple(f"{text}, which breaks {', '.join(names)}" for text, names in broken if names)
    names = tuple(r.name for r in readers)
    if new is None:
        return Change("view", old.name, "remove", f"view {old.name} is gone", (), names, texts)
    if old.digest != new.digest:
        text = f"view {old.name}: {_view_difference(old, new)}"
        return Change("view", old.name, "change", text, found, names, texts, rebuilds=True)
    if not found and not texts:
        return None
    what = ", ".join(f.field for f in found) or "nothing"
    return Change(
        "view", old.name, "change", f"view {old.name}: {what} changed; nothing is rebuilt", found, names, texts
    )


def _lost_column(project: Project, view: ViewSpec) -> str | None:
    """Say what an applied view no longer finds in its source, None when it finds all."""
    try:
        _check_view(view, project.engine.types(view.source, fresh=True))
    except SourceError as error:
        return str(error)
    return None


def _view_difference(old: ViewSpec, new: ViewSpec) -> str:
    """Name the parts that differ; the new digest gets its own rows beside the old ones."""
    names = [f for f in ("entity", "source", "ttl", "features") if getattr(old, f) != getattr(new, f)]
    return f"{', '.join(names)} changed; {old.digest} -> {new.digest}"


def _model_changes(old: Definitions | None, new: Definitions) -> list[Change]:
    before = {} if old is None else dict(old.models)
    changes = [Change("model", n, "add", f"model {n} is new") for n in sorted(new.models.keys() - before.keys())]
    changes += [Change("model", n, "remove", f"model {n} is gone") for n in sorted(before.keys() - new.models.keys())]
    for name in sorted(before.keys() & new.models.keys()):
        differing = _model_difference(before[name], new.models[name])
        if differing:
            changes.append(Change("model", name, "change", f"model {name}: {', '.join(differing)} changed"))
    return changes


def _flag_changes(old: Definitions | None, new: Definitions) -> list[Change]:
    before, after = {} if old is None else dict(old.flags), new.flags
    changes = [Change("flag", n, "add", f"flag {n} is new") for n in sorted(after.keys() - before.keys())]
    changes += [Change("flag", n, "remove", f"flag {n} is gone") for n in sorted(before.keys() - after.keys())]
    changed = [n for n in sorted(before.keys() & after.keys()) if before[n].defined != after[n].defined]
    return changes + [Change("flag", n, "change", f"flag {n} changed; its switch is set anew") for n in changed]


def _experiment_changes(project: Project, old: Definitions | None, new: Definitions) -> list[Change]:
    """Name experiments that differ; what was started goes on as it was stored, whatever its definition says."""
    before, after = {} if old is None else old.experiments, new.experiments
    changes = [Change("experiment", n, "add", f"experiment {n} is new; start it with: flyball exp start {n}")
               for n in sorted(after.keys() - before.keys())]  # fmt: skip
    changes += [Change("experiment", n, "remove", f"experiment {n} is gone; a started one goes on until it is stopped")
                for n in sorted(before.keys() - after.keys())]  # fmt: skip
    for name in sorted(n for n in before.keys() & after.keys() if before[n] != after[n]):
        stored = project.database.experiments.find(name)
        goes = "" if stored is None else "; it was started before and goes on as stored: give the new one another name"
        changes.append(Change("experiment", name, "change", f"experiment {name} changed{goes}"))
    return changes


def _model_difference(old: Model, new: Model) -> list[str]:
    parts = ("service", "examples", "label", "params", "train_on", "holdout", "gates", "rollout", "monitors", "retrain",
             "serving")  # fmt: skip
    return [part for part in parts if _plain(getattr(old, part)) != _plain(getattr(new, part))]


def _plain(value: object) -> str:
    return digest_of(msgspec.to_builtins(value, str_keys=True, enc_hook=lambda part: part.spec))
