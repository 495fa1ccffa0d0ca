"""How the arms compare on the rows that both answered: from shadow records to one sentence."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from flyball.records.log import Batch
from flyball.records.types import Shadow
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence.bins import Allocation, Bin, Binner
from flyball.rollout.evidence.ledger import Ledger, snapshot
from flyball.rollout.explain import explain
from flyball.rollout.types import Phase, RolloutStatus

SECOND = 1_000_000
NOW = datetime(1970, 1, 2, tzinfo=UTC)
SPEC = Rollout(steps=["10%"], bake="1h", guardrails=(guard.errors(),))


def shadow(k, shift, *, agreed=True, error=None, kind="v2"):
    return Shadow(f"p{k}", "eta", kind, 1, f"u{k}", k * SECOND // 4, 1.0, error, 2_000, agreed, shift)


def folded(records, *, kind="shadow"):
    binner, ledger = Binner(SPEC, model="eta", candidate="v2"), Ledger(SPEC)
    for each in (binner, ledger):
        each.allocate(Allocation(1, kind, 1.0, pair=True))
    bins = binner.fold([Batch("w0/a.seg", 0, 1, records)], 1000 * SECOND)
    for closed in bins:
        ledger.fold(closed)
    return bins, ledger.evidence(Phase.SHADOW, 1.0, NOW)


def test_agreement_shift_and_time_match_numpy():
    shifts = np.random.default_rng(4).normal(0.3, 2.0, size=500)
    _, evidence = folded([shadow(k, float(s), agreed=abs(s) < 1.0) for k, s in enumerate(shifts)])
    assert evidence.shadow.rows == 500
    assert evidence.shadow.agreement == pytest.approx((abs(shifts) < 1.0).mean())
    assert evidence.shadow.shift == pytest.approx(shifts.mean())
    assert evidence.shadow.deviation == pytest.approx(shifts.std(ddof=1))
    assert evidence.shadow.seconds == pytest.approx(0.002)


def test_rows_that_an_arm_failed_compare_nothing():
    _, evidence = folded([shadow(1, None, agreed=None, error="no")])
    assert evidence.shadow is None


def test_classes_without_a_shift_still_agree_or_not():
    _, evidence = folded([shadow(1, None), shadow(2, None, agreed=False)])
    assert (evidence.shadow.agreement, evidence.shadow.shift, evidence.shadow.deviation) == (0.5, None, None)


def test_bins_of_before_the_comparison_are_read_and_written_as_they_were():
    old = msgspec.msgpack.encode([3, {}, [], [], 0, ""])
    assert msgspec.msgpack.decode(old, type=Bin).compared is None
    bins, _ = folded([shadow(1, 0.5)])
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(bins), type=list[Bin])
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(bins)


def test_explain_tells_it_in_a_sentence():
    _, evidence = folded([shadow(k, 0.5) for k in range(2000)])
    status = RolloutStatus("r1", "eta", "v2", "v1", Phase.SHADOW, 1, NOW)
    status.state["evidence"] = snapshot(evidence)
    told = explain(SPEC, status, [])["shadow"]
    assert told["sentence"] == (
        "both arms answered 2,000 rows and agreed on 100.0%; the candidate's answers are +0.5 from the champion's on "
        "average (deviation 0); a discarded answer took 2 ms"
    )
