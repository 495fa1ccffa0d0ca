"""Each account against an oracle: what it counts, what it says, and what it refuses to conclude."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from flyball.experiments.sequential.confidence import difference, mean_bounds
from flyball.experiments.stats import Moments
from flyball.records.log import Batch
from flyball.records.types import Outcome, Prediction, Shadow
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence.accounts.power import rate_power
from flyball.rollout.evidence.accounts.values import value_of
from flyball.rollout.evidence.bins import Allocation, Binner, Row
from flyball.rollout.evidence.ledger import Ledger
from flyball.rollout.types import Measured, Outside, Phase

SECOND = 1_000_000
NOW = datetime(1970, 1, 2, tzinfo=UTC)


class Story:
    """A binner and a ledger of one guardrail under one allocation."""

    def __init__(self, *rails, share=0.5, kind="step", pair=False):
        spec = Rollout(steps=[share], bake="1h", guardrails=rails)
        self.share, self.phase = share, Phase.SHADOW if kind == "shadow" else Phase.STEP
        self.binner, self.ledger = Binner(spec, model="eta", candidate="v2"), Ledger(spec)
        for each in (self.binner, self.ledger):
            each.allocate(Allocation(1, kind, share, pair))
        self.count = 0

    def answer(self, arm, value=1.0, *, at=0, unit=None, truth=None, total=5000, error=None, inputs=None, cohort=None):
        self.count += 1
        name = f"p{self.count}"
        candidate = arm == "candidate"
        records = [
            Prediction(
                name, "eta", "v2" if candidate else "v1", arm, 1, unit or name, at, inputs or {}, [], b"", value, error,
                error is not None and candidate, (0, 0, 0, 0), total, (not candidate) if cohort is None else cohort, "share",
            )
        ]  # fmt: skip
        return records + ([] if truth is None else [Outcome(name, truth, at, at)])

    def fold(self, records, now):
        for closed in self.binner.fold([Batch("w0/a", 0, 1, list(records))], now):
            self.ledger.fold(closed)

    def rail(self, n=0, outside=None):
        return self.ledger.evidence(self.phase, self.share, NOW, outside=outside or Outside()).guardrails[n]


def both(story, rng, n, candidate, control, **more):
    """Feed n rows to each arm, values and outcomes drawn by functions of the generator."""
    records = []
    for k in range(n):
        for arm, draw in (("candidate", candidate), ("champion", control)):
            value, truth = draw(rng)
            records += story.answer(arm, value, at=k * 1000, truth=truth, **more)
    story.fold(records, 20 * SECOND)
    story.fold([], 10_000 * SECOND)


def test_an_absolute_limit_is_no_threshold():
    story = Story(guard.errors(max="1%"))
    few = [r for k in range(30) for r in story.answer("candidate", at=k, error="no" if k < 1 else None)]
    story.fold(few, 5 * SECOND)
    assert not story.rail().breached  # 3.3 % of 30 answers prove nothing
    many = [
        r
        for k in range(3000)
        for r in story.answer("candidate", at=6 * SECOND + k, error="no" if k % 33 == 0 else None)
    ]
    many += [
        r for k in range(3000) for r in story.answer("champion", at=6 * SECOND + k, error="no" if k % 33 == 0 else None)
    ]
    story.fold(many, 9 * SECOND)
    found = story.rail()
    assert found.breached
    assert "is above max=1.000%" in found.text
    assert found.e_value < found.limit  # the comparison with an equal control blames nobody


def test_the_limit_of_a_latency_quantile_is_judged_without_a_control():
    story = Story(guard.latency(max="100ms"))
    slow = [r for k in range(2000) for r in story.answer("candidate", at=k, total=150_000 if k % 20 == 0 else 5000)]
    story.fold(slow, 5 * SECOND)
    found = story.rail()
    assert found.breached
    assert "100 of 2000 candidate answers took longer than 100 ms" in found.text
    fast = Story(guard.latency(max="100ms"))
    fast.fold([r for k in range(2000) for r in fast.answer("candidate", at=k)], 5 * SECOND)
    assert fast.rail().safe


@pytest.mark.parametrize(("factor", "breached"), [(1.0, False), (1.4, False), (3.0, True)])
def test_latency_relative_to_the_control_follows_the_control(factor, breached):
    story, rng = Story(guard.latency(times=1.5)), np.random.default_rng(5)
    for second in range(40):
        base = 1.0 + second / 10  # the day gets slower for both
        records = []
        for k in range(50):
            for arm, by in (("candidate", factor), ("champion", 1.0)):
                total = int(rng.lognormal(9, 0.3) * base * by)
                records += story.answer(arm, at=second * SECOND + k, total=total)
        story.fold(records, (second + 2) * SECOND)
    assert story.rail().breached is breached
    assert story.rail().samples == 40 * 50 - 50 * 4  # the first 200 of the control set the quantile


def test_timeouts_and_fallbacks_count_what_they_say():
    story = Story(guard.errors(), guard.timeouts(), guard.fallbacks())
    records = story.answer("candidate", error="DeadlineExceeded: the request's deadline passed while it waited")
    records += story.answer("candidate", error="ValueError: x") + story.answer("champion", error="TimeoutError")
    story.fold(records, 5 * SECOND)
    texts = [story.rail(n).text for n in range(3)]
    assert texts[0].startswith("2 of 2 candidate answers failed")
    assert texts[1].startswith("1 of 2 candidate answers came too late")
    assert "1 of 1 of the control did" in texts[1]
    assert texts[2].startswith("2 of 2 candidate answers were given by another version")


def test_a_mean_by_unit_matches_the_sequence_of_its_unit_means():
    story, rng = Story(guard.metric("revenue", of="outcome", margin="0.5", direction="up")), np.random.default_rng(1)
    units = {arm: rng.integers(0, 80, 400) for arm in ("candidate", "champion")}
    values = {"candidate": rng.normal(3, 1, 400), "champion": rng.normal(3.2, 1, 400)}
    records = [
        r for arm in units for k in range(400)
        for r in story.answer(arm, at=k, unit=f"{arm}{units[arm][k]}", truth=float(values[arm][k]))
    ]  # fmt: skip
    story.fold(records, 5 * SECOND)
    means = {arm: [values[arm][units[arm] == u].mean() for u in set(units[arm])] for arm in units}
    pair = (Moments.of(-np.array(means["candidate"])), Moments.of(-np.array(means["champion"])))
    wanted = difference([pair], lower=0.9 * 0.01, upper=0.05)  # a tenth is kept for pairs that may come
    found = story.rail()
    assert (found.harm, found.lower, found.upper) == pytest.approx((wanted.estimate, wanted.lower, wanted.upper))
    assert found.harm > 0  # less revenue is harm


def test_a_ratio_metric_matches_the_delta_method():
    story, rng = (
        Story(guard.metric("rate", of="outcome", margin="0.2", over="visits", direction="up")),
        np.random.default_rng(2),
    )
    visits = rng.integers(1, 6, 1000)
    spent = visits * 2.0 + rng.normal(0, 1, 1000)
    records = [
        r for k in range(1000)
        for r in story.answer("candidate" if k % 2 else "champion", at=k, truth=float(spent[k]), inputs={"visits": int(visits[k])})
    ]  # fmt: skip
    story.fold(records, 5 * SECOND)
    ratios, errors = [], []
    for arm in (1, 0):
        y, x = spent[arm::2], visits[arm::2]
        r = y.sum() / x.sum()
        ratios.append(r)
        errors.append(np.var(y - r * x, ddof=1) / x.mean() ** 2 / len(y))
    assert story.rail().harm == pytest.approx(ratios[1] - ratios[0])
    assert story.rail().error == pytest.approx(np.sqrt(sum(errors)), rel=1e-6)


def test_a_covariate_narrows_the_interval_and_moves_nothing_else():
    found = {}
    for covariate in ("", "before"):
        story, rng = (
            Story(guard.metric("spend", of="outcome", margin="0.5", covariate=covariate)),
            np.random.default_rng(3),
        )
        records = []
        for k in range(4000):
            before = rng.normal(10, 3)
            truth = before + rng.normal(0, 1)
            records += story.answer("candidate" if k % 2 else "champion", at=k, truth=truth, inputs={"before": before})
        story.fold(records, 5 * SECOND)
        found[covariate] = story.rail()
    assert found["before"].error == pytest.approx(found[""].error * np.sqrt(1 - 0.9), rel=0.05)  # R2 = 9 / 10
    assert abs(found["before"].harm) < 4 * found["before"].error


def test_rows_without_their_covariate_are_counted_as_unusable():
    story = Story(guard.metric("spend", of="outcome", margin="0.5", covariate="before"))
    records = [r for k in range(10) for r in story.answer("candidate", at=k, truth=1.0, inputs={"before": None})]
    story.fold(records, 5 * SECOND)
    assert "10 values of the candidate and 0 of the control could not be judged" in story.rail().text


def test_a_quantile_is_between_its_bounds_and_within_a_bucket_of_numpy():
    story, rng = (
        Story(guard.metric("p90", of="outcome", margin="50%", quantile=0.9, direction="down")),
        np.random.default_rng(4),
    )
    c, b = rng.lognormal(0, 1, 3000), rng.lognormal(0, 1, 3000)
    for records in ([r for v in c for r in story.answer("candidate", truth=float(v))],
                    [r for v in b for r in story.answer("champion", truth=float(v))]):  # fmt: skip
        story.fold(records, 5 * SECOND)
    story.fold([], 9 * SECOND)
    found = story.rail()
    assert found.harm == pytest.approx(np.quantile(c, 0.9) - np.quantile(b, 0.9), abs=0.08)
    assert found.lower < 0 < found.upper
    assert not found.breached


def test_a_worse_quantile_with_an_equal_mean_breaches():
    story, rng = (
        Story(guard.metric("p90", of="outcome", margin="20%", quantile=0.9, direction="down")),
        np.random.default_rng(6),
    )
    both(story, rng, 3000, lambda g: (1.0, 3 + 3 * g.normal()), lambda g: (1.0, 3 + g.normal()))
    assert story.rail().breached
    assert "quantile 0.9 of p90 of the candidate is worse by at least" in story.rail().text


def test_shift_by_mean_sees_both_directions_and_by_distance_a_change_of_shape():
    for by in (0.5, -0.5):
        story = Story(guard.shift(margin="0.1"))
        both(
            story,
            np.random.default_rng(7),
            1500,
            lambda g, by=by: (g.normal() + by, None),
            lambda g: (g.normal(), None),
        )
        assert story.rail().breached
        assert ("higher" if by > 0 else "lower") in story.rail().text
    story = Story(guard.shift(by="distance", max=0.05), replace(guard.shift(margin="0.2"), name="mean"))
    both(story, np.random.default_rng(8), 4000, lambda g: (3 * g.normal(), None), lambda g: (g.normal(), None))
    assert story.rail(0).breached
    assert "population stability index" in story.rail(0).text
    assert not story.rail(1).breached


def test_scores_of_mirrored_answers_are_compared_in_the_shadow_phase():
    story, rng = Story(guard.shift(margin="0.1"), kind="shadow", share=1.0), np.random.default_rng(9)
    records = []
    for k in range(400):
        value = rng.normal()
        records += story.answer("champion", value, at=k)
        records.append(Shadow(f"p{k + 1}", "eta", "v2", 1, "u", k, value + 0.5))
    story.fold(records, 5 * SECOND)
    assert story.rail().harm == pytest.approx(0.5)
    assert story.rail().breached


def test_nan_infinite_and_null_never_poison_an_account():
    story, rng = Story(guard.metric("mae", margin="20%")), np.random.default_rng(10)
    records = []
    for k in range(600):
        arm = "candidate" if k % 2 else "champion"
        value = [rng.normal(), float("nan"), float("inf"), None, [1.0, float("nan")]][0 if k % 7 else k % 5]
        truth = float("nan") if k % 11 == 0 else 0.0
        records += story.answer(arm, value, at=k, truth=truth)
    story.fold(records, 5 * SECOND)
    found = story.rail()
    assert all(v is None or np.isfinite(v) for v in (found.harm, found.lower, found.upper, found.error, found.power))
    assert "could not be judged (missing, NaN or infinite)" in found.text
    assert found.samples > 200


def test_young_predictions_neither_count_nor_are_waited_for():
    story = Story(guard.metric("mae", margin="20%", delay="60s"))
    arms = ("candidate", "champion")
    early = [r for k in range(100) for arm in arms for r in story.answer(arm, at=k * SECOND, truth=0.0)]
    story.fold(early, 100 * SECOND)
    assert story.rail().samples == 40  # what is at least a minute old when second 99 ends
    assert story.rail().coverage == 1.0
    story.fold(story.answer("candidate", at=100 * SECOND), 101 * SECOND)  # its outcome never comes
    story.fold([], 300 * SECOND)
    assert story.rail().samples == 100
    assert story.rail().coverage == pytest.approx(200 / 201)


def test_nothing_is_concluded_below_min_samples():
    story = Story(guard.errors(min_samples=500))
    bad = [r for k in range(300) for r in story.answer("candidate", at=k, error="no")]
    bad += [r for k in range(300) for r in story.answer("champion", at=k)]
    story.fold(bad, 5 * SECOND)
    assert (story.rail().breached, story.rail().safe) == (False, False)
    story.fold([r for k in range(300) for r in story.answer("candidate", at=6 * SECOND + k, error="no")], 9 * SECOND)
    assert story.rail().breached


@pytest.mark.parametrize("kind", ["latency", "fallbacks"])
def test_an_incident_of_both_arms_is_seen_in_latency_and_fallbacks(kind):
    story = Story(guard.latency(p99="50ms") if kind == "latency" else guard.fallbacks())

    def minute(number, bad):
        records = []
        for k in range(200):
            arm = "candidate" if k % 2 else "champion"
            worse = bad and k % 5 < 2
            records += story.answer(
                arm, at=number * 60 * SECOND + k, total=90_000 if worse and kind == "latency" else 5000
            )
            if worse and kind == "fallbacks":
                records[-1] = Prediction(
                    **{f: getattr(records[-1], f) for f in records[-1].__struct_fields__}
                    | {"fallback": True, "error": "x"}
                )
        story.fold(records, (number * 60 + 30) * SECOND)
        return story.ledger.evidence(Phase.STEP, 0.5, NOW)

    for number in range(12):
        assert not minute(number, bad=False).incident
    assert minute(12, bad=True).incident or minute(13, bad=True).incident or minute(14, bad=True).incident
    assert not story.rail().breached


@pytest.mark.parametrize(
    ("metric", "truth", "answer", "wanted"),
    [
        ("mae", 3.0, 1.0, 2.0), ("mse", 3.0, 1.0, 4.0), ("brier", 1.0, 0.8, 0.04), ("accuracy", 1.0, 0.8, 1.0),
        ("accuracy", 0.0, 0.8, 0.0), ("accuracy", 3.0, 3.0, 1.0), ("accuracy", 2.0, [0.1, 0.2, 0.7], 1.0),
        ("logloss", 1.0, 0.8, 0.22314355), ("logloss", 2.0, [0.1, 0.2, 0.7], 0.35667494), ("brier", 0.0, [0.6, 0.4], 0.32),
        ("logloss", 3.0, 0.5, None), ("logloss", 1.0, 1.5, None), ("mae", 1.0, [0.5, 0.5], None), ("mse", 1e200, -1e200, None),
        ("outcome", 2.5, 1.0, 2.5), ("prediction", 2.5, 1.0, 1.0), ("logloss", 5.0, [0.5, 0.5], None),
    ],
)  # fmt: skip
def test_losses_by_hand(metric, truth, answer, wanted):
    found = value_of(metric, Row(0, 0, truth, answer, None), answer)
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_logloss_matches_scikit_learn():
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    rng = np.random.default_rng(11)
    truth, p = rng.integers(0, 2, 200), rng.uniform(0.01, 0.99, 200)
    mine = [value_of("logloss", Row(0, 0, float(t), float(a), None), float(a)) for t, a in zip(truth, p, strict=True)]
    assert np.mean(mine) == pytest.approx(log_loss(truth, p))


@pytest.mark.parametrize(
    ("value", "action", "breached", "safe", "holds"),
    [(0.5, "hold", True, False, True), (0.5, "roll_back", True, False, False), (0.1, "hold", False, True, False),
     (float("nan"), "hold", False, False, True), (None, "roll_back", False, False, True)],
)  # fmt: skip
def test_what_lies_outside_is_compared_as_it_is_and_holds_while_unknown(value, action, breached, safe, holds):
    story = Story(guard.drift(max=0.2, action=action))
    found = story.rail(outside=Outside("", {"drift": Measured(value)}))
    assert (found.breached, found.safe, found.holds, found.action) == (breached, safe, holds, action)


def test_an_unmeasured_value_says_why_it_holds():
    assert "is not known (nothing was measured yet); the ramp holds" in Story(guard.drift()).rail().text


def test_a_holding_guardrail_breaches_without_rolling_back():
    story = Story(guard.errors(action="hold"))
    story.fold([r for k in range(400) for r in story.answer("candidate" if k % 2 else "champion", at=k,
                                                            error="no" if k % 2 else None)], 5 * SECOND)  # fmt: skip
    assert (story.rail().breached, story.rail().holds, story.rail().action) == (True, True, "hold")


def test_a_broken_split_is_shown_as_a_guardrail():
    story = Story(guard.srm(), share=0.1)
    story.fold([r for k in range(600) for r in story.answer("candidate" if k % 2 else "champion", at=k)], 5 * SECOND)
    assert (story.rail().breached, story.rail().holds) == (True, True)


def test_swapping_the_arms_flips_every_sign():
    rng = np.random.default_rng(12)
    draws = rng.normal(0.4, 1, 800), rng.normal(0, 1, 800)
    found = []
    for first, second in (draws, draws[::-1]):
        story = Story(
            guard.metric("mae", margin="5%"), guard.metric("accuracy", margin="1pp"), guard.shift(margin="0.1")
        )
        records = []
        for a, b in zip(first, second, strict=True):
            records += story.answer("candidate", float(a), truth=0.0) + story.answer("champion", float(b), truth=0.0)
        story.fold(records, 5 * SECOND)
        found.append([story.rail(n).harm for n in range(3)])
    assert found[0] == pytest.approx([-h for h in found[1]])


def test_power_so_far_agrees_with_simulation():
    """400 runs: whether a candidate with 1.1 % failures against 0.1 % was seen within 600 requests at equal shares."""
    rng, n, hits = np.random.default_rng(13), 600, 0
    for _ in range(400):
        story = Ledger(Rollout(steps=["50%"], bake="1h", guardrails=[guard.errors()]))._rates[0]._process
        events = np.concatenate([np.full(rng.binomial(n, 0.011), 1), np.full(rng.binomial(n, 0.001), 0)])
        for one in rng.permutation(events):
            story = story.fail(candidate=int(one), control=1 - int(one), odds=1.0)
        hits += story.breached(0.01)
    told = rate_power(harm=0.01, control=0.001, n=n, odds=1.0, alpha=0.01)
    low, high = stats.binom.interval(0.9999, 400, told)
    assert low - 40 <= hits <= high + 60  # a normal approximation of a path: within 10 and 15 points


def test_paired_quality_is_the_sequence_of_the_differences():
    story, rng = Story(guard.quality("mse", margin="5%"), pair=True, share=0.3), np.random.default_rng(14)
    records, differences = [], []
    for k in range(500):
        mine, theirs = rng.normal(0.1, 1), rng.normal(0, 1)
        records += story.answer("candidate", float(mine), at=k, truth=0.0)
        records.append(Shadow(f"p{k + 1}", "eta", "v1", 1, "u", k, float(theirs)))
        differences.append(mine**2 - theirs**2)
    story.fold(records, 5 * SECOND)
    wanted = mean_bounds(Moments.of(differences), lower=0.01, upper=0.05)
    assert (story.rail().harm, story.rail().lower) == pytest.approx((wanted.estimate, wanted.lower))
    assert replace(story.rail(), text="").samples == 500
