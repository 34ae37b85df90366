"""Losses agree with their formulas, and with what is used elsewhere in galaxray."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from galaxray import posterior
from galaxray.training.losses import (
    dirichlet_multinomial_loss,
    mask_loss,
    saturation_loss,
    vote_cross_entropy,
)
from galaxray.trees import load_tree

TREE = load_tree("gz_decals_5")
GROUPS = [slice(q.start, q.stop) for q in TREE.questions]


def test_dirichlet_multinomial_loss_is_minus_the_log_likelihood_summed_over_questions() -> None:
    rng = np.random.default_rng(0)
    alpha = rng.uniform(1, 101, (20, len(TREE))).astype(np.float32)
    votes = rng.integers(0, 20, (20, len(TREE)))
    loss = dirichlet_multinomial_loss(torch.from_numpy(alpha), torch.from_numpy(votes), GROUPS)
    expected = -posterior.log_likelihood(votes, alpha[:, :, None], TREE).sum(axis=1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=2e-4)


def test_loss_of_two_answers_by_hand() -> None:
    # alpha (1, 1) makes every count from 0 to N as likely: p = 1 / (N + 1)
    loss = dirichlet_multinomial_loss(torch.ones(1, 2), torch.tensor([[3, 4]]), [slice(0, 2)])
    assert float(loss) == pytest.approx(np.log(8), abs=1e-5)


def test_a_question_without_votes_adds_nothing() -> None:
    alpha = torch.full((2, 4), 7.0, requires_grad=True)
    votes = torch.tensor([[3.0, 4.0, 0.0, 0.0]] * 2)
    loss = dirichlet_multinomial_loss(alpha, votes, [slice(0, 2), slice(2, 4)])
    loss.sum().backward()
    assert alpha.grad is not None
    assert bool((alpha.grad[:, 2:] == 0).all())
    assert bool((alpha.grad[:, :2] != 0).any())
    only_first = dirichlet_multinomial_loss(alpha[:, :2], votes[:, :2], [slice(0, 2)])
    torch.testing.assert_close(loss, only_first)


def test_mask_loss_is_least_at_the_target() -> None:
    torch.manual_seed(0)
    target = (torch.rand(2, 2, 16, 16) > 0.7).float()
    right, wrong = 12 * (2 * target - 1), 12 * (1 - 2 * target)
    assert bool((mask_loss(right, target) < 0.01).all())
    assert bool((mask_loss(wrong, target) > 1).all())


def test_a_galaxy_without_marks_is_evidence_of_absence() -> None:
    empty = torch.zeros(1, 2, 8, 8)
    nothing, everything = torch.full_like(empty, -8.0), torch.full_like(empty, 8.0)
    assert float(mask_loss(nothing, empty)) < 0.01
    assert float(mask_loss(everything, empty)) > 5


def test_vote_cross_entropy_by_hand() -> None:
    alpha = torch.tensor([[1.0, 3.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]])
    votes = torch.tensor([[10, 30, 0, 0], [5, 5, 0, 0]])
    loss = vote_cross_entropy(alpha, votes, [slice(0, 2), slice(2, 4)])
    assert float(loss) == pytest.approx(-(10 * np.log(0.25) + 30 * np.log(0.75) + 10 * np.log(0.5)) / 50)


def test_in_vote_cross_entropy_a_rarely_asked_question_counts_as_much() -> None:
    alpha = torch.tensor([[1.0, 3.0, 1.0, 3.0]])
    groups = [slice(0, 2), slice(2, 4)]
    often = vote_cross_entropy(alpha, torch.tensor([[40, 0, 2, 0]]), groups)
    assert float(often) == pytest.approx(2 * np.log(4))


def test_saturation_loss_pulls_logits_back_from_where_a_sigmoid_is_flat() -> None:
    logits = torch.tensor([[-9.0, 0.0, 4.9], [7.0, -5.0, 5.0]], requires_grad=True)
    loss = saturation_loss(logits)
    torch.testing.assert_close(loss, torch.tensor([16.0, 4.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-8.0, 0.0, 0.0], [4.0, 0.0, 0.0]]))
