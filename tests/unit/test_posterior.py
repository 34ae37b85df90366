"""Fractions, intervals of the true mixture, and likelihoods: against zoobot, pyro, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats
from zoobot.shared import schemas
from zoobot.shared import stats as zoobot_stats

from galaxray.beta_mixture import beta_cdf
from galaxray.posterior import columns, fractions, intervals, log_likelihood, vote_intervals
from galaxray.trees import DecisionTree, load_tree

DECALS = load_tree("gz_decals_5")
RINGS = load_tree("gz_rings")


def random_concentrations(tree, rows, distributions, spread=0.5, seed=0):
    """Like a trained model's: mostly confident, passes that differ by `spread` before the sigmoid."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(-2.0, 1.5, (rows, len(tree), 1))
    return 1 + 100 * special.expit(centre + spread * rng.normal(size=(rows, len(tree), distributions)))


def binary(*pairs):
    """Concentrations of one galaxy for a yes/no question, one pair per pass."""
    return np.array(pairs, float).T[None]


@pytest.mark.parametrize("schema", ["decals_dr5_ortho_schema", "gz2_ortho_schema", "gz_candels_ortho_schema"])
def test_fractions_are_zoobots(schema):
    schema = getattr(schemas, schema)
    tree = DecisionTree.from_dict(vars(schema))
    alpha = random_concentrations(tree, 20, 3)
    theirs = zoobot_stats.expected_value_of_dirichlet_mixture(alpha, schema)
    np.testing.assert_allclose(fractions(alpha, tree), theirs, rtol=1e-12)


def test_one_distribution_has_zoobots_interval():
    alpha = random_concentrations(DECALS, 20, 1)
    lower, upper = intervals(alpha, DECALS)
    their_lower, their_upper = zoobot_stats.get_confidence_intervals(alpha, schemas.decals_dr5_ortho_schema)
    np.testing.assert_allclose(lower, their_lower, atol=1e-6)
    np.testing.assert_allclose(upper, their_upper, atol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.998])
def test_edges_solve_the_mixture(spread, level):
    alpha = random_concentrations(DECALS, 8, 5, spread)
    lower, upper = intervals(alpha, DECALS, level)
    for question in DECALS.questions:
        total = alpha[:, question.start : question.stop].sum(1)
        for column in range(question.start, question.stop):
            a, b = alpha[:, column], total - alpha[:, column]
            for row in range(len(alpha)):
                for edge, target in ((lower, (1 - level) / 2), (upper, (1 + level) / 2)):
                    exact = optimize.brentq(
                        lambda x, r=row, t=target, a=a, b=b: special.betainc(a[r], b[r], x).mean() - t, 0, 1, xtol=1e-10
                    )
                    assert edge[row, column] == pytest.approx(exact, abs=1e-5)


def test_edges_where_passes_leave_a_gap():
    """Half the passes say 2 %, half 98 %: the mixture's CDF is flat in between, where Newton's method is lost."""
    for level in (0.2, 0.9):
        lower, upper = intervals(binary((2, 98), (98, 2)), RINGS, level)
        for edge, target in ((lower[0, 0], (1 - level) / 2), (upper[0, 0], (1 + level) / 2)):
            assert special.betainc([2, 98], [98, 2], edge).mean() == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("distributions", [2, 5, 20])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.99])
def test_edges_of_wild_mixtures(distributions, level):
    """Concentrations of 0.2 to 2000 that have nothing to do with each other: narrow peaks, gaps and long tails."""
    rng = np.random.default_rng(0)
    alpha = np.exp(rng.uniform(np.log(0.2), np.log(2000), (500, 2, distributions)))
    for edge, target in zip(intervals(alpha, RINGS, level), ((1 - level) / 2, (1 + level) / 2), strict=True):
        below, above = (
            special.betainc(alpha[:, 0], alpha[:, 1], np.clip(edge[:, :1] + side, 0, 1)).mean(1)
            for side in (-1e-5, 1e-5)
        )
        assert (below <= target + 1e-6).all()
        assert (above >= target - 1e-6).all()


@pytest.mark.parametrize("pair", [(1, 1), (1, 101), (0.05, 3), (0.01, 0.01), (505, 1), (1e4, 2e4)])
def test_extreme_concentrations(pair):
    lower, upper = intervals(binary(pair), RINGS)
    np.testing.assert_allclose(lower[0], special.betaincinv(pair, pair[::-1], 0.05), atol=1e-6)
    np.testing.assert_allclose(upper[0], special.betaincinv(pair, pair[::-1], 0.95), atol=1e-6)


def test_beta_cdf_is_scipys():
    rng = np.random.default_rng(0)
    for largest in (2, 10, 101, 505, 5000):
        a, b = rng.uniform(0.5, largest, (2, 3, 2000))
        x = np.clip(rng.beta(a[0], b[0]), 1e-12, 1 - 1e-12)
        density = np.exp(a * np.log(x) + b * np.log1p(-x) - special.betaln(a, b))
        np.testing.assert_allclose(beta_cdf(a, b, x, 1 - x, density), special.betainc(a, b, x), atol=2e-6)


def coverage(alpha, lower, upper, rng, draws=400):
    """Share of probabilities, drawn from the mixture for a yes/no question, that the interval holds."""
    rows, _, distributions = alpha.shape
    which = rng.integers(distributions, size=(draws, rows))
    row = np.arange(rows)
    p = rng.beta(alpha[row, 0, which], alpha[row, 1, which])
    return ((p >= lower[:, 0]) & (p <= upper[:, 0])).mean()


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_coverage_is_nominal(spread):
    alpha = random_concentrations(RINGS, 300, 5, spread)
    for level in (0.68, 0.9):
        held = coverage(alpha, *intervals(alpha, RINGS, level), np.random.default_rng(1))
        assert held == pytest.approx(level, abs=0.005)


def test_zoobots_rule_undercovers_where_passes_disagree():
    """The median of five passes' edges is the middle pass's interval; the mixture is far wider."""
    alpha = binary((5, 25), (10, 20), (15, 15), (20, 10), (25, 5))
    rng = np.random.default_rng(0)
    theirs = zoobot_stats.get_confidence_intervals(alpha, schemas.gz_rings_schema)
    assert coverage(alpha, *theirs, rng, 100_000) == pytest.approx(0.34, abs=0.01)
    assert coverage(alpha, *intervals(alpha, RINGS), rng, 100_000) == pytest.approx(0.9, abs=0.005)


def test_two_answers_mirror_each_other_and_three_do_not_disturb():
    alpha = random_concentrations(DECALS, 30, 4)
    lower, upper = intervals(alpha, DECALS)
    edge_on = DECALS.question("disk-edge-on")
    np.testing.assert_allclose(lower[:, edge_on.start], 1 - upper[:, edge_on.start + 1], atol=1e-12)
    assert (lower < upper).all()
    assert (lower > 0).all()
    assert (upper < 1).all()


def test_result_does_not_depend_on_the_batch():
    alpha = random_concentrations(DECALS, 2000, 5)
    lower, upper = intervals(alpha, DECALS)
    alone_lower, alone_upper = intervals(alpha[1234:1235], DECALS)
    np.testing.assert_allclose(lower[1234], alone_lower[0], atol=2e-6)
    np.testing.assert_allclose(upper[1234], alone_upper[0], atol=2e-6)


def test_columns_are_the_tables():
    alpha = random_concentrations(DECALS, 6, 3).astype(np.float32)
    table = columns(alpha, DECALS)
    assert list(table)[:4] == [
        "smooth-or-featured-dr5_smooth_fraction",
        "smooth-or-featured-dr5_smooth_90pc-lower",
        "smooth-or-featured-dr5_smooth_90pc-upper",
        "smooth-or-featured-dr5_featured-or-disk_fraction",
    ]
    assert len(table) == 3 * 34 + 10
    assert {column.dtype for column in table.values()} == {np.dtype(np.float32)}
    fraction = fractions(alpha, DECALS)
    asked = fraction[:, DECALS.column("smooth-or-featured-dr5_featured-or-disk")]
    np.testing.assert_allclose(table["disk-edge-on-dr5_proportion-asked"], asked, rtol=1e-6)
    np.testing.assert_array_equal(table["smooth-or-featured-dr5_proportion-asked"], 1)
    assert "bar-dr5_weak_68.3pc-upper" in columns(alpha, DECALS, level=0.683)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_rows_without_a_prediction_are_nan_throughout(bad):
    alpha = random_concentrations(DECALS, 3, 2)
    alpha[1, 20, 1] = bad
    before = alpha.copy()
    for column in columns(alpha, DECALS).values():
        np.testing.assert_array_equal(np.isnan(column), [False, True, False])
    np.testing.assert_array_equal(alpha, before)


def test_no_rows():
    assert all(column.shape == (0,) for column in columns(np.empty((0, 34, 2)), DECALS).values())


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"shape \(N, 34, D\), not \(5, 30, 1\)"):
        fractions(np.ones((5, 30, 1)), DECALS)
    with pytest.raises(ValueError, match="between 0 and 1"):
        intervals(np.ones((5, 34, 1)), DECALS, level=90)


def random_votes(tree, rows, seed=0):
    return np.random.default_rng(seed).integers(0, 12, (rows, len(tree)))


def test_log_likelihood_is_zoobots_loss():
    import torch
    from zoobot.pytorch.training.losses import get_dirichlet_neg_log_prob

    alpha, votes = random_concentrations(DECALS, 10, 1), random_votes(DECALS, 10)
    ours = -log_likelihood(votes, alpha, DECALS)
    for question, loss in zip(DECALS.questions, ours.T, strict=True):
        span = slice(question.start, question.stop)
        theirs = get_dirichlet_neg_log_prob(torch.as_tensor(alpha[:, span, 0]), torch.as_tensor(votes[:, span]))
        np.testing.assert_allclose(loss, theirs.numpy(), rtol=1e-6)


def test_log_likelihood_of_mixture_sums_to_one():
    alpha = np.repeat(random_concentrations(RINGS, 1, 4, spread=2), 8, axis=0)
    votes = np.stack([np.arange(8), 7 - np.arange(8)], axis=1)
    assert np.exp(log_likelihood(votes, alpha, RINGS)).sum() == pytest.approx(1)
    assert log_likelihood([[0, 0]], alpha[:1], RINGS) == pytest.approx(0)


def test_vote_intervals_are_scipys():
    alpha = random_concentrations(RINGS, 5, 1)
    num = np.array([1, 5, 40, 5, 0])[:, None]
    lower, upper = vote_intervals(num, alpha, RINGS)
    for row in range(4):
        n, a, b = num[row, 0], *alpha[row, :, 0]
        assert lower[row, 0] == pytest.approx(stats.betabinom.ppf(0.05, n, a, b) / n)
        assert upper[row, 0] == pytest.approx(stats.betabinom.ppf(0.95, n, a, b) / n)
    assert np.isnan([lower[4], upper[4]]).all()


def test_vote_intervals_hold_observed_fractions_that_intervals_do_not():
    rng = np.random.default_rng(0)
    rows, n = 4000, 10
    alpha = 5 * random_concentrations(RINGS, rows, 3)
    which, row = rng.integers(3, size=rows), np.arange(rows)
    observed = rng.binomial(n, rng.beta(alpha[row, 0, which], alpha[row, 1, which])) / n

    def held(edges):
        return ((observed >= edges[0][:, 0]) & (observed <= edges[1][:, 0])).mean()

    assert held(vote_intervals(np.full((rows, 1), n), alpha, RINGS)) > 0.895
    assert held(intervals(alpha, RINGS)) < 0.75
