"""Whose a record of the prediction log is, when a subject is erased: by its inputs, its unit, or what stands for them.

The surprise: protected values are found by their forms, since what was hashed or encrypted was so with the project's
keys; what is masked shows nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flyball.features.erase import Subject, is_value
from flyball.features.values import to_plain
from flyball.records.types import Exposure, Prediction, Record

if TYPE_CHECKING:
    from flyball.features.spec import ViewSpec
    from flyball.project.root import Project
    from flyball.serving.log.personal import PersonalKeys

__all__ = ["Owner"]


class Owner:
    """A subject as the prediction log knows it.

    Args:
        project: The project.
        subject: Values of an entity's keys, by name.
        views: All views, whose entities tell the keys' types.
    """

    def __init__(self, project: Project, subject: Subject, views: Sequence[ViewSpec]) -> None:
        self._project, self._subject, self._views = project, subject, views

    def owns(self, record: Record) -> bool:
        """Tell whether a record is a prediction of the subject, or its exposure to an experiment."""
        if isinstance(record, Exposure):
            return record.unit in self._exposed.get(record.experiment, ())
        if not isinstance(record, Prediction):
            return False
        unit = self._unit(record.model)
        if unit == record.unit:
            return True
        if record.protected:
            return self._owns_protected(record, unit)
        return all(_same_value(record.inputs.get(name), value) for name, value in self._subject.items())

    def _owns_protected(self, record: Prediction, unit: str | None) -> bool:
        """Whether a record is the subject's by what stands for its values; what is masked shows nobody's."""
        keys = self._personal_keys
        if unit is not None and record.unit in keys.forms("unit", unit):
            return True
        plain = self.plain()
        return all(
            _same_value(record.inputs.get(name), value) or record.inputs.get(name) in keys.forms(name, plain[name])
            for name, value in self._subject.items()
        )

    @cached_property
    def _exposed(self) -> dict[str, frozenset[str]]:
        """How exposures to each experiment may name the subject: its unit is the key, or an entity of that one key."""
        if len(self._subject) != 1:
            return {}
        ((name, value),) = self.plain().items()
        names = {name, *(v.entity.name for v in self._views if [k.name for k in v.entity.keys] == [name])}
        forms = frozenset({str(value), *self._personal_keys.forms("unit", str(value))})
        stored = self._project.database.experiments.list()
        return {experiment.name: forms for experiment, _ in stored if experiment.unit in names}

    @cached_property
    def _personal_keys(self) -> PersonalKeys:
        return self._project.personal_keys()

    def _unit(self, model: str) -> str | None:
        known = self._project.applied.models.get(model)
        unit = None if known is None else known.examples.unit
        return str(self._subject[unit]) if unit in self._subject and len(self._subject) == 1 else None

    def plain(self) -> dict[str, Any]:
        """Return the subject as JSON data."""
        kinds = {k.name: k.type for view in self._views for k in view.entity.keys}
        return {name: to_plain(kinds[name], value) for name, value in self._subject.items()}


def _same_value(found: Any, wanted: Any) -> bool:
    """Compare a logged input (a value as it was sent, or a list of one) by value and type."""
    return is_value(found[0] if isinstance(found, list) and len(found) == 1 else found, wanted)
