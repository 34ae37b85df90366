"""What the models are trained to minimise; the VAE brings its own (`galaxray.models.vae.VAE.loss`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dirichlet_multinomial_loss", "mask_loss", "saturation_loss", "vote_cross_entropy"]


def dirichlet_multinomial_loss(concentrations: Tensor, votes: Tensor, groups: Sequence[slice]) -> Tensor:
    """Negative log-likelihood of volunteers' votes, summed over the questions of a decision tree.

    For a question with concentrations a_i (their sum A), k_i votes and N voters (Walmsley et al. 2022, eq. 3)::

        ln p = lnG(N+1) + lnG(A) - lnG(N+A) + sum_i [ lnG(k_i+a_i) - lnG(a_i) - lnG(k_i+1) ]

    Parameters
    ----------
    concentrations, votes : Tensor, (N, answers)
        Concentrations (> 0) and counts. A question without votes adds exactly 0 and no gradient.
    groups : sequence of slice
        The answers of each question.

    Returns
    -------
    Tensor, (N,)
    """
    alpha, counts = concentrations.float(), votes.float()
    by_answer = torch.lgamma(counts + alpha) - torch.lgamma(alpha) - torch.lgamma(counts + 1)
    alpha_sum = torch.stack([alpha[:, group].sum(1) for group in groups], dim=1)
    voters = torch.stack([counts[:, group].sum(1) for group in groups], dim=1)
    answers = torch.stack([by_answer[:, group].sum(1) for group in groups], dim=1)
    log_probability = torch.lgamma(voters + 1) + torch.lgamma(alpha_sum) - torch.lgamma(voters + alpha_sum) + answers
    # Rounding of lgamma leaves +-1e-5 where nobody voted.
    return -torch.where(voters > 0, log_probability, torch.zeros_like(log_probability)).sum(1)


def vote_cross_entropy(concentrations: Tensor, votes: Tensor, groups: Sequence[slice]) -> Tensor:
    """Cross-entropy of votes with the expected fractions: mean over all votes on a question, summed over questions.

    Every question counts the same, however few galaxies and volunteers come to it: those far down a decision tree
    would be learned last, if at all.

    Parameters
    ----------
    concentrations, votes : Tensor, (N, answers)
        Concentrations (> 0) and counts.
    groups : sequence of slice
        The answers of each question; without votes in the batch it adds 0.

    Returns
    -------
    Tensor, ()
        For the whole batch: unlike the other losses it has no meaning for one galaxy.
    """
    alpha, counts = concentrations.float(), votes.float()
    log_alpha = torch.log(alpha)
    questions = []
    for group in groups:
        surprise = alpha[:, group].sum(1, keepdim=True).log() - log_alpha[:, group]
        questions.append((counts[:, group] * surprise).sum() / counts[:, group].sum().clamp(min=1))
    return torch.stack(questions).sum()


def saturation_loss(logits: Tensor, limit: float = 5.0) -> Tensor:
    """Square of what logits exceed a limit by, summed over answers: 0 where a sigmoid still passes gradients on.

    Parameters
    ----------
    logits : Tensor, (N, answers)
    limit : float
        At -5 the concentration 100 sigmoid + 1 is 1.7, close to the least.

    Returns
    -------
    Tensor, (N,)
    """
    return functional.relu(logits.float().abs() - limit).square().sum(1)


def mask_loss(logits: Tensor, fractions: Tensor) -> Tensor:
    """Cross-entropy with the fraction of volunteers who marked each pixel, plus a soft Dice term.

    A galaxy without marks is evidence of absence: its target is zero everywhere, and its Dice term is left out
    (it would reward nothing but a mask of exact zeros). Cross-entropy alone calibrates; Dice keeps arms, which
    cover few pixels, from being drowned by the sky.

    Parameters
    ----------
    logits, fractions : Tensor, (N, C, H, W)
        ``sigmoid(logits)`` is the predicted fraction; targets are in [0, 1].

    Returns
    -------
    Tensor, (N,)
    """
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, fractions, reduction="none").mean(dim=(1, 2, 3))
    predicted = logits.sigmoid()
    overlap = 2 * (predicted * fractions).sum(dim=(2, 3))
    total = predicted.square().sum(dim=(2, 3)) + fractions.square().sum(dim=(2, 3))
    marked = (fractions.amax(dim=(2, 3)) > 0).float()
    dice = (marked * (1 - overlap / total.clamp(min=1e-6))).sum(1)
    return entropy + 0.1 * dice
