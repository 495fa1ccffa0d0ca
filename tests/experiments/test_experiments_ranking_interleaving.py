"""Interleaving: how lists are drawn, who is credited, and what the votes say."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.ranking.interleaving import (
    Interleaving,
    Team,
    balanced_interleaving,
    credit,
    probabilistic_interleaving,
    team_draft,
)
from flyball.experiments.ranking.preference import PreferenceProcess, preference
from flyball.experiments.ranking.sensitivity import Sensitivity, interleaving_sensitivity

DRAWS = [team_draft, balanced_interleaving, probabilistic_interleaving]
rankings = st.lists(st.integers(0, 9), unique=True, max_size=7)


@given(rankings, rankings, st.integers(0, 1000), st.integers(1, 9))
def test_every_item_comes_once_and_the_list_has_its_length(one, other, seed, k):
    for draw in DRAWS:
        shown = draw(one, other, rng=np.random.default_rng(seed), k=k)
        assert len(shown.items) == min(k, len({*one, *other}))
        assert len(set(shown.items)) == len(shown.items)
        assert len(shown.teams) == len(shown.chances) == len(shown.items)
        assert all(0.0 <= chance <= 1.0 for chance in shown.chances)
        for item, team in zip(shown.items, shown.teams, strict=True):
            assert item in (one if team is Team.TREATMENT else other)
        assert json.dumps(shown.to_dict())


@given(rankings, st.integers(0, 1000))
def test_equal_rankings_are_shown_as_they_are_and_nobody_is_preferred_by_expected_credit(one, seed):
    for draw in (team_draft, balanced_interleaving):
        shown = draw(one, one, rng=np.random.default_rng(seed))
        assert list(shown.items) == one
    drafted = team_draft(one, one, rng=np.random.default_rng(seed))
    assert credit(drafted, range(len(one)), rule="expected") == 0.0
    assert credit(balanced_interleaving(one, one, rng=np.random.default_rng(seed)), range(len(one))) == 0.0


def test_team_draft_is_radlinskis_table():
    # Radlinski et al. (2008), figure 2: by rounds each side picks its best item that is left
    lists = {team_draft("abcd", "bead", rng=np.random.default_rng(s)).items for s in range(60)}
    assert lists == {tuple("abce" + "d"), tuple("abec" + "d"), tuple("bace" + "d"), tuple("baec" + "d")}


def test_the_coin_is_hidden_only_where_both_sides_would_have_shown_the_same():
    for seed in range(20):
        shown = team_draft("abc", "abd", rng=np.random.default_rng(seed))
        assert shown.chances[:2] == (0.5, 0.5)
        assert shown.chances[2:] == tuple(float(team is Team.TREATMENT) for team in shown.teams[2:])


def test_a_click_at_the_head_of_team_draft_is_worth_nothing_on_average_between_equal_rankings():
    rng, runs = np.random.default_rng(1), 4000
    votes = [credit(team_draft("abcdef", "abcdef", rng=rng, k=4), [0]) for _ in range(runs)]
    assert abs(np.mean(votes)) < 4 / math.sqrt(runs)


def test_probabilistic_lists_come_as_often_as_the_softmax_says():
    rng, runs = np.random.default_rng(2), 6000
    first = [probabilistic_interleaving("ab", "ba", rng=rng, tau=3).items[0] for _ in range(runs)]
    assert abs(first.count("a") / runs - 0.5) < 4 * 0.5 / math.sqrt(runs)
    shown = probabilistic_interleaving("ab", "ba", rng=rng, tau=3)
    share = 1 / (1 + 2**-3)  # of a ranking's own first item
    assert shown.chances[0] == pytest.approx(share if shown.items[0] == "a" else 1 - share)
    assert shown.chances[1] == 0.5  # one item is left to both


def test_chances_are_how_often_the_coin_named_the_treatment():
    rng, seen = np.random.default_rng(3), {}
    for _ in range(4_000):
        shown = probabilistic_interleaving("abc", "cab", rng=rng)
        if shown.items == ("a", "c", "b"):
            seen.setdefault(shown.chances, []).append([team is Team.TREATMENT for team in shown.teams])
    ((chances, teams),) = seen.items()
    for expected, told in zip(chances, np.mean(teams, axis=0), strict=True):
        assert abs(told - expected) < 4 * 0.5 / math.sqrt(len(teams))


def shown(teams: str, method="team draft", ranks=()) -> Interleaving:
    sides = tuple(Team.TREATMENT if t == "T" else Team.CONTROL for t in teams)
    chances = tuple(float(t == "T") for t in teams)
    return Interleaving(tuple(range(len(teams))), sides, chances, tuple(ranks), method)


@pytest.mark.parametrize(
    ("clicks", "rule", "vote"),
    [([], "clicks", 0.0), ([0, 1, 3], "clicks", 1.0), ([0, 1], "binary", 0.0), ([0, 3], "binary", 1.0),
     ([1, 2], "binary", -1.0), ([0, 1], "discounted", 1 - 1 / math.log2(3)), ([0, 3, 3], "expected", 3.0)],
)  # fmt: skip
def test_credit_follows_its_rule(clicks, rule, vote):
    assert credit(shown("TCCT"), clicks, rule=rule) == pytest.approx(vote)


def test_balanced_credit_counts_clicks_to_the_same_depth_of_both_rankings():
    # treatment a b c d, control b e a f; list a b e c ...: the lowest click e stands at depth 2 of the control (0-based 1)
    drawn = Interleaving(tuple("abec"), (Team.TREATMENT, Team.CONTROL) * 2, (0.5,) * 4, ((0, 2), (1, 0), (8, 1), (2, 8)),
                         "balanced")  # fmt: skip
    assert credit(drawn, [0, 2]) == 0.0  # of a and e: treatment's top 2 holds a, control's top 2 holds e
    assert credit(drawn, [0]) == 1.0
    assert credit(drawn, [1, 2]) == -1.0  # b is in both, e in the control's only
    assert credit(drawn, [1, 2], rule="binary") == -1.0
    with pytest.raises(InputError, match="balanced"):
        credit(drawn, [0], rule="expected")


@pytest.mark.parametrize("draw", DRAWS)
def test_the_better_ranking_wins_and_swapping_the_arms_turns_the_sign(draw):
    good, bad = list(range(10)), [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]

    def votes(one, other, seed):
        rng = np.random.default_rng(seed)
        drawn = [draw(one, other, rng=rng, k=6) for _ in range(400)]
        return [credit(s, [i for i, item in enumerate(s.items) if item < 2 and rng.random() < 0.5]) for s in drawn]

    there, back = preference(votes(good, bad, 4)), preference(votes(bad, good, 5))
    assert there.significant and there.effect > 0.0
    assert back.significant and back.effect < 0.0
    flipped = preference([-v for v in votes(good, bad, 4)])
    assert (flipped.effect, flipped.lower, flipped.upper) == pytest.approx((-there.effect, -there.upper, -there.lower))
    assert flipped.p == pytest.approx(there.p)


@pytest.mark.parametrize("draw", [team_draft, probabilistic_interleaving])
def test_random_clicks_prefer_nobody(draw):
    rng, runs, n = np.random.default_rng(6), 200, 30
    wrong = 0
    for _ in range(runs):
        drawn = [draw("abcde", "edcba", rng=rng, k=4) for _ in range(n)]
        wrong += preference([credit(s, rng.choice(4, 2)) for s in drawn] + [1, -1], alternative="greater").p < 0.05
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_sign_test_is_scipys_binomial_test():
    votes = [1] * 34 + [-1] * 18 + [0] * 9
    for side in ("two-sided", "greater", "less"):
        ours, reference = preference(votes, alternative=side), stats.binomtest(34, 52, alternative=side)
        assert ours.p == pytest.approx(reference.pvalue)
        exact = reference.proportion_ci(0.95, "exact")
        assert ((ours.lower + 1) / 2, (ours.upper + 1) / 2) == pytest.approx((exact.low, exact.high))
    assert "9 of 61 votes are ties" in str(preference(votes))


def test_graded_votes_are_students_test():
    votes = np.random.default_rng(7).normal(0.2, 1, 80)
    for side in ("two-sided", "greater", "less"):
        ours, reference = preference(votes, test="t", alternative=side), stats.ttest_1samp(votes, 0, alternative=side)
        assert ours.p == pytest.approx(reference.pvalue)
        interval = reference.confidence_interval(0.95)
        assert (ours.lower, ours.upper) == pytest.approx((interval.low, interval.high))


def test_a_unit_votes_once():
    once = preference([1, -1, 1, 1], units=["u", "u", "v", "w"])
    assert once.n == (2, 0)
    assert preference([1] * 5 + [-1] * 2, units=[1, 1, 1, 1, 1, 2, 3]).n == (1, 2)
    with pytest.raises(InputError):
        preference([1, 1], units=[1])


@pytest.mark.parametrize("votes", [[], [0.0, 0.0], [math.nan, 1.0], [[1.0]]])
def test_votes_that_say_nothing_are_refused(votes):
    with pytest.raises(InputError):
        preference(votes)
    with pytest.raises(InputError):
        preference(votes, test="t")


def test_all_votes_for_one_side_and_huge_counts_are_answered():
    assert preference([1]).upper == 1.0
    assert preference([-1] * 20).lower == -1.0
    told = PreferenceProcess(wins=10**12, losses=10**12 + 3 * 10**6).estimate()
    assert -1e-5 < told.lower < told.effect < told.upper < 1e-5


def test_looking_after_every_vote_keeps_the_promise_and_the_interval_covers():
    rng, runs, alpha = np.random.default_rng(8), 250, 0.05
    wrong = missed = 0
    for _ in range(runs):
        process, bad = PreferenceProcess(), False
        for vote in rng.choice([-1.0, 0.0, 1.0], 120, p=[0.4, 0.2, 0.4]).tolist():
            process = process.add([vote])
        wrong += process.p <= alpha
        biased = PreferenceProcess()
        for batch in np.split(rng.choice([-1.0, 1.0], 200, p=[0.3, 0.7]), 10):
            biased = biased.add(batch)
            told = biased.estimate()
            bad |= not told.lower <= 0.4 <= told.upper
        missed += bad
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert wrong / runs <= limit
    assert missed / runs <= limit


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), max_size=20), max_size=6))
def test_the_state_survives_json_and_mirrors(batches):
    process = turned = resumed = PreferenceProcess()
    for batch in batches:
        process = process.add(batch)
        turned = turned.add([-vote for vote in batch])
        resumed = PreferenceProcess.from_dict(json.loads(json.dumps(resumed.to_dict()))).add(batch)
    assert resumed == process
    there, back = process.estimate(), turned.estimate()
    assert (back.effect, back.lower, back.upper) == pytest.approx(
        (-there.effect, -there.upper, -there.lower), abs=1e-12
    )
    assert turned.p == pytest.approx(process.p)
    with pytest.raises(InputError):
        process.add([math.nan])


def test_interleaving_finds_the_better_ranking_with_fewer_impressions_than_a_split():
    relevance = {item: 0.6 if item < 3 else 0.05 for item in range(10)}
    good, slightly_worse = list(range(10)), [0, 3, 1, 4, 2, 5, 6, 7, 8, 9]

    def cascade(items, rng):
        clicked = []
        for at, item in enumerate(items):
            if rng.random() < relevance[item]:
                clicked.append(at)
            if rng.random() < 0.35:
                break
        return clicked

    told = interleaving_sensitivity(
        [(good, slightly_worse)], cascade, rng=np.random.default_rng(9), impressions=6000, k=5
    )
    assert told.interleaved > 0.0
    assert told.gain > 2.0
    assert told.needed()[0] < told.needed()[1]
    assert "impressions where an A/B test needs" in str(told)
    with pytest.raises(InputError):
        interleaving_sensitivity([], cascade, rng=np.random.default_rng(1))


def test_the_signal_is_that_of_the_click_model_and_the_impressions_needed_find_it():
    def click(items, rng):
        return [0] if rng.random() < (0.5 if items[0] == "a" else 0.35) else []

    n = 8_000
    told = interleaving_sensitivity([("ab", "ba")], click, rng=np.random.default_rng(10), impressions=n, k=2)
    signal = 0.075 / math.sqrt(0.425 - 0.075**2)  # a vote is +1 in 25 %, -1 in 17.5 %
    split = 0.15 / math.sqrt(2 * (0.5 * 0.5 + 0.35 * 0.65))
    assert told.interleaved == pytest.approx(signal, abs=4 / math.sqrt(n))
    assert told.split == pytest.approx(split, abs=4 / math.sqrt(n))
    needed, runs, rng = math.ceil(Sensitivity(signal, split, n).needed(power=0.8)[0]), 1000, np.random.default_rng(11)
    votes = rng.choice([1.0, -1.0, 0.0], (runs, needed), p=[0.25, 0.175, 0.575])
    found = sum(preference(row, test="t").p < 0.05 for row in votes)
    assert abs(found / runs - 0.8) < 4 * math.sqrt(0.8 * 0.2 / runs)


@pytest.mark.parametrize(
    "wrong",
    [lambda d: d("aa", "ab", rng=np.random.default_rng(1)), lambda d: d("ab", "ab", rng=np.random.default_rng(1), k=0)],
)
@pytest.mark.parametrize("draw", DRAWS)
def test_what_is_no_ranking_is_refused(draw, wrong):
    with pytest.raises(InputError):
        wrong(draw)


def test_unknown_rules_and_clicks_beyond_the_list_are_refused():
    with pytest.raises(UnknownName):
        credit(shown("TC"), [0], rule="click")
    with pytest.raises(InputError, match="place 2 of a list of 2"):
        credit(shown("TC"), [2])
    with pytest.raises(UnknownName):
        preference([1.0], test="z")
    with pytest.raises(InputError):
        probabilistic_interleaving("a", "b", rng=np.random.default_rng(1), tau=0.0)
