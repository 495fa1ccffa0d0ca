"""What a replay must reproduce although no frame tells of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from flyball.records.log import follow
from flyball.records.segment import SegmentWriter
from flyball.records.types import Prediction, encode
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence.live import Live
from flyball.rollout.replay import walk
from flyball.rollout.routing import ModelRoute, VersionRef, cut
from flyball.rollout.types import Decision, Outside, Phase, RolloutStatus
from flyball.units import to_micros

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = Rollout(steps=["50%"], bake="1h", guardrails=[guard.errors()])
STATUS = RolloutStatus(
    id="r1", model="eta", candidate="v2", champion="v1", phase=Phase.STEP, revision=1, created=START, entered=START
)


def test_a_pass_that_finds_nothing_does_not_change_the_bin_of_a_later_record(tmp_path):
    log, evidence = tmp_path / "log", tmp_path / "evidence"
    live = Live.open(SPEC, STATUS, log_root=log, folder=evidence / "r1", fence=1)
    champion = VersionRef("v1", "v1", "0" * 64, trusted=True)
    route = ModelRoute("eta", "salt", champion, replace(champion, version="v2"), cut(0.5), rollout="r1")
    live.ensure_split(route, 1, "r1")
    writer, cursor = SegmentWriter(log / "w0"), {}
    for second in range(5):  # each second a row is logged after a pass of the next second found nothing
        at = START + timedelta(seconds=second, milliseconds=900)
        live.fold(follow(log, cursor), at + timedelta(milliseconds=150))
        row = Prediction(f"p{second}", "eta", "v2", "candidate", 1, f"u{second}", to_micros(at), {}, [], b"", 1.0)
        writer.append(encode([row]))
        live.fold(follow(log, cursor), at + timedelta(milliseconds=200))
    live.decided(STATUS, Decision("promote", "so be it"), START + timedelta(seconds=9), Outside())
    live.close()
    replayed = walk(SPEC, log, evidence, "r1")
    assert replayed.bins_same
    assert replayed.bins == 5
