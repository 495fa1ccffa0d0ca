"""What becomes of an experiment, decided without a clock or a database."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from flyball.errors import Refused
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.types import Experiment
from flyball.experiments.lifecycle import ExperimentStatus, State, due, owned, require_same

NOW = datetime(2020, 3, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)


def design(**more: object) -> Experiment:
    return Experiment("e", arms={"a": 0.5, "b": 0.5}, metrics=[Metric("m")], **more)  # type: ignore[arg-type]


def status(state: State) -> ExperimentStatus:
    return ExperimentStatus("e", design().digest, state, NOW)


@pytest.mark.parametrize(
    ("state", "starts", "ends", "wanted"),
    [
        (State.SCHEDULED, HOUR, None, None),
        (State.SCHEDULED, -HOUR, None, State.RUNNING),
        (State.SCHEDULED, timedelta(0), None, State.RUNNING),
        (State.STARTING, HOUR, None, State.RUNNING),
        (State.RUNNING, None, None, None),
        (State.RUNNING, None, HOUR, None),
        (State.RUNNING, None, timedelta(0), State.STOPPED),
        (State.STOPPING, None, HOUR, State.STOPPED),
        (State.STOPPED, None, -HOUR, None),
    ],
)
def test_what_is_due_follows_from_state_and_time(
    state: State, starts: timedelta | None, ends: timedelta | None, wanted: State | None
) -> None:
    given = design(starts=None if starts is None else NOW + starts, ends=None if ends is None else NOW + ends)
    assert due(given, status(state), NOW) is wanted


def test_one_holds_a_model_or_a_flag_or_nothing() -> None:
    assert [owned(design(model="eta")), owned(design(flag="map")), owned(design())] == ["model:eta", "flag:map", ""]


def test_a_changed_design_and_an_ended_one_are_refused() -> None:
    require_same(status(State.RUNNING), design().digest)
    with pytest.raises(Refused, match="may not change once units see it"):
        require_same(status(State.RUNNING), design(owner="me").digest)
    with pytest.raises(Refused, match="has ended on 2020-03-11"):
        require_same(dataclasses.replace(status(State.STOPPED), ended=NOW), design().digest)
