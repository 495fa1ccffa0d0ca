"""Sample ratio: at the end against scipy, while it runs against Ville's promise."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.trust.check import Check, TrustReport, Verdict
from flyball.experiments.trust.srm import RatioProcess, ratio_e_value, srm_test


@pytest.mark.parametrize(
    ("counts", "shares"),
    [([5000, 5300], [0.5, 0.5]), ([821_588, 815_482], [0.5, 0.5]), ([100, 220, 680], [0.1, 0.2, 0.7])],
)
def test_the_end_of_a_test_is_judged_by_pearsons_chi_square(counts, shares):
    numbers = srm_test(counts, shares).numbers
    reference = stats.chisquare(counts, np.array(shares) * sum(counts))
    assert numbers["p"] == pytest.approx(reference.pvalue, rel=1e-9)
    assert numbers["statistic"] == pytest.approx(reference.statistic)


def test_the_mismatch_of_fabijan_2019_fails_with_a_sentence():
    check = srm_test([821_588, 815_482], [0.5, 0.5])  # Kohavi, Tang, Xu (2020), chapter 21: p = 1.8e-6
    assert check.verdict is Verdict.FAILED
    assert check.numbers["p"] == pytest.approx(1.8e-6, rel=0.02)
    assert "50.2 % / 49.8 % instead of 50 % / 50 %" in check.sentence


def test_a_p_value_far_out_is_no_zero():
    assert 0.0 < srm_test([10_000, 14_000], [0.5, 0.5]).numbers["p"] < 1e-140


def test_few_units_fall_back_on_the_e_value_and_still_see_a_gross_mismatch():
    shares = [0.99, 0.01]
    assert srm_test([95, 5], shares).numbers["p"] == pytest.approx(min(1.0, 1.0 / ratio_e_value([95, 5], shares)))
    assert srm_test([100, 100], shares).verdict is Verdict.FAILED


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [0, 1]])
def test_no_units_and_one_unit_pass(counts):
    assert srm_test(counts, [0.5, 0.5]).passed
    assert RatioProcess.of([0.5, 0.5]).seen(counts).check().passed


def test_huge_counts_stay_finite():
    check = srm_test([10**12, 10**12 + 10**5], [0.5, 0.5])
    assert check.passed
    assert math.isfinite(RatioProcess.of([0.5, 0.5]).seen([10**12, 10**12]).log_e)


@pytest.mark.parametrize(
    ("counts", "shares"),
    [([1], [1.0]), ([1, 2], [0.5, 0.6]), ([1, 2], [1.0, 0.0]), ([-1, 2], [0.5, 0.5]), ([1, math.nan], [0.5, 0.5]),
     ([1, 2, 3], [0.5, 0.5])],
)  # fmt: skip
def test_what_is_no_split_is_refused(counts, shares):
    with pytest.raises(InputError):
        srm_test(counts, shares)


def test_chi_square_cries_wolf_as_often_as_alpha_says():
    rng, runs = np.random.default_rng(5), 20_000
    counts = rng.multinomial(2_000, [0.2, 0.3, 0.5], runs)
    wrong = sum(not srm_test(row, [0.2, 0.3, 0.5], alpha=0.05).passed for row in counts.tolist())
    assert abs(wrong / runs - 0.05) < 4 * math.sqrt(0.05 * 0.95 / runs)  # four standard errors of 20,000 runs


def test_looking_at_every_unit_keeps_the_promise():
    rng, runs, alpha = np.random.default_rng(6), 200, 0.05
    wrong = 0
    for _ in range(runs):
        process = RatioProcess.of([0.7, 0.3])
        for first in (rng.random(150) < 0.7).tolist():
            process = process.seen([int(first), int(not first)])
        wrong += not process.check(alpha=alpha).passed
    assert wrong / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_a_change_of_the_split_is_no_mismatch_and_keeps_the_evidence():
    rng = np.random.default_rng(7)
    process = RatioProcess.of([0.99, 0.01]).seen(rng.multinomial(20_000, [0.99, 0.01]))
    process = process.split([0.5, 0.5]).seen(rng.multinomial(20_000, [0.5, 0.5]))
    assert process.check().passed
    assert srm_test([int(process.counts[0]), int(process.counts[1])], [0.5, 0.5]).passed
    assert process.n == 40_000
    broken = RatioProcess.of([0.5, 0.5]).seen([6_000, 5_000])
    assert not broken.split([0.9, 0.1]).seen([900, 100]).check().passed


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=8))
def test_the_state_survives_json_and_its_order_of_looks(looks):
    straight = RatioProcess.of([0.4, 0.6])
    resumed = straight
    for look in looks:
        straight = straight.seen(look)
        resumed = RatioProcess.from_dict(json.loads(json.dumps(resumed.to_dict()))).seen(look)
    assert resumed == straight
    assert straight.log_e == pytest.approx(
        math.log(ratio_e_value(straight.counts, [0.4, 0.6])) if straight.log_e < 690 else straight.log_e
    )


@given(st.permutations([0, 1, 2]), st.lists(st.integers(0, 10_000), min_size=3, max_size=3))
def test_the_order_of_the_arms_is_no_matter(order, counts):
    shares = [0.2, 0.3, 0.5]
    turned = srm_test([counts[i] for i in order], [shares[i] for i in order])
    assert turned.numbers["p"] == pytest.approx(srm_test(counts, shares).numbers["p"])


def test_a_report_is_as_bad_as_its_worst_check():
    fine, look, bad = (Check(str(v), v, "so it is", {"p": 0.5}) for v in Verdict)
    report = TrustReport.of(fine, look, bad)
    assert (report.verdict, report.trusted) == (Verdict.FAILED, False)
    assert [check.verdict for check in report.worst] == [Verdict.FAILED, Verdict.WARNING]
    assert TrustReport.of(fine, look).trusted
    assert TrustReport.of().verdict is Verdict.PASSING
    assert TrustReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_numbers_that_json_does_not_know_become_none():
    assert Check("x", Verdict.PASSING, "y", {"z": math.inf}).to_dict()["numbers"] == {"z": None}
