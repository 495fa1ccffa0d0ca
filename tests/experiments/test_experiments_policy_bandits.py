"""Shares of bandits and rules to stop: formulas, invariants, and errors under continuous looks."""

import json
import math

import numpy as np
import pytest
from experiments_kit import rate
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import InputError, UnknownName
from flyball.experiments.bayes import beta_posterior, mean_posterior, probability_best
from flyball.experiments.policy.bandits import allocate, choose, epsilon_greedy, floored, thompson, ucb1, won
from flyball.experiments.stats import Moments, moments


def test_thompsons_shares_are_how_often_a_draw_is_largest():
    arms = [beta_posterior(10, 100), beta_posterior(14, 100), beta_posterior(9, 80)]
    rng, draws = np.random.default_rng(1), 200_000
    largest = np.argmax([rng.beta(arm.a, arm.b, draws) for arm in arms], axis=0)
    seen = np.bincount(largest, minlength=3) / draws
    assert thompson(arms) == pytest.approx(seen, abs=4 * 0.5 / math.sqrt(draws))


def test_normal_rewards_are_allocated_by_their_t_posterior():
    rng = np.random.default_rng(2)
    arms = {"a": moments(rng.normal(-3, 1, 40)), "b": moments(rng.normal(-2.8, 2, 40))}
    shares = allocate(arms, rewards="normal", floor=0.0).shares
    assert list(shares.values()) == pytest.approx(probability_best([mean_posterior(arm) for arm in arms.values()]))
    down = allocate(arms, rewards="normal", floor=0.0, direction="down").shares
    assert down["a"] == pytest.approx(shares["b"])


def test_ucb1_is_the_formula_of_auer_2002():
    means, counts = [0.5, 0.45, 0.2], [400, 30, 10]
    index = [m + math.sqrt(2 * math.log(440) / n) for m, n in zip(means, counts, strict=True)]
    assert np.argmax(ucb1(means, counts)) == np.argmax(index)
    assert ucb1([0.1, 0.1], [5, 5]) == (0.5, 0.5)
    assert ucb1([0.0, 0.0, 0.0], [0, 3, 0]) == (0.5, 0.0, 0.5)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=5),
    st.sampled_from(["thompson", "epsilon-greedy", "ucb1"]), st.floats(0, 0.2), st.sampled_from(["up", "down"]),
)  # fmt: skip
def test_shares_sum_to_one_and_keep_the_floor(counts, policy, floor, direction):
    arms = {f"arm{i}": rate(k, k + more) for i, (k, more) in enumerate(counts)}
    result = allocate(arms, policy=policy, floor=floor, direction=direction)
    assert math.fsum(result.shares.values()) == pytest.approx(1.0)
    assert min(result.shares.values()) >= floor - 1e-12
    assert math.fsum(result.best.values()) == pytest.approx(1.0)
    assert json.dumps(result.to_dict())


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_swapping_hits_and_misses_is_swapping_the_direction(a, b, c, d):
    up = allocate({"x": rate(a, a + b), "y": rate(c, c + d)}, floor=0.0)
    down = allocate({"x": rate(b, a + b), "y": rate(d, c + d)}, floor=0.0, direction="down")
    if a + b and c + d:
        assert down.shares == pytest.approx(up.shares, abs=1e-9)


def test_shares_are_even_until_there_is_something_to_follow():
    even = {"a": 0.5, "b": 0.5}
    assert allocate({"a": Moments(), "b": Moments()}).shares == pytest.approx(even)
    assert allocate({"a": Moments(5, 1.0, 0.0), "b": Moments(9, 2.0, 3.0)}, rewards="normal").shares == even
    assert allocate({"a": rate(5, 50), "b": rate(9, 50)}, burn=100).shares == even
    assert allocate({"a": rate(0, 9), "b": rate(9, 9)}, floor=0.0).shares["b"] > 0.99


def test_choose_draws_in_the_shares_and_tells_the_propensity():
    rng, shares = np.random.default_rng(3), {"a": 0.2, "b": 0.8}
    drawn = [choose(shares, rng) for _ in range(4000)]
    assert abs(sum(arm == "a" for arm, _ in drawn) / 4000 - 0.2) < 4 * math.sqrt(0.16 / 4000)
    assert all(p == pytest.approx(shares[arm]) for arm, p in drawn)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: allocate({"a": rate(1, 2)}),
        lambda: allocate({"a": Moments(3, 7.0, 1.0), "b": rate(1, 2)}),
        lambda: allocate({"a": Moments(3, math.nan, 1.0), "b": rate(1, 2)}),
        lambda: allocate({"a": rate(1, 2), "b": rate(1, 2)}, floor=0.6),
        lambda: epsilon_greedy([0.1], epsilon=1.5),
        lambda: epsilon_greedy([]),
        lambda: ucb1([0.1], [1, 2]),
        lambda: floored([0.5, 0.5], -0.1),
        lambda: won({"a": rate(1, 2), "b": rate(1, 2)}, alpha=0.0),
    ],
)
def test_what_cannot_be_allocated_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()


def test_unknown_words_name_the_known_ones():
    arms = {"a": rate(1, 2), "b": rate(1, 2)}
    for call in (
        lambda: allocate(arms, policy="thomson"), lambda: allocate(arms, rewards="bernouli"),
        lambda: allocate(arms, direction="Up"), lambda: won(arms, rule="confidenze"),
    ):  # fmt: skip
        with pytest.raises(UnknownName, match="did you mean|known|one of"):
            call()


def test_no_arm_wins_before_it_has_its_units_or_without_data():
    arms = {"a": rate(1, 60), "b": rate(55, 60)}
    assert won(arms).arm is None
    assert "60 of 100 units" in won(arms).sentence
    assert won(arms, min_units=50).arm == "b"
    for rule in ("confidence", "probability", "loss"):
        assert won({"a": Moments(), "b": Moments()}, rule=rule).arm is None
        assert won({"a": Moments(200, 1.0, 0.0), "b": Moments(200, 1.0, 0.0)}, rule=rule, rewards="normal").arm is None
        assert json.dumps(won({"a": Moments(), "b": rate(1, 9)}, rule=rule).to_dict())


def test_only_confidence_says_that_it_holds_at_every_look():
    arms = {"a": rate(400, 2000), "b": rate(200, 2000), "c": rate(210, 2000)}
    answers = {rule: won(arms, rule=rule, loss=0.001) for rule in ("confidence", "probability", "loss")}
    assert {rule: answer.anytime for rule, answer in answers.items()} == {
        "confidence": True, "probability": False, "loss": False,
    }  # fmt: skip
    assert all(answer.arm == "a" for answer in answers.values())
    assert won(arms, direction="down").arm is None
    assert won({"a": rate(400, 2000), "b": rate(200, 2000)}, direction="down").arm == "b"


def bandit(rng, rates, *, rule, looks, per_look, normal=False):
    """Run Thompson sampling; return the arm that won, if any, looking after every stretch."""
    names = [f"arm{i}" for i in range(len(rates))]
    arms = dict.fromkeys(names, Moments())
    rewards = "normal" if normal else "bernoulli"
    for _ in range(looks):
        shares = allocate(arms, rewards=rewards, floor=0.1).shares
        for name, n, value in zip(names, rng.multinomial(per_look, list(shares.values())), rates, strict=True):
            new = moments(rng.normal(value, 1, n)) if normal else rate(rng.binomial(n, value), int(n))
            arms[name] = arms[name].merge(new)
        answer = won(arms, rewards=rewards, rule=rule)
        if answer.arm is not None:
            return answer.arm
    return None


@pytest.mark.parametrize("normal", [False, True])
def test_under_adaptive_shares_and_continuous_looks_confidence_keeps_its_error(normal):
    rng, runs = np.random.default_rng(4), 50
    rates = [0.3, 0.3] if not normal else [1.0, 1.0]
    wrong = sum(
        bandit(rng, rates, rule="confidence", looks=12, per_look=130, normal=normal) is not None for _ in range(runs)
    )
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_under_continuous_looks_the_probability_rule_errs_more_often_as_it_says():
    rng, runs = np.random.default_rng(5), 30
    wrong = sum(bandit(rng, [0.3, 0.3], rule="probability", looks=12, per_look=130) is not None for _ in range(runs))
    assert wrong / runs > 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_better_arm_wins_and_gets_the_traffic():
    rng = np.random.default_rng(6)
    winners = [bandit(rng, [0.1, 0.2], rule="confidence", looks=30, per_look=400) for _ in range(20)]
    assert winners == ["arm1"] * 20
