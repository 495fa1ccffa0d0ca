"""What a source needs of its raw columns, and what types come out of its derive steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flyball.errors import DefinitionError, FlyballError, SourceError, UnknownName
from flyball.features import expressions
from flyball.features.spec import ColumnType, SourceSpec, TransformSpec

__all__ = ["Step", "columns_of_step", "needed", "needed_steps", "output_types", "quarantine_columns", "step_type"]

Step = str | TransformSpec


def columns_of_step(step: Step) -> set[str]:
    """Return the columns that one derive step reads."""
    if isinstance(step, TransformSpec):
        return set(step.args)
    return set(expressions.columns(expressions.parse(step)))


def needed(spec: SourceSpec) -> set[str]:
    """Return the raw columns that reading a source needs: times, and what derive, where and its checks read."""
    found = {spec.event_time, *([spec.created_time] if spec.created_time else [])}
    derived: set[str] = set()
    for name, step in spec.derive:
        found |= columns_of_step(step) - derived
        derived.add(name)
    if spec.where:
        found |= columns_of_step(spec.where) - derived
    return found | (quarantine_columns(spec) - derived)


def needed_steps(spec: SourceSpec, columns: Iterable[str]) -> tuple[list[tuple[str, Step]], set[str]]:
    """Return the derive steps and the raw columns that these columns, the times and `where` rest on."""
    wanted = {*columns, spec.event_time, *([spec.created_time] if spec.created_time else [])}
    wanted |= columns_of_step(spec.where) if spec.where else set()
    steps: list[tuple[str, Step]] = []
    for name, step in reversed(spec.derive):
        if name in wanted:
            steps.append((name, step))
            wanted = (wanted - {name}) | columns_of_step(step)
    return steps[::-1], wanted


def quarantine_columns(spec: SourceSpec) -> set[str]:
    """Return the columns that the checks read which keep rows out."""
    checks = [c for c in spec.checks if c.policy == "quarantine"]
    if not checks:
        return set()
    from flyball.features.checks import columns_needed

    return set(columns_needed(checks))


def step_type(spec: SourceSpec, name: str, step: Step, known: Mapping[str, ColumnType]) -> ColumnType:
    """Return the type a derive step gives.

    Raises:
        SourceError: it does not fit the columns.
    """
    if isinstance(step, TransformSpec):
        from flyball.features.transforms import check

        for argument in step.args:
            if argument not in known:
                raise SourceError(f"source {spec.name!r}: derive {name!r}: {UnknownName.of('column', argument, known)}")
        try:
            check(step, known)
        except FlyballError as error:
            raise SourceError(f"source {spec.name!r}: derive {name!r}: {error}") from error
        return step.type
    kind = _typed_expression(spec, f"derive {name!r}", step, known)
    if kind == "duration":
        raise SourceError(f"source {spec.name!r}: derive {name!r} gives a duration; divide it, such as ({step}) / 1m")
    return kind


def output_types(spec: SourceSpec, raw: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Return the types of raw and derived columns, after checking that every step fits.

    Raises:
        SourceError: a column is missing or has a wrong type.
    """
    _check_times(spec, raw)
    known = dict(raw)
    for name, step in spec.derive:
        known[name] = step_type(spec, name, step, known)
    if spec.where and (kind := _typed_expression(spec, "where", spec.where, known)) != "bool":
        raise SourceError(f"source {spec.name!r}: where gives a {kind}; it must be a condition")
    return known


def _check_times(spec: SourceSpec, raw: Mapping[str, ColumnType]) -> None:
    for role, name in (("event_time", spec.event_time), ("created_time", spec.created_time)):
        if name is None:
            continue
        if name not in raw:
            raise SourceError(f"source {spec.name!r}: {role}: {UnknownName.of('column', name, raw)}")
        if raw[name] != "timestamp":
            raise SourceError(
                f"source {spec.name!r}: {role} column {name!r} is {raw[name]}; it must hold timestamps, "
                "so store it as a timestamp"
            )


def _typed_expression(spec: SourceSpec, what: str, text: str, known: Mapping[str, ColumnType]) -> expressions.ExprType:
    try:
        return expressions.type_of(expressions.parse(text), known)
    except DefinitionError as error:
        raise SourceError(f"source {spec.name!r}: {what} ({text}): {error}") from error
