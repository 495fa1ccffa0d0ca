"""What is measured beside the log: never waited for, and unknown rather than wrong."""

import os
import threading
from datetime import UTC, datetime

import pytest

from flyball.project.outside import Asked, usage
from flyball.rollout.types import Phase, RolloutStatus

STATUS = RolloutStatus("r1", "eta", "v2", "v1", Phase.STEP, 1, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("answer", "value", "says"),
    [
        (lambda s: 3, 3.0, ""),
        (lambda s: float("nan"), None, "returned nan"),
        (lambda s: 1 / 0, None, "ZeroDivisionError"),
    ],
)
def test_a_function_answers_or_is_unknown_with_the_reason(answer, value, says):
    found, text = Asked(answer).read(STATUS)
    assert found == value
    assert says in text


def test_a_function_that_hangs_is_unknown_after_its_deadline_and_asked_only_once():
    now, release, calls = [0.0], threading.Event(), []

    def slow(status):
        calls.append(status.id)
        release.wait(30)
        return 1.0

    asked = Asked(slow, clock=lambda: now[0])
    assert asked.read(STATUS) == (None, "it was not asked yet")
    now[0] = 6.0
    assert asked.read(STATUS) == (None, "it did not return within 5 s")
    now[0] = 30.0
    asked.read(STATUS)
    assert calls == ["r1"]
    release.set()
    asked._thread.join(10)
    assert asked.read(STATUS) == (1.0, "")


def test_a_value_is_kept_between_two_calls():
    now, values = [0.0], iter([1.0, 2.0])
    asked = Asked(lambda status: next(values), clock=lambda: now[0])
    assert asked.read(STATUS) == (1.0, "")
    now[0] = 5.0
    assert asked.read(STATUS) == (1.0, "")
    now[0] = 11.0
    assert asked.read(STATUS) == (2.0, "")


def test_usage_tells_the_memory_and_time_of_a_process():
    memory, seconds = usage(os.getpid())
    assert 1e6 < memory < 1e11
    assert seconds > 0
    with pytest.raises(OSError):
        usage(2**22 + 7)
