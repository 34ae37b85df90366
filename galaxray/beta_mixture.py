"""Quantiles of equal-weight mixtures of Beta distributions, for whole arrays at once.

They are the error bars of every prediction, so they are to be right and quick: scipy has neither the quantile of a
mixture nor, for arrays this large, a fast enough incomplete beta function.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["beta_cdf", "quantile"]

Float64s = npt.NDArray[np.float64]

MAX_STEPS = 100
TOLERANCE = 1e-7
LARGEST_LOGIT = 500.0


def quantile(a: Float64s, b: Float64s, log_beta: Float64s, tail: float) -> Float64s:
    """Solve mean_j BetaCDF(x; a_j, b_j) = tail for x.

    Parameters
    ----------
    a, b, log_beta : ndarray of float64, shape (D, M)
        Parameters of M mixtures of D Beta distributions, and the logarithm of their Beta functions.
    tail : float
        Probability below x.

    Returns
    -------
    ndarray of float64, shape (M,)
        Within 1e-6 for concentrations such as Zoobot's (1 to 101), 1e-5 for any.

    Notes
    -----
    Halley's method on the logarithm of the mixture's CDF as a function of u = logit(x), where it is nearly concave:
    one step from a good start is enough for most. A step that leads out of the bracket is replaced by bisection.
    """
    u, low, high = _start(a, b, tail)
    solution, active = np.empty_like(u), np.arange(u.size)
    for _ in range(MAX_STEPS):
        x, y = special.expit(u), special.expit(-u)
        # dF/du of each component; its own derivative is density * (a y - b x)
        density = np.exp(a * np.log(x) + b * np.log(y) - log_beta)
        cdf = np.maximum(beta_cdf(a, b, x, y, density).mean(0), 1e-300)
        excess = np.log(cdf / tail)
        slope = np.maximum(density.mean(0) / cdf, 1e-100)
        curvature = (density * (a * y - b * x)).mean(0) / cdf - slope**2
        low, high = np.where(excess < 0, u, low), np.where(excess < 0, high, u)
        newton = -excess / slope
        bend = curvature / slope
        damping = 1 + 0.5 * newton * bend
        halley = newton / np.clip(damping, 0.5, 3)
        # where damping is strong the CDF is nearly flat, between passes that disagree or beyond all of them
        trusted = (u + halley > low) & (u + halley < high) & (damping < 3)
        u = np.where(trusted, u + halley, 0.5 * (low + high))
        # what a step of Halley's leaves is of the order of its cube; bisection is done when the bracket is closed
        done = trusted & (np.abs(newton) < np.minimum(0.3, np.cbrt(TOLERANCE / (x * y * (1 + bend**2)))))
        done |= special.expit(high) - special.expit(low) < TOLERANCE
        solution[active[done]] = u[done]
        if done.all():
            break
        left = ~done
        active, u, low, high = active[left], u[left], low[left], high[left]
        a, b, log_beta = a[:, left], b[:, left], log_beta[:, left]
    else:
        solution[active] = u
    return np.asarray(special.expit(solution))


def _start(a: Float64s, b: Float64s, tail: float) -> tuple[Float64s, Float64s, Float64s]:
    """Guess the quantile of logit(x), and bracket it.

    The guess is that of the one Beta distribution with the mixture's mean and variance, by the Cornish-Fisher
    expansion to the third cumulant; the cumulants of logit(x) are differences of polygamma functions, taken here from
    their asymptotic series. The bracket is Cantelli's inequality, which holds for any distribution.
    """
    total = a + b
    means = a / total
    mean = means.mean(0)
    variance = (means * (1 - means) / (total + 1)).mean(0) + means.var(0)
    concentration = mean * (1 - mean) / variance - 1
    matched = np.maximum(np.stack([mean, 1 - mean]) * concentration, 0.5)
    inverse = 1 / matched
    first = np.log(matched) - inverse * (0.5 + inverse / 12)
    second = inverse * (1 + inverse * (0.5 + inverse / 6))
    third = -(inverse**2) * (1 + inverse * (1 + inverse * 0.5))
    sigma = np.sqrt(second[0] + second[1])
    z = special.ndtri(tail)
    guess = first[0] - first[1] + sigma * z + (third[0] - third[1]) / sigma**2 * (z**2 - 1) / 6
    odds = math.sqrt(tail / (1 - tail))
    low = np.maximum(special.logit(np.maximum(mean - np.sqrt(variance) / odds, 0)), -LARGEST_LOGIT)
    high = np.minimum(special.logit(np.minimum(mean + np.sqrt(variance) * odds, 1)), LARGEST_LOGIT)
    return np.clip(guess, low, high), low, high


def beta_cdf(a: Float64s, b: Float64s, x: Float64s, y: Float64s, density: Float64s) -> Float64s:
    """Regularised incomplete beta function by its continued fraction (NIST DLMF 8.17.22), from the last term backwards.

    As good as `scipy.special.betainc` for our purpose (1e-6), in a quarter of its time, since it works on whole arrays.

    Parameters
    ----------
    a, b : ndarray, shape (D, M)
    x, y : ndarray, shape (M,)
        Where, and 1 - x.
    density : ndarray, shape (D, M)
        x**a * y**b / B(a, b).
    """
    total = a + b
    swap = x * (total + 2) > a + 1  # beyond the mean it converges faster for 1 - I_y(b, a)
    a, b, x = np.where(swap, b, a), np.where(swap, a, b), np.where(swap, y, x)
    num_terms = math.ceil(2 + 2.2 * float(total.max()) ** (1 / 3))  # measured, for 1e-6
    tail = np.ones_like(a)
    for m in range(num_terms, 0, -1):
        odd = (a + m) * (total + m) * x
        c = a + 2 * m
        above = (c + 1) * tail
        tail = 1 + m * (b - m) * x * above / ((c - 1) * (c * above - odd))
    cdf = density / (a - a * total * x / ((a + 1) * tail))
    return np.where(swap, 1 - cdf, cdf)
