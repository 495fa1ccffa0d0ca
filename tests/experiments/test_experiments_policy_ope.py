"""Off-policy estimates: hand-made logs, simulation of their intervals, refusals, and the open bandit data."""

import json
import math

import numpy as np
import pytest
from experiments_kit import OPEN_BANDIT, needs
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError, Refused
from flyball.experiments.policy.logs import PolicyLog
from flyball.experiments.policy.ope import (
    Bootstrap,
    clipped_ips,
    direct_method,
    doubly_robust,
    evaluate_policy,
    ips,
    reward_table,
    snips,
    switch_dr,
)

open_bandit = needs(OPEN_BANDIT)

# Four rows by hand: weights 1.5, 0.5, 1.5, 0.5
HAND = {"actions": [0, 1, 0, 1], "rewards": [1.0, 0.0, 0.0, 1.0], "propensities": [0.5] * 4, "policy": [0.75, 0.25]}
MODEL = [0.6, 0.2]


def test_the_estimates_are_those_reckoned_by_hand():
    log = PolicyLog.of(**HAND)
    assert ips(log).value == pytest.approx((1.5 + 0.5) / 4)
    assert snips(log).value == pytest.approx(2.0 / 4.0)
    assert clipped_ips(log, limit=1.0, normalise=False).value == pytest.approx(1.5 / 4)
    assert clipped_ips(log, limit=1.0).value == pytest.approx(1.5 / 3.0)
    base = 0.75 * 0.6 + 0.25 * 0.2
    assert direct_method(log, MODEL).value == pytest.approx(base)
    residuals = [1.5 * 0.4, 0.5 * -0.2, 1.5 * -0.6, 0.5 * 0.8]
    assert doubly_robust(log, MODEL).value == pytest.approx(base + sum(residuals) / 4)
    assert doubly_robust(log, MODEL, limit=1.0).value == pytest.approx(base + (0.4 - 0.1 - 0.6 + 0.4) / 4)
    assert switch_dr(log, MODEL, limit=1.0).value == pytest.approx(base + (-0.1 + 0.4) / 4)


def test_errors_are_the_delta_methods():
    log = PolicyLog.of(**HAND)
    w, r = log.weights, log.rewards
    assert ips(log).error == pytest.approx(np.std(w * r, ddof=1) / 2)
    assert snips(log).error == pytest.approx(math.sqrt((w**2 * (r - 0.5) ** 2).sum() * 4 / 3) / 4)
    told = ips(log, level=0.9)
    assert (told.lower, told.upper) == pytest.approx(stats.norm.interval(0.9, told.value, told.error))


def test_the_diagnostics_are_kishs():
    told = PolicyLog.of(**HAND).diagnostics()
    assert told.effective == pytest.approx(16 / 5)
    assert (told.mean_weight, told.max_weight, told.heaviest) == pytest.approx((1.0, 1.5, 0.375))
    assert PolicyLog.of(**HAND).diagnostics(limit=1.0).clipped == 0.5


def test_the_logged_policy_itself_is_its_mean_reward():
    rng = np.random.default_rng(1)
    actions, rewards = rng.choice(3, 500, p=[0.5, 0.3, 0.2]), rng.normal(size=500)
    p = np.array([0.5, 0.3, 0.2])
    log = PolicyLog.of(actions=actions, rewards=rewards, propensities=p[actions], policy=p)
    for value in evaluate_policy(log)[:3]:
        assert value.value == pytest.approx(rewards.mean())
        assert value.error == pytest.approx(rewards.std(ddof=1) / math.sqrt(500))


def world(rng, n, *, k=4, groups=3):
    """Draw a log with contexts; return (log, true value of the target, groups)."""
    truth = np.linspace(0.1, 0.7, k)[None, :] * np.linspace(0.5, 1.2, groups)[:, None]
    logging = np.stack([np.roll([0.4, 0.3, 0.2, 0.1], g) for g in range(groups)])
    target = np.stack([np.roll([0.1, 0.1, 0.3, 0.5], g) for g in range(groups)])
    group = rng.integers(groups, size=n)
    actions = (rng.random(n)[:, None] > logging[group].cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    rewards = (rng.random(n) < truth[group, actions]).astype(float)
    log = PolicyLog.of(actions=actions, rewards=rewards, propensities=logging[group, actions], policy=target[group])
    return log, float((truth * target).mean(axis=0).sum()), group


def test_the_intervals_cover_the_true_value():
    rng, runs = np.random.default_rng(2), 400
    covered = dict.fromkeys(("IPS", "SNIPS", "DR"), 0)
    for _ in range(runs):
        log, value, group = world(rng, 800)
        model = reward_table(log, rng=rng, groups=group)
        for told in (ips(log), snips(log), doubly_robust(log, model)):
            covered[told.method] += told.lower <= value <= told.upper
    for method, count in covered.items():
        assert abs(count / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs), method


def test_bootstrap_intervals_agree_with_the_normal_law_and_with_their_seed():
    log, _, _ = world(np.random.default_rng(3), 3000)
    one, other = (snips(log, bootstrap=Bootstrap(np.random.default_rng(4), 1000)) for _ in range(2))
    assert one.to_dict() == other.to_dict()
    normal = snips(log)
    assert (one.lower, one.upper) == pytest.approx((normal.lower, normal.upper), abs=0.15 * normal.error * 3.92)
    assert one.interval == "bootstrap"


def test_doubly_robust_needs_only_one_of_its_two_halves():
    rng = np.random.default_rng(5)
    log, value, group = world(rng, 60_000)
    wrong_model = np.full(4, 5.0)
    assert doubly_robust(log, wrong_model).value == pytest.approx(value, abs=4 * doubly_robust(log, wrong_model).error)
    truth = (np.linspace(0.1, 0.7, 4)[None, :] * np.linspace(0.5, 1.2, 3)[:, None])[group]
    skewed = PolicyLog.of(actions=log.actions, rewards=log.rewards, policy=log.policy,
                          propensities=np.clip(log.propensities * 1.7, 0, 1))  # fmt: skip
    right = doubly_robust(skewed, truth)
    assert right.value == pytest.approx(value, abs=5 * right.error)
    assert abs(ips(skewed).value - value) > 10 * ips(skewed).error
    assert any("instead of 1" in line for line in ips(skewed).warnings)


def test_a_good_model_narrows_doubly_robust():
    log, _, group = world(np.random.default_rng(6), 20_000)
    model = reward_table(log, rng=np.random.default_rng(0), groups=group)
    assert doubly_robust(log, model).error < 0.95 * ips(log).error


def test_rows_of_one_unit_widen_the_interval():
    log, _, _ = world(np.random.default_rng(7), 1000)
    columns = {"actions": np.repeat(log.actions, 4), "rewards": np.repeat(log.rewards, 4),
               "propensities": np.repeat(log.propensities, 4), "policy": np.repeat(log.policy, 4, axis=0)}  # fmt: skip
    naive, honest = PolicyLog.of(**columns), PolicyLog.of(**columns, clusters=np.repeat(np.arange(1000), 4))
    for method in (ips, snips):
        assert method(naive).error == pytest.approx(method(log).error / 2, rel=0.01)
        assert method(honest).error == pytest.approx(method(log).error)


def test_a_log_without_propensities_is_refused_with_a_way_out():
    with pytest.raises(Refused, match="no propensities.*log them from now on"):
        PolicyLog.of(**{**HAND, "propensities": None})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"propensities": [0.5, 0.0, 0.5, 0.5]}, "row 1 has propensity 0 "),
        ({"propensities": [0.5, 0.5, 1.5, 0.5]}, "row 2 has propensity 1.5"),
        ({"propensities": [0.5, 0.5, 0.5, math.nan]}, "row 3 has propensity nan"),
        ({"propensities": [0.5]}, "one of each"),
        ({"rewards": [1.0, math.nan, 0.0, 1.0]}, "row 1 has reward nan"),
        ({"rewards": [], "actions": [], "propensities": []}, "no rows"),
        ({"actions": [0, 1, 2, 1]}, "row 2 has action 2"),
        ({"actions": [0.0, 1.0, 0.0, 1.0]}, "index of the action"),
        ({"policy": [0.75, 0.35]}, "sums to 1.1"),
        ({"policy": [1.25, -0.25]}, "negative"),
        ({"policy": [[0.75, 0.25]] * 3}, "shape"),
        ({"clusters": [1, 2]}, "unit of each row"),
        ({"logging": [0.2, 0.3, 0.5]}, "knows 3 actions"),
    ],
)
def test_what_is_no_log_is_refused_with_the_row(change, words):
    with pytest.raises(InputError, match=words):
        PolicyLog.of(**{**HAND, **change})


def test_a_policy_that_does_what_the_log_never_did_is_refused():
    never = {**HAND, "policy": [0.5, 0.3, 0.2]}
    with pytest.raises(Refused, match=r"never takes 20.0%"):
        PolicyLog.of(**never)
    assert "lacks 20.0%" in str(ips(PolicyLog.of(**never, unseen=0.3)))
    with pytest.raises(Refused):
        PolicyLog.of(**HAND, logging=[1.0, 0.0])
    assert PolicyLog.of(**HAND, logging=[0.5, 0.5]).unseen == 0.0


def test_estimates_refuse_what_they_cannot_use():
    log = PolicyLog.of(**HAND)
    for wrong in (
        lambda: clipped_ips(log, limit=0.0), lambda: doubly_robust(log, [0.1]), lambda: direct_method(log, [0.1, math.nan]),
        lambda: ips(log, level=1.0), lambda: Bootstrap(np.random.default_rng(1), 10),
        lambda: reward_table(log, rng=np.random.default_rng(1), folds=9),
        lambda: reward_table(log, rng=np.random.default_rng(1), folds=2, groups=[0]),
        lambda: ips(PolicyLog.of(**{**HAND, "actions": [1] * 4, "policy": [1.0, 0.0]}, unseen=1.0)),
    ):  # fmt: skip
        with pytest.raises(InputError):
            wrong()


def test_one_row_and_equal_rewards_are_answered():
    one = PolicyLog.of(actions=[0], rewards=[2.0], propensities=[0.5], policy=[1.0, 0.0])
    assert (snips(one).value, snips(one).upper) == (2.0, math.inf)
    flat = PolicyLog.of(**{**HAND, "rewards": [0.0] * 4})
    assert (ips(flat).value, ips(flat).error) == (0.0, 0.0)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_offset_of_rewards(seed, scale, offset):
    log, _, _ = world(np.random.default_rng(seed), 60)
    moved = PolicyLog.of(actions=log.actions, rewards=log.rewards * scale + offset, propensities=log.propensities,
                         policy=log.policy)  # fmt: skip
    assert snips(moved).value == pytest.approx(snips(log).value * scale + offset, abs=1e-9 * (scale + abs(offset)))
    assert snips(moved).error == pytest.approx(snips(log).error * scale, rel=1e-6, abs=1e-9 * (1 + abs(offset)))


def test_a_result_reads_and_becomes_json():
    log = PolicyLog.of(**HAND)
    for told in evaluate_policy(log, predicted=MODEL):
        assert told.method in str(told)
        assert json.loads(json.dumps(told.to_dict()))["method"] == told.method


def read(policy: str, campaign: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(OPEN_BANDIT / f"obd_{policy}_{campaign}.parquet")
    names = ("item_id", "position", "click", "propensity_score")
    item, place, click, p = (table[name].to_numpy() for name in names)
    return item.astype(int), place.astype(int) - 1, click.astype(float), p


# IPS, SNIPS, mean weight, effective rows, largest weight, SNIPS clipped at 10: the data set's README
UNIFORM = {
    "men": (34, 0.003009, 0.003189, 0.943, 656, 178, 0.003831),
    "women": (46, 0.007438, 0.002373, 3.134, 2.08, 21_739, 0.005777),
}


@open_bandit
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_the_uniform_policy_judged_from_thompson_samplings_log(campaign):
    items, plain, normalised, mean, effective, largest, clipped = UNIFORM[campaign]
    action, _, click, p = read("bts", campaign)
    log = PolicyLog.of(actions=action, rewards=click, propensities=p, policy=np.full(items, 1 / items))
    assert ips(log).value == pytest.approx(plain, abs=5e-7)
    assert snips(log).value == pytest.approx(normalised, abs=5e-7)
    assert clipped_ips(log, limit=10).value == pytest.approx(clipped, abs=5e-7)
    told = log.diagnostics()
    assert told.mean_weight == pytest.approx(mean, abs=5e-4)
    assert told.effective == pytest.approx(effective, rel=2e-3)
    assert told.max_weight == pytest.approx(largest, rel=3e-3)
    warned = " ".join(snips(log).warnings)
    assert ("one row of weight 21,739" in warned and "weigh as much as 2.08" in warned) == (campaign == "women")
    truth = read("random", campaign)[2].mean()
    switched = switch_dr(log, reward_table(log, rng=np.random.default_rng(0)))
    assert switched.lower <= truth <= switched.upper


@open_bandit
@pytest.mark.parametrize("campaign", ["men", "women"])
@pytest.mark.parametrize("place", [None, 0, 1, 2])
def test_thompson_sampling_judged_from_the_random_log_agrees_with_its_own_log(campaign, place):
    items = UNIFORM[campaign][0]
    action, at, click, p = read("random", campaign)
    their_action, their_at, their_click, _ = read("bts", campaign)
    policy = np.stack([np.bincount(their_action[their_at == i], minlength=items) for i in range(3)]).astype(float)
    policy /= policy.sum(axis=1, keepdims=True)  # its choices by position, over the same week
    mine = np.ones(len(at), bool) if place is None else at == place
    theirs = np.ones(len(at), bool) if place is None else their_at == place
    log = PolicyLog.of(actions=action[mine], rewards=click[mine], propensities=p[mine], policy=policy[at[mine]])
    model = reward_table(log, rng=np.random.default_rng(0))
    n, clicks = int(theirs.sum()), int(their_click[theirs].sum())
    truth = stats.binomtest(clicks, n).proportion_ci(method="wilson")
    for told in evaluate_policy(log, predicted=model):
        if told.method == "DM":
            continue
        assert not told.warnings
        assert told.lower <= truth.high and truth.low <= told.upper, told
        gap = (told.value - clicks / n) / math.hypot(told.error, math.sqrt(clicks) / n)
        assert abs(gap) < 3.3, told  # 40 comparisons, Bonferroni at 4 %
