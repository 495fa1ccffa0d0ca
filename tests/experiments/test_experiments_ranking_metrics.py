"""Ranking metrics against scikit-learn, hand tables, and averages over every order of tied items."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from flyball.errors import InputError, UnknownName
from flyball.experiments.ranking.metrics import (
    Rankings,
    average_precision,
    ndcg,
    precision_at,
    recall_at,
    reciprocal_rank,
)

METRICS = [
    ndcg, lambda r: ndcg(r, k=2), lambda r: ndcg(r, k=3, gains="linear"), average_precision,
    lambda r: average_precision(r, k=3), reciprocal_rank, lambda r: reciprocal_rank(r, k=2),
    lambda r: recall_at(r, k=2), lambda r: precision_at(r, k=3),
]  # fmt: skip


@pytest.mark.parametrize("k", [None, 1, 5, 10, 50])
@pytest.mark.parametrize("levels", [1000, 4])  # without and with ties
def test_ndcg_is_scikit_learns(k, levels):
    rng = np.random.default_rng(1)
    grades = rng.integers(0, 4, (60, 12)).astype(float)
    scores = rng.integers(0, levels, (60, 12)).astype(float)
    ours = ndcg(Rankings.of(list(grades), list(scores)), k=k, gains="linear")
    kept = ours.scored
    assert ours.mean == pytest.approx(ndcg_score(grades[kept], scores[kept], k=k))


def test_ndcg_of_the_example_that_every_text_shows():
    shown = Rankings.of([[3, 2, 3, 0, 1, 2]])  # Wikipedia, "Discounted cumulative gain": DCG 6.861, ideal of six 7.141
    gains = [3, 2, 3, 0, 1, 2]
    dcg, ideal = (sum(g / math.log2(i + 2) for i, g in enumerate(x)) for x in (gains, sorted(gains, reverse=True)))
    assert (round(dcg, 3), round(ideal, 3)) == (6.861, 7.141)
    assert ndcg(shown, gains="linear").mean == pytest.approx(dcg / ideal)


def test_average_precision_recall_and_precision_of_manning_et_al():
    # two queries in ranked order; relevant at 1, 3, 6, 9, 10 and at 2, 5, 7
    lists = [[1, 0, 1, 0, 0, 1, 0, 0, 1, 1], [0, 1, 0, 0, 1, 0, 1, 0, 0, 0]]
    ranked = Rankings.of(lists)
    first, second = average_precision(ranked).values
    assert first == pytest.approx((1 / 1 + 2 / 3 + 3 / 6 + 4 / 9 + 5 / 10) / 5)
    assert second == pytest.approx((1 / 2 + 2 / 5 + 3 / 7) / 3)
    assert average_precision(ranked).mean == pytest.approx(0.5325, abs=5e-4)
    assert reciprocal_rank(ranked).values.tolist() == [1.0, 0.5]
    assert recall_at(ranked, k=5).values == pytest.approx([2 / 5, 2 / 3])
    assert precision_at(ranked, k=5).values == pytest.approx([0.4, 0.4])


def test_a_perfect_list_has_one_whatever_k():
    ranked = Rankings.of([[3, 2, 2, 1, 0, 0]])
    for k in (1, 2, 4, 6, 10):
        assert ndcg(ranked, k=k).mean == pytest.approx(1.0)
        assert average_precision(ranked, k=k).mean == pytest.approx(1.0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=6))
def test_ties_count_the_mean_over_all_their_orders(items):
    grades, scores = np.array([g for g, _ in items], float), np.array([s for _, s in items], float)
    orders = [p for p in itertools.permutations(range(len(items))) if (np.diff(scores[list(p)]) <= 0).all()]
    for metric in METRICS:
        ours = metric(Rankings.of([grades], [scores]))
        every = metric(Rankings.of([grades[list(p)] for p in orders]))
        if grades.max() == 0:
            assert ours.left_out == 1
        else:
            assert ours.mean == pytest.approx(every.mean, abs=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_and_the_scale_of_scores_are_no_matter(seed):
    rng = np.random.default_rng(seed)
    query, grade, score = rng.integers(0, 6, 40), rng.integers(0, 4, 40), rng.integers(0, 9, 40).astype(float)
    turn = rng.permutation(40)
    plain = Rankings.from_columns(query, grade, score)
    other = Rankings.from_columns(query[turn], grade[turn], score[turn] * 1e-3 - 1e3)
    for metric in METRICS:
        assert metric(other).values == pytest.approx(metric(plain).values)
        assert ((metric(plain).values >= 0) & (metric(plain).values <= 1)).all()


def test_a_ranker_that_gives_all_the_same_score_earns_what_shuffling_does():
    rng = np.random.default_rng(2)
    grades, runs = np.array([1.0, 0, 0, 1, 0, 0, 0, 1]), 4000
    shuffled = Rankings.of([rng.permutation(grades) for _ in range(runs)])
    flat = Rankings.of([grades], [np.zeros(8)])
    for metric in METRICS:
        spread = metric(shuffled).values.std()
        assert metric(flat).mean == pytest.approx(metric(shuffled).mean, abs=4 * spread / math.sqrt(runs) + 1e-12)


def test_queries_without_relevant_items_and_empty_lists_are_left_out_and_counted():
    ranked = Rankings.of([[], [0, 0], [0, 1], []], [[], [1.0, 2.0], [1.0, 2.0], []])
    for metric in METRICS:
        told = metric(ranked)
        assert (told.left_out, told.scored.tolist()) == (3, [False, False, True, False])
        assert told.moments.n == 1
    assert ndcg(ranked).to_dict() == {"name": "ndcg", "mean": 1.0, "queries": 1, "left_out": 3}
    nothing = ndcg(Rankings.of([]))
    assert json.dumps(nothing.to_dict())
    assert "no query" in str(nothing)
    with pytest.raises(InputError, match="nothing to average"):
        _ = nothing.mean


def test_items_that_were_not_retrieved_count_against_recall():
    ranked = Rankings.of([[1, 1, 0]])
    assert recall_at(ranked, total=[4]).mean == pytest.approx(0.5)
    assert average_precision(ranked, total=[4]).mean == pytest.approx(0.5)
    missed = Rankings.of([[0, 0]])
    assert recall_at(missed, total=[2]).mean == 0.0
    with pytest.raises(InputError):
        recall_at(ranked, total=[1])


def test_graded_items_are_relevant_from_a_grade_on():
    ranked = Rankings.of([[1, 3, 2]])
    assert reciprocal_rank(ranked, relevant=2).mean == 0.5
    assert precision_at(ranked, k=3, relevant=2).mean == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rankings.of([[1, -1]]), lambda: Rankings.of([[1, math.nan]]), lambda: Rankings.of([[1, 0]], [[1.0]]),
        lambda: Rankings.of([[1]], [[1.0], [2.0]]), lambda: Rankings.of([[1]], [[math.inf]]),
        lambda: Rankings.from_columns([1, 2], [1], [1.0]), lambda: ndcg(Rankings.of([[60]])),
        lambda: ndcg(Rankings.of([[1]]), k=0), lambda: recall_at(Rankings.of([[1]]), relevant=0),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()


def test_large_grades_are_fine_with_linear_gains_and_unknown_gains_are_named():
    assert ndcg(Rankings.of([[60, 0]]), gains="linear").mean == 1.0
    with pytest.raises(UnknownName):
        ndcg(Rankings.of([[1]]), gains="expo")


def test_many_queries_of_any_length_come_out_as_one_by_one():
    rng = np.random.default_rng(3)
    lists = [rng.integers(0, 3, rng.integers(0, 9)).astype(float) for _ in range(300)]
    scores = [rng.integers(0, 4, len(items)).astype(float) for items in lists]
    for metric in METRICS:
        together = metric(Rankings.of(lists, scores))
        alone = [metric(Rankings.of([g], [s])) for g, s in zip(lists, scores, strict=True)]
        assert together.values == pytest.approx([told.mean for told in alone if len(told.values)])
