"""The evidence is removed, damaged, or cannot be written: a rollout says so, holds, and goes on by what comes after."""

from __future__ import annotations

import errno
import shutil

import pytest

from flyball.records.segment import SegmentWriter
from flyball.rollout.definitions.guards import guard
from flyball.rollout.evidence.unit_store import UnitsLost
from flyball.testing import scenario


def _story(**more):
    return scenario(
        steps=["10%", "50%"], bake="10m", min_requests=20, guardrails=[guard.errors(margin="20pp")], **more
    ).given_traffic(per_minute=60)  # fmt: skip


def _folder(story):
    return story._folder / "evidence" / story.id


def _kinds(story):
    return [event.kind for event in story.events]


@pytest.mark.parametrize("taken_over", [False, True])
def test_evidence_that_is_removed_is_told_and_promotes_nothing_by_itself(taken_over):
    story = _story().for_("19m")
    assert story.status.step == 1 and story.status.bins > 0
    shutil.rmtree(_folder(story))
    if taken_over:
        story.restart()
    story.for_("6m")
    assert _kinds(story).count("EvidenceLost") == 1
    assert (str(story.status.phase), story.status.step) == ("Step", 1), "9 of its 10 minutes of bake are gone"
    story.for_("30m")
    assert story.status.phase == "Promoted"
    assert story.replay().same


def test_a_candidate_that_fails_after_its_evidence_was_removed_is_rolled_back():
    story = _story().for_("19m")
    shutil.rmtree(_folder(story))
    story.when(candidate_error_rate=0.8).for_("4m").then(phase="RolledBack", champion_weight=1.0)
    assert story.replay().same


def test_a_damaged_frame_costs_that_frame_and_is_told():
    story = _story().for_("8m")
    story.restart()
    path = sorted(_folder(story).glob("*.seg"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    story.for_("1m")
    assert _kinds(story).count("EvidenceLost") == 1
    assert story.status.bins > 300, "the frames behind the damaged one still count"
    story.for_("30m").then(phase="Promoted")
    assert not story.replay().bins_same


def test_a_full_disk_holds_the_ramp_and_loses_nothing(monkeypatch):
    story = _story().for_("8m")
    append = SegmentWriter.append

    def full(self, payload):
        if self._folder == _folder(story):
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(self, payload)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentWriter, "append", full)
        story.for_("20m")
        assert story.status.step == 0
        assert "No space left" in story.status.state["waiting"]
    story.for_("30s")
    assert story.status.step == 1, "what was logged meanwhile counts"
    assert story.status.bins > 1500
    story.for_("20m").then(phase="Promoted")
    assert "EvidenceLost" not in _kinds(story)
    assert story.replay().same


def test_a_lost_unit_file_is_rebuilt_within_the_next_pass(monkeypatch):
    story = _story().for_("8m")
    bins = story.status.bins
    live = story.reconciler._live[story.id]

    def torn():
        raise UnitsLost("the scratch file is torn")

    monkeypatch.setattr(live.ledger._units, "settle", torn)
    story.for_("10s")
    assert story.id not in story.reconciler._live
    story.for_("20s")
    assert story.status.bins > bins
    story.for_("20m").then(phase="Promoted")
    assert story.replay().same
