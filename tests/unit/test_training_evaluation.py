"""Figures of merit where the answer is known: simulated votes, labels and numbers, right and wrong models."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from galaxray import posterior
from galaxray.training.evaluation import (
    as_json,
    estimates,
    evaluate_classes,
    evaluate_regression,
    evaluate_votes,
)
from galaxray.training.evaluation.bootstrap import sums
from galaxray.training.evaluation.calibration import covered, pit_shares, simulate_votes, vote_steps
from galaxray.training.evaluation.ranks import area_under_roc, spearman
from galaxray.training.evaluation.votes import constant_prediction
from galaxray.training.scores import binary_scores
from galaxray.trees import load_tree

TREE = load_tree("gz_decals_5")
SPAN = slice(TREE.questions[0].start, TREE.questions[0].stop)


def simulate(num: int, low: int, high: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations of three passes that disagree, and low to high votes on each question that follow them."""
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(1, 30, (num, len(TREE), 3))
    votes = np.zeros((num, len(TREE)), np.int64)
    for q in TREE.questions:
        votes[:, q.start : q.stop] = simulate_votes(rng.integers(low, high + 1, num), alpha[:, q.start : q.stop], rng)
    return alpha, votes


def is_near(estimate: Any, expected: float, sigmas: float = 4) -> bool:
    return bool(abs(estimate.value - expected) < sigmas * estimate.error)


# Coverage and PIT


def test_steps_are_those_of_beta_binomials() -> None:
    alpha, votes = simulate(40, 0, 9)
    below, at = vote_steps(votes, alpha, TREE)
    for q in TREE.questions:
        a = alpha[:, q.start : q.stop]
        voters = votes[:, q.start : q.stop].sum(1)[:, None, None]
        k = votes[:, q.start : q.stop, None]
        law = stats.betabinom(np.maximum(voters, 1), a, a.sum(1, keepdims=True) - a)
        asked = voters[:, 0, 0] > 0
        np.testing.assert_allclose(at[asked, q.start : q.stop], law.pmf(k).mean(2)[asked], rtol=1e-9)
        np.testing.assert_allclose(below[asked, q.start : q.stop], law.cdf(k - 1).mean(2)[asked], rtol=1e-9)
        assert np.isnan(at[~asked, q.start : q.stop]).all()


def test_many_votes_do_not_underflow() -> None:
    alpha = np.full((1, len(TREE), 1), 50.0)
    votes = np.zeros((1, len(TREE)), np.int64)
    votes[0, SPAN] = [40_000, 30_000, 30_000]
    below, at = vote_steps(votes, alpha, TREE)
    law = stats.betabinom(100_000, 50, 100)
    np.testing.assert_allclose(below[0, SPAN], law.cdf([39_999, 29_999, 29_999]), rtol=1e-6)
    np.testing.assert_allclose(at[0, SPAN], law.pmf([40_000, 30_000, 30_000]), rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 4), (10, 40)])
def test_the_right_model_covers_what_it_says_however_few_the_votes(low: int, high: int) -> None:
    alpha, votes = simulate(2000, low, high)
    overall = evaluate_votes(alpha, votes, TREE, min_votes=1)["overall"]
    for level in (50, 80, 90, 95):
        assert is_near(overall[f"coverage_{level}"], level / 100)
        assert overall[f"coverage_{level}"].error < 0.006
    deviations = (overall["pit"].value - 1) / overall["pit"].error
    assert np.abs(deviations).max() < 4.5
    assert overall["calibration_error"].value < 2 * overall["calibration_error_if_perfect"]


def test_intervals_of_whole_counts_hold_more_than_they_say() -> None:
    """Why the step is spread: for few votes the interval of counts holds far more."""
    alpha, votes = simulate(500, 3, 3)
    lower, upper = posterior.vote_intervals(np.full((500, len(TREE.questions)), 3), alpha, TREE, 0.5)
    observed = votes / 3
    assert ((lower <= observed) & (observed <= upper)).mean() > 0.6
    assert np.nanmean(covered(*vote_steps(votes, alpha, TREE), 0.5)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("factor", [10, 1.5])
def test_an_overconfident_model_is_seen(factor: float) -> None:
    alpha, votes = simulate(1000, 10, 40)
    overall = evaluate_votes(factor * alpha, votes, TREE)["overall"]
    assert overall["coverage_90"].value < 0.9 - 5 * overall["coverage_90"].error
    pit = overall["pit"].value
    assert pit[[0, -1]].mean() > 1.1 > 1 > pit[5:15].mean()


def test_an_underconfident_model_is_seen() -> None:
    alpha, votes = simulate(1000, 10, 40)
    overall = evaluate_votes(alpha / 3, votes, TREE)["overall"]
    assert overall["coverage_50"].value > 0.5 + 5 * overall["coverage_50"].error
    assert overall["pit"].value[[0, -1]].mean() < 0.8


def test_a_model_that_leans_to_an_answer_is_seen() -> None:
    alpha, votes = simulate(1000, 10, 40)
    leaning = alpha.copy()
    leaning[:, SPAN.start] *= 2
    question = evaluate_votes(leaning, votes, TREE)["questions"][TREE.questions[0].name]
    right = evaluate_votes(alpha, votes, TREE)["questions"][TREE.questions[0].name]
    assert question["calibration_error"].value > 3 * question["calibration_error_if_perfect"]
    assert right["calibration_error"].value < 2 * right["calibration_error_if_perfect"]
    assert question["nll"].value > right["nll"].value
    gap = question["reliability_observed"].value - question["reliability_predicted"].value
    assert np.nanmax(np.abs(gap) / question["reliability_observed"].error) > 5


def test_shares_of_a_step_add_up_to_one() -> None:
    alpha, votes = simulate(50, 0, 40)
    below, at = vote_steps(votes, alpha, TREE)
    shares = pit_shares(below, at, 20).sum(-1)
    np.testing.assert_allclose(shares[np.isfinite(below)], 1, atol=1e-6)
    np.testing.assert_allclose(pit_shares(np.array([0.3]), np.array([1e-20]), 4), [[0, 1, 0, 0]])


# Likelihood, accuracy, fractions


def test_likelihood_and_deviance_by_hand() -> None:
    alpha, votes = simulate(30, 1, 5)
    question = evaluate_votes(alpha[:, :, :1], votes, TREE)["questions"][TREE.questions[0].name]
    k, a = votes[:, SPAN], alpha[:, SPAN, 0]
    nll = -stats.dirichlet_multinomial.logpmf(k, a, k.sum(1))
    assert question["nll"].value == pytest.approx(nll.mean())
    best = -stats.multinomial.logpmf(k, k.sum(1), k / k.sum(1, keepdims=True))
    assert question["deviance"].value == pytest.approx(2 * (nll - best).mean())


def test_the_best_constant_explains_nothing_and_a_worse_one_less() -> None:
    _, votes = simulate(500, 0, 40)
    constant = np.concatenate([constant_prediction(votes[:, q.start : q.stop]) for q in TREE.questions])
    overall = evaluate_votes(np.tile(constant[None, :, None], (500, 1, 1)), votes, TREE)["overall"]
    assert overall["deviance_explained"].value == pytest.approx(0, abs=1e-9)
    assert overall["nll"].value == pytest.approx(overall["nll_constant"].value)
    worse = evaluate_votes(np.tile(1.1 * constant[None, :, None], (500, 1, 1)), votes, TREE)["overall"]
    assert worse["deviance_explained"].value < 0


def test_the_best_constant_is_the_distribution_that_drew_the_votes() -> None:
    alpha = np.tile(np.array([8.0, 2.0, 1.0])[None, :, None], (4000, 1, 1))
    rng = np.random.default_rng(0)
    votes = simulate_votes(rng.integers(0, 40, 4000), alpha, rng)
    np.testing.assert_allclose(constant_prediction(votes), [8, 2, 1], rtol=0.1)


def test_the_best_constant_for_votes_that_all_agree_is_finite() -> None:
    assert np.isfinite(constant_prediction(np.tile([30, 0, 0], (50, 1)))).all()


def test_accuracy_is_of_galaxies_on_which_volunteers_agree() -> None:
    question = TREE.question("disk-edge-on")
    alpha = np.ones((4, len(TREE), 1))
    alpha[:, question.start] = 50
    votes = np.zeros((4, len(TREE)), np.int64)
    votes[:, question.start : question.stop] = [[36, 4], [4, 36], [24, 16], [9, 0]]
    scores = evaluate_votes(alpha, votes, TREE)["questions"][question.name]
    assert (scores["galaxies"], scores["agreeing"]) == (4, 2)
    assert scores["accuracy"].value == scores["balanced_accuracy"] == 0.5
    np.testing.assert_array_equal(scores["confusion"], [[1, 0], [1, 0]])
    expected = np.abs(50 / 51 - np.array([0.9, 0.1, 0.6])).mean()
    assert scores["mae"].value == pytest.approx(expected)


def test_what_nobody_was_asked_has_no_figures_and_is_null_in_json() -> None:
    alpha, votes = simulate(20, 10, 20)
    bar = TREE.question("bar")
    votes[:, bar.start : bar.stop] = 0
    metrics = evaluate_votes(alpha, votes, TREE)
    assert metrics["questions"][bar.name]["galaxies"] == 0
    assert np.isnan(metrics["questions"][bar.name]["nll"].value)
    assert np.isfinite(metrics["overall"]["nll"].value)
    text = json.dumps(as_json(metrics), allow_nan=False)
    assert json.loads(text)["questions"][bar.name]["mae"] == {"value": None, "error": None}


# Standard errors


def test_standard_error_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2500)
    found = estimates(lambda w: {"mean": sums({"x": values}, w)["x"] / w.sum(1)}, 2500, replicates=1000)["mean"]
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std() / 50, rel=0.1)


def test_standard_error_knows_that_questions_of_a_galaxy_go_together() -> None:
    """The same votes on each of ten questions are no more galaxies than one."""
    alpha, votes = simulate(600, 10, 40)
    two = [q for q in TREE.questions if len(q.answers) == 2]
    once = np.zeros_like(votes)
    once[:, two[0].start : two[0].stop] = votes[:, two[0].start : two[0].stop]
    twice = once.copy()
    twice[:, two[1].start : two[1].stop] = once[:, two[0].start : two[0].stop]
    alpha[:, two[1].start : two[1].stop] = alpha[:, two[0].start : two[0].stop]
    one, both = (evaluate_votes(alpha, v, TREE)["overall"]["mae"] for v in (once, twice))
    assert both.value == pytest.approx(one.value)
    assert both.error == pytest.approx(one.error)


# Ranks


@pytest.mark.parametrize("decimals", [1, 9])
def test_ranks_of_galaxies_that_count_again(decimals: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.random(60).round(decimals)
    y = (x + rng.normal(0, 0.5, 60)).round(decimals)
    positive = rng.random(60) < x
    weights = rng.poisson(1.0, (5, 60)).astype(float)
    for row, area, correlation in zip(
        weights, area_under_roc(y, positive, weights), spearman(x, y, weights), strict=True
    ):
        again = np.repeat(np.arange(60), row.astype(int))
        assert area == pytest.approx(binary_scores(y[again], positive[again].astype(int))["auc"])
        assert correlation == pytest.approx(stats.spearmanr(x[again], y[again]).statistic)


def test_ranks_of_one_class_or_one_value_say_nothing() -> None:
    weights = np.ones((1, 4))
    assert np.isnan(area_under_roc(np.arange(4), np.ones(4, bool), weights)[0])
    assert np.isnan(spearman(np.ones(4), np.arange(4), weights)[0])


# Classes


def classes(num: int = 4000, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([1, 1, 0.3], num)
    return p, (p.cumsum(1) > rng.random((num, 1))).argmax(1)


def test_classes_by_hand() -> None:
    p = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    truth = np.array([0, 1, 1, 0])
    scores = evaluate_classes(p, truth, ("E", "S"))
    overall = {name: getattr(value, "value", value) for name, value in scores["overall"].items()}
    assert (overall["accuracy"], overall["balanced_accuracy"], overall["auc_mean"]) == (0.75, 0.75, 1.0)
    assert overall["log_loss"] == pytest.approx(-np.log([0.7, 0.4, 0.8, 0.9]).mean())
    assert overall["brier"] == pytest.approx(2 * np.mean(np.square([0.3, 0.6, 0.2, 0.1])))
    np.testing.assert_array_equal(scores["confusion"], [[2, 0], [1, 1]])
    assert scores["classes"]["E"]["precision"].value == pytest.approx(2 / 3)
    assert scores["classes"]["S"]["recall"].value == 0.5
    assert (overall["accuracy_constant"], overall["log_loss_constant"]) == (0.5, pytest.approx(np.log(2)))


def test_right_probabilities_are_calibrated_and_sharpened_ones_are_not() -> None:
    p, truth = classes()
    right = evaluate_classes(p, truth, "abc")["overall"]
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    wrong = evaluate_classes(sharp, truth, "abc")["overall"]
    assert right["calibration_error"].value < 1.7 * right["calibration_error_if_perfect"]
    assert wrong["calibration_error"].value > 5 * wrong["calibration_error_if_perfect"]
    assert wrong["accuracy"] == right["accuracy"]
    assert wrong["log_loss"].value > right["log_loss"].value + 5 * right["log_loss"].error
    assert right["accuracy"].error == pytest.approx(np.sqrt(0.25 / len(p)), rel=0.2)
    assert is_near(right["accuracy"], p.max(1).mean())


def test_a_class_that_never_came_does_not_spoil_the_means() -> None:
    p, _ = classes(50)
    scores = evaluate_classes(p, p[:, :2].argmax(1), "abc")
    assert scores["classes"]["c"]["galaxies"] == 0
    assert np.isnan(scores["classes"]["c"]["recall"].value)
    assert np.isfinite(scores["overall"]["balanced_accuracy"].value)
    json.dumps(as_json(scores), allow_nan=False)


def test_a_sure_mistake_costs_much_but_not_everything() -> None:
    scores = evaluate_classes(np.array([[1.0, 0.0]]), [1], "ab")
    assert 10 < scores["overall"]["log_loss"].value < 20


# Regression


def test_regression_leaves_out_what_is_not_known() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(10, 2, (300, 2))
    predicted = truth + rng.normal(0.5, 1, (300, 2))
    truth[:100, 1] = np.nan
    scores = evaluate_regression(predicted, truth, ("P_EL", "P_CW"))
    known, best = truth[100:, 1], predicted[100:, 1]
    target = scores["targets"]["P_CW"]
    assert target["galaxies"] == 200
    assert target["mae"].value == pytest.approx(np.abs(best - known).mean())
    assert target["rmse"].value == pytest.approx(np.sqrt(np.square(best - known).mean()))
    assert target["bias"].value == pytest.approx((best - known).mean())
    assert is_near(target["bias"], 0.5)
    assert target["r2"].value == pytest.approx(
        1 - np.square(best - known).sum() / np.square(known - known.mean()).sum()
    )
    assert target["spearman"].value == pytest.approx(stats.spearmanr(best, known).statistic)
    assert target["bias"].error == pytest.approx((best - known).std() / np.sqrt(200), rel=0.2)
    mean = (scores["targets"]["P_EL"]["r2"].value + target["r2"].value) / 2
    assert scores["overall"]["r2"].value == pytest.approx(mean)


def test_regression_target_without_any_truth() -> None:
    truth = np.array([[1.0, np.nan], [2.0, np.nan]])
    scores = evaluate_regression(truth * 0 + 1, truth, ("a", "b"))
    assert scores["targets"]["b"]["galaxies"] == 0
    json.dumps(as_json(scores), allow_nan=False)
